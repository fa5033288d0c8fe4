"""Checks of credentials one at a time: what unauthenticated clients cost this node is bounded.

A check costs: bcrypt takes a CPU for a tenth of a second, a token a call to the API server. Knows neither.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from exporter.errors import ExporterError
from exporter.web.worker import Worker

_T = TypeVar("_T")

_MAX_WAITING = 32
_MAX_WAITING_EACH = 4
_MIN_REST, _MAX_REST = 0.1, 5.0
_REST = 9  # times as long as the check took: wrong credentials cost at most a tenth of one CPU


class AuthQueueFull(ExporterError):
    """Credentials cannot be checked now: too many wait, from this address or from all, or no thread can be started.

    The message is one sentence.
    """


class AuthQueue:
    """One thread for checks; after a wrong one the next waits. Credentials that were good before go first, and then
    those of an address that nobody else waits from.
    """

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()
        self._rest_until = 0.0

    @cached_property
    def _worker(self) -> Worker:
        return Worker("credentials")  # a server that asks for none has no thread for them

    async def check(self, client: str, job: Callable[[], _T], *, known: bool = False) -> _T:
        """What `job` returns in the other thread, a false value for wrong credentials.

        Raises `AuthQueueFull`, and what `job` raises.
        """
        try:
            worker = self._worker  # before the client is counted as waiting
        except RuntimeError as error:  # what Python says where no thread can be started
            raise AuthQueueFull(
                "no thread could be started for checking credentials: raise the limit of processes"
            ) from error
        # The first check of an address is not queued behind brute-force clients: a renewed token is unknown too.
        first = not self._waiting[client]
        if not (known or first) and (
            self._waiting[client] >= _MAX_WAITING_EACH or self._waiting.total() >= _MAX_WAITING
        ):
            raise AuthQueueFull("too many wait for their credentials to be checked; try again")
        self._waiting[client] += 1
        check = asyncio.wrap_future(worker.submit(lambda: self._throttled(job), urgency=2 if known else int(first)))
        check.add_done_callback(lambda done: self._leave(client, done))
        # Whoever hangs up keeps the place until the turn comes: else one could fill the queue by coming and leaving.
        return await asyncio.shield(check)

    def _leave(self, client: str, done: "asyncio.Future[_T]") -> None:
        self._waiting -= Counter({client: 1})
        if not done.cancelled():
            done.exception()  # nobody may be there any more to hear of it

    def _throttled(self, job: Callable[[], _T]) -> _T:
        time.sleep(max(0.0, self._rest_until - time.monotonic()))
        start = time.thread_time()  # waiting for an API server costs nobody anything
        right = False
        try:
            result = job()
            right = bool(result)
        finally:
            if not right:
                rest = min(max(_MIN_REST, _REST * (time.thread_time() - start)), _MAX_REST)
                self._rest_until = time.monotonic() + rest
        return result
