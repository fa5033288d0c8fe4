"""Answers scrapes; concurrent ones share one snapshot of the node, read by one worker thread.

A request joins the next scrape, whatever collectors it selects, but not one that has started: its data may be older
than the request. A request that times out is answered with the finished collectors; the others have success 0.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from exporter.metrics.collector import Collector
from exporter.metrics.exposition import TextFormat, render
from exporter.metrics.scrape import Collected, collected_samples, exporter_samples, run_collector
from exporter.snapshot.parts import MAP_PARTS, with_sources
from exporter.snapshot.reading import Reading
from exporter.web.registry import registry_samples
from exporter.web.transport.log_throttle import LogThrottle
from exporter.web.worker import Worker

try:  # seven times as fast as zlib
    from isal.isal_zlib import compress as deflate
except ImportError:  # not available for every platform
    from zlib import compress as deflate

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger("exporter.web")

_T = TypeVar("_T")

# The fastest: the CPU belongs to the pods.
_LEVEL = 1
_GZIP_FORMAT = 31  # the largest window, and gzip's header and checksum around it


class Urgency(IntEnum):
    """What the worker does first: the higher."""

    COUNT = -1  # a step of counting maps
    QUERY = 0
    SCRAPE = 1


class Scrape:
    """One snapshot of the node, the results of its collectors so far, and the rendered bodies. Used by one thread,
    except `unfinished_body`.
    """

    def __init__(self, reading: Reading, collectors: Sequence[Collector], registry: "CollectorRegistry") -> None:
        self.wanted: set[str] = set()
        self.joinable = True
        self.results: dict[str, Collected] = {}
        self._reading = reading
        self._collectors = collectors
        self._registry = registry
        self._bodies: dict[tuple[frozenset[str], TextFormat, bool], bytes] = {}
        self._started = False
        self._start = time.perf_counter()

    def collect(self) -> None:
        """Runs the wanted collectors, once; from then on the scrape is not joinable."""
        if self._started:
            return
        self._started, self.joinable = True, False
        wanted = [collector for collector in self._collectors if collector.name in self.wanted]
        # The first collector reads the maps of all, back to back, so that they are consistent.
        maps = with_sources(set().union(*(collector.parts for collector in wanted))) & MAP_PARTS
        # Collectors that need only maps run first: those after one whose files hang get no time.
        for collector in sorted(wanted, key=lambda one: not one.parts <= MAP_PARTS):
            self.results[collector.name] = run_collector(collector, lambda parts: self._reading.read(parts | maps))

    def body(self, names: frozenset[str], text_format: TextFormat, *, compress: bool) -> bytes:
        """The response body for these collectors, rendered once for identical requests."""
        key = (names, text_format, compress)
        if key not in self._bodies:
            results = [self.results[one.name] for one in self._collectors if one.name in names]
            samples = collected_samples(results) + exporter_samples(self._reading.read)
            body = render([*samples, *registry_samples(self._registry)], text_format)
            self._bodies[key] = compressed_body(body) if compress else body
        return self._bodies[key]

    def unfinished_body(self, names: frozenset[str], text_format: TextFormat) -> bytes:
        """The uncompressed body with the finished collectors; called from another thread while a collector hangs."""
        seconds = time.perf_counter() - self._start
        waiting = "did not finish within the scrape timeout"
        done = dict(self.results)
        results = [done.get(name) or Collected(name, (), seconds, waiting) for name in sorted(names)]
        return render([*collected_samples(results), *registry_samples(self._registry)], text_format)


class Scrapes:
    """Answers scrapes. `new_reading` starts a snapshot; `collectors` are the enabled ones; `registry` has the
    metrics that prometheus-client keeps.

    `failures` has the error of each collector in its last scrape, None if it succeeded.
    """

    def __init__(
        self, new_reading: Callable[[], Reading], collectors: Sequence[Collector], registry: "CollectorRegistry"
    ) -> None:
        self.names = frozenset(collector.name for collector in collectors)
        self.ready = False
        self._new_reading = new_reading
        self._collectors = collectors
        self._registry = registry
        self._scrape: Scrape | None = None
        self._worker = Worker("collect")
        self._throttle = LogThrottle()
        self.failures: dict[str, str | None] = {}

    async def body(
        self, names: frozenset[str], text_format: TextFormat, *, compress: bool, seconds: float | None
    ) -> tuple[bytes, bool]:
        """The body of a scrape and whether it is compressed, within `seconds`."""
        scrape = self._join(names)

        def finish() -> bytes:
            self._collect(scrape)
            return scrape.body(names, text_format, compress=compress)

        work = self._worker.submit(finish, urgency=Urgency.SCRAPE)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), seconds), compress
        except TimeoutError:
            scrape.joinable = False  # its data is old by now
            if self._throttle.may_log():
                log.warning(
                    "scrape timeout: the response lacks the collectors that did not finish within %.3g s", seconds
                )
            return scrape.unfinished_body(names, text_format), False

    async def collect(self) -> dict[str, str | None]:
        """Runs every collector once and returns the error of each, None if it succeeded."""
        scrape = self._join(self.names)
        await asyncio.wrap_future(self._worker.submit(lambda: self._collect(scrape), urgency=Urgency.SCRAPE))
        return {name: result.failure for name, result in scrape.results.items()}

    async def read(self, question: Callable[[Reading], _T]) -> _T:
        """Calls `question` with a new snapshot of which nothing is read yet, in the worker's thread.

        Scrapes have priority.
        """
        return await asyncio.wrap_future(
            self._worker.submit(lambda: question(self._new_reading()), urgency=Urgency.QUERY)
        )

    async def run_slices(self, steps: Iterator[None]) -> float:
        """Runs `steps` in the worker's thread, one at a time and only while no scrape or query waits; returns the
        seconds that they took.
        """
        seconds, more = 0.0, True
        while more:
            took, more = await asyncio.wrap_future(self._worker.submit(partial(_slice, steps), urgency=Urgency.COUNT))
            seconds += took
        return seconds

    def _join(self, names: frozenset[str]) -> Scrape:
        scrape = self._scrape
        if scrape is None or not scrape.joinable:
            scrape = self._scrape = Scrape(self._new_reading(), self._collectors, self._registry)
        scrape.wanted |= names
        return scrape

    def _collect(self, scrape: Scrape) -> None:
        scrape.collect()
        if self._scrape is scrape:
            self._scrape = None  # frees its maps and bodies between scrapes
        for name, result in scrape.results.items():
            if result.failure != self.failures.get(name):
                self._report(result)
            self.failures[name] = result.failure
        self.ready = self.ready or any(result.failure is None for result in scrape.results.values())

    def _report(self, result: Collected) -> None:
        # Logged when it starts, changes and ends, not at every scrape.
        if result.failure:
            log.warning("collector %s failed: %s", result.name, result.failure)
        else:
            log.info("collector %s works again", result.name)


def _slice(steps: Iterator[None]) -> tuple[float, bool]:
    start, done = time.perf_counter(), object()
    more = next(steps, done) is not done
    return time.perf_counter() - start, more


def compressed_body(body: bytes) -> bytes:
    """The body in gzip."""
    return deflate(body, _LEVEL, _GZIP_FORMAT)
