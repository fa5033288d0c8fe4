"""The one thread of a queue: the most urgent first, and what was cancelled does not pile up while a job hangs."""

import threading

import pytest

from exporter.web.worker import Worker


@pytest.fixture
def busy():
    """A worker whose thread waits in its first job, and the event that ends that job."""
    worker, started, end = Worker("test"), threading.Event(), threading.Event()
    first = worker.submit(lambda: (started.set(), end.wait(10)))
    assert started.wait(10)
    yield worker, end
    end.set()
    first.result(10)


def test_the_most_urgent_job_is_next_and_equals_keep_their_order(busy):
    worker, end = busy
    order = []
    jobs = [
        worker.submit(lambda name=name: order.append(name), urgency=urgency)
        for name, urgency in (("page", 0), ("scrape", 1), ("page 2", 0), ("known", 2), ("scrape 2", 1))
    ]
    end.set()
    for job in jobs:
        job.result(10)
    assert ["known", "scrape", "scrape 2", "page", "page 2"] == order


def test_cancelled_jobs_are_forgotten_while_another_hangs(busy):
    worker, end = busy
    for _ in range(2000):
        worker.submit(lambda: None).cancel()
    assert worker._jobs.qsize() <= 202
    kept = worker.submit(lambda: "kept")
    end.set()
    assert "kept" == kept.result(10)
