"""Checks credentials one at a time, which bounds the cost of unauthenticated clients.

bcrypt takes 0.1 s of CPU, a token a request to the API server; this module knows neither.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from functools import cached_property
from typing import TypeVar

from exporter.errors import ExporterError
from exporter.web.worker import Worker

_T = TypeVar("_T")

_MAX_WAITING = 32
_MAX_WAITING_EACH = 4
_MIN_PAUSE, _MAX_PAUSE = 0.1, 5.0
_PAUSE_FACTOR = 9  # times the CPU time of the check: wrong credentials cost at most a tenth of one CPU


class AuthQueueFull(ExporterError):
    """Credentials cannot be checked now: too many requests wait, from this address or in total, or no thread starts.

    The message is one sentence.
    """


class Urgency(IntEnum):
    """Whose credentials are checked first: the higher."""

    MORE = 0  # a further one of an address
    FIRST = 1  # the only one of its address
    KNOWN = 2  # credentials that were valid before


class AuthQueue:
    """One thread for checks, with a pause after wrong credentials. Credentials that were valid before have priority,
    then the first request of an address.
    """

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()
        self._next_check = time.monotonic()

    @cached_property
    def _worker(self) -> Worker:
        return Worker("credentials")  # no thread without credentials

    async def check(self, client: str, job: Callable[[], _T], *, known: bool = False) -> _T:
        """The result of `job` in the other thread, a false value for wrong credentials.

        Raises `AuthQueueFull`, and what `job` raises.
        """
        try:
            worker = self._worker  # before the client is counted as waiting
        except RuntimeError as error:  # no thread can be started
            raise AuthQueueFull(
                "no thread could be started to check credentials: raise the limit of processes"
            ) from error
        urgency = self._urgency(client, known=known)
        is_full = self._waiting[client] >= _MAX_WAITING_EACH or self._waiting.total() >= _MAX_WAITING
        if is_full and urgency is Urgency.MORE:
            raise AuthQueueFull("too many authentication requests are waiting; try again")
        self._waiting[client] += 1
        check = asyncio.wrap_future(worker.submit(lambda: self._throttled(job), urgency=urgency))
        check.add_done_callback(lambda done: self._leave(client, done))
        # A disconnected client stays in the queue: else it could fill it by reconnecting.
        return await asyncio.shield(check)

    def _urgency(self, client: str, *, known: bool) -> Urgency:
        if known:
            return Urgency.KNOWN
        # The first check of an address is always admitted: a renewed token is unknown too.
        return Urgency.MORE if self._waiting[client] else Urgency.FIRST

    def _leave(self, client: str, done: "asyncio.Future[_T]") -> None:
        self._waiting -= Counter({client: 1})
        if not done.cancelled():
            done.exception()  # the client may have disconnected

    def _throttled(self, job: Callable[[], _T]) -> _T:
        time.sleep(max(0.0, self._next_check - time.monotonic()))
        start = time.thread_time()  # waiting for an API server costs no CPU
        right = False
        try:
            result = job()
            right = bool(result)
        finally:
            if not right:
                pause = min(max(_MIN_PAUSE, _PAUSE_FACTOR * (time.thread_time() - start)), _MAX_PAUSE)
                self._next_check = time.monotonic() + pause
        return result
