"""One daemon thread and its queue of jobs.

Python waits at exit for the threads of a pool, even for one stuck in the kernel.
"""

from collections.abc import Callable
from concurrent.futures import Future
from heapq import heapify
from itertools import count
from queue import PriorityQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")

_MAX_QUEUED = 200  # more than the limits on requests allow to wait


class Worker:
    """Runs jobs one at a time, those of the highest urgency first."""

    def __init__(self, name: str) -> None:
        self._jobs: PriorityQueue[tuple[int, int, Future[Any], Callable[[], Any]]] = PriorityQueue()
        self._number = count()
        Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, job: Callable[[], _T], *, urgency: int = 0) -> "Future[_T]":
        """The future of `job`'s result or exception. A job that is cancelled before its turn does not run."""
        future: Future[_T] = Future()
        if self._jobs.qsize() > _MAX_QUEUED:
            self._drop_cancelled()
        self._jobs.put((-urgency, next(self._number), future, job))
        return future

    def _drop_cancelled(self) -> None:
        # While a job hangs in the kernel, the jobs of clients that timed out must not accumulate.
        with self._jobs.mutex:
            self._jobs.queue[:] = [job for job in self._jobs.queue if not job[2].cancelled()]
            heapify(self._jobs.queue)

    def _run(self) -> None:
        while True:
            _, _, future, job = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue  # cancelled while it waited
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001  handed to the waiting request
                future.set_exception(error)
            del future, job  # the last result must not live until the next job
