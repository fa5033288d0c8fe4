"""Places for requests that are worked on at the same time: a limit in total, and a share of it for each client."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

UNLIMITED = sys.maxsize
"""A number of places that nobody finds taken."""
AT_ONCE = 0.0
"""The patience of who does not wait."""


class Places:
    """`number` places, of which an address may have three quarters.

    Who finds none waits for `patience` seconds or up to twice as long: many that came together do not leave together.
    """

    def __init__(self, number: int, patience: float = AT_ONCE) -> None:
        self.number = number
        self._share = -(-number * 3 // 4)
        self._patience = patience
        self._taken: Counter[str] = Counter()
        self._left = asyncio.Event()
        self._arrivals = count()

    @asynccontextmanager
    async def taken(self, client: str) -> AsyncIterator[bool]:
        """Takes a place for the time of the block; False if there was none."""
        if not await self._free(client):
            yield False
            return
        self._taken[client] += 1
        try:
            yield True
        finally:
            self._taken -= Counter({client: 1})
            self._left.set()
            self._left = asyncio.Event()

    async def _free(self, client: str) -> bool:
        patience = self._patience * (1 + next(self._arrivals) % 16 / 16)
        try:
            async with asyncio.timeout(patience):
                while self._taken.total() >= self.number or self._taken[client] >= self._share:
                    await self._left.wait()
        except TimeoutError:
            return False
        return True
