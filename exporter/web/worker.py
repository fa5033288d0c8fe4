"""One daemon thread and its queue of jobs.

A pool's threads would be waited for at exit, even one stuck in the kernel. Knows nothing of what the jobs do.
"""

from collections.abc import Callable
from concurrent.futures import Future
from heapq import heapify
from itertools import count
from queue import PriorityQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")

_MANY = 200  # more than ever wait at once with the limits that there are


class Worker:
    """Runs jobs one after the other, the most urgent first."""

    def __init__(self, name: str) -> None:
        self._jobs: PriorityQueue[tuple[int, int, Future[Any], Callable[[], Any]]] = PriorityQueue()
        self._number = count()
        Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, job: Callable[[], _T], *, urgency: int = 0) -> "Future[_T]":
        """The future of `job`'s result or exception. A job that is cancelled before its turn does not run."""
        future: Future[_T] = Future()
        if self._jobs.qsize() > _MANY:
            self._forget_cancelled()
        self._jobs.put((-urgency, next(self._number), future, job))
        return future

    def _forget_cancelled(self) -> None:
        # While a job hangs in the kernel, clients come, run out of time and go: what they wanted must not pile up.
        with self._jobs.mutex:
            self._jobs.queue[:] = [job for job in self._jobs.queue if not job[2].cancelled()]
            heapify(self._jobs.queue)

    def _run(self) -> None:
        while True:
            _, _, future, job = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue  # its client went away while it waited
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001  handed to the waiting request
                future.set_exception(error)
            del future, job  # the last result must not live until the next job
