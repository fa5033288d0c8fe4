"""One daemon thread and its queue of jobs.

A pool's threads would be waited for at exit, even one stuck in the kernel. Knows nothing of what the jobs do.
"""

from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from queue import PriorityQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")


class Worker:
    """Runs jobs one after the other, the urgent ones first."""

    def __init__(self, name: str) -> None:
        self._jobs: PriorityQueue[tuple[bool, int, Future[Any], Callable[[], Any]]] = PriorityQueue()
        self._number = count()
        Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, job: Callable[[], _T], *, urgent: bool = False) -> "Future[_T]":
        """The future of `job`'s result or exception. A job that is cancelled before its turn does not run."""
        future: Future[_T] = Future()
        self._jobs.put((not urgent, next(self._number), future, job))
        return future

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
