"""Scrapes that arrive together share one snapshot of the node, read by one worker thread.

A request joins the scrape that waits for its turn, whatever collectors it asks for. One that has begun is joined by
nobody: what it has read may be older than the request. A request whose time runs out is answered with the collectors
that finished; the others have success 0.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics_exposition

from exporter.metrics.collector import Collector
from exporter.metrics.exposition import OPENMETRICS, OPENMETRICS_END, TextFormat, render
from exporter.metrics.scrape import Collected, collected_samples, exporter_samples, run_collector
from exporter.snapshot.reading import MAP_PARTS, Reading, with_sources
from exporter.snapshot.snapshot import Snapshot
from exporter.web.registry import LogThrottle
from exporter.web.worker import Worker

try:  # some seven times as fast as zlib
    from isal.isal_zlib import compress as deflate
except ImportError:  # has no wheel for every machine
    from zlib import compress as deflate

log = logging.getLogger("exporter.web")

_T = TypeVar("_T")

# The wire to a node's Prometheus is short, and the CPU is the pods'.
_LEVEL = 1
_GZIP_FORMAT = 31  # the largest window, and gzip's header and checksum around it


class Scrape:
    """One reading of the node, what its collectors made of it so far, and the bodies rendered from that. Used by one
    thread, but for `unfinished_body`.
    """

    def __init__(self, reading: Reading, collectors: Sequence[Collector], process: CollectorRegistry) -> None:
        self.wanted: set[str] = set()
        self.joinable = True
        self.results: dict[str, Collected] = {}
        self._reading = reading
        self._collectors = collectors
        self._process = process
        self._bodies: dict[tuple[frozenset[str], TextFormat, bool], bytes] = {}
        self._begun = False
        self._start = time.perf_counter()

    def collect(self) -> None:
        """Closes the scrape to newcomers and runs the wanted collectors, once."""
        if self._begun:
            return
        self._begun, self.joinable = True, False
        wanted = [collector for collector in self._collectors if collector.name in self.wanted]
        # With the first, the maps of all: they are read directly one after the other, so that they are of one moment.
        maps = with_sources(set().union(*(collector.parts for collector in wanted))) & MAP_PARTS
        for collector in wanted:
            self.results[collector.name] = run_collector(collector, lambda parts: self._reading.read(parts | maps))

    def body(self, names: frozenset[str], text_format: TextFormat, *, compress: bool) -> bytes:
        """The response body for these collectors, rendered once for all who ask the same."""
        key = (names, text_format, compress)
        if key not in self._bodies:
            body = self._render(names, text_format)
            self._bodies[key] = compressed_body(body) if compress else body
        return self._bodies[key]

    def unfinished_body(self, names: frozenset[str], text_format: TextFormat) -> bytes:
        """What is there of it now, not compressed; called from another thread while a collector hangs in this one."""
        seconds = time.perf_counter() - self._start
        waiting = "did not finish within the scrape's time-out"
        done = dict(self.results)
        results = [done.get(name) or Collected(name, (), seconds, waiting) for name in sorted(names)]
        return render(collected_samples(results), text_format, process_text(self._process, text_format))

    def _render(self, names: frozenset[str], text_format: TextFormat) -> bytes:
        results = [result for name, result in self.results.items() if name in names]
        samples = collected_samples(results) + exporter_samples(self._reading.read)
        return render(samples, text_format, process_text(self._process, text_format))


class Scrapes:
    """Answers scrapes. `begin` begins to read a snapshot; `collectors` are the enabled ones; `process` has the metrics
    about this process.

    `failures` are the collectors of earlier scrapes, each with its last failure's sentence, None for one that works.
    """

    def __init__(
        self, begin: Callable[[], Reading], collectors: Sequence[Collector], process: CollectorRegistry
    ) -> None:
        self.names = frozenset(collector.name for collector in collectors)
        self.ready = False
        self._begin = begin
        self._collectors = collectors
        self._process = process
        self._scrape: Scrape | None = None
        self._worker = Worker("collect")
        self._throttle = LogThrottle()
        self.failures: dict[str, str | None] = {}

    async def body(
        self, names: frozenset[str], text_format: TextFormat, *, compress: bool, seconds: float | None
    ) -> tuple[bytes, bool]:
        """The body of a scrape and whether it is compressed, within `seconds`."""
        scrape = self._join(names)
        work = self._worker.submit(lambda: self._finish(scrape, names, text_format, compress=compress), urgency=1)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), seconds), compress
        except TimeoutError:
            scrape.joinable = False  # what it has read is old by now: whoever comes next is not to see it as new
            if self._throttle.may_log():
                log.warning("a scrape was answered without the collectors that did not finish in %.3g s", seconds)
            return scrape.unfinished_body(names, text_format), False

    async def collect(self) -> dict[str, str | None]:
        """Runs every collector once and says what failed, by collector: for readiness and for the start."""
        scrape = self._join(self.names)
        await asyncio.wrap_future(self._worker.submit(lambda: self._collect(scrape), urgency=1))
        return {name: result.failure for name, result in scrape.results.items()}

    async def ask(self, question: Callable[[Snapshot], _T], parts: frozenset[str]) -> _T:
        """What `question` makes of a snapshot with these parts, in the worker's thread, where scrapes go first."""
        return await asyncio.wrap_future(self._worker.submit(lambda: question(self._begin().read(parts))))

    def _join(self, names: frozenset[str]) -> Scrape:
        scrape = self._scrape
        if scrape is None or not scrape.joinable:
            scrape = self._scrape = Scrape(self._begin(), self._collectors, self._process)
        scrape.wanted |= names
        return scrape

    def _finish(self, scrape: Scrape, names: frozenset[str], text_format: TextFormat, *, compress: bool) -> bytes:
        self._collect(scrape)
        return scrape.body(names, text_format, compress=compress)

    def _collect(self, scrape: Scrape) -> None:
        scrape.collect()
        if self._scrape is scrape:
            self._scrape = None  # nobody joins it any more: between scrapes its maps and bodies are not kept
        for name, result in scrape.results.items():
            if result.failure != self.failures.get(name):
                self._report(result)
            self.failures[name] = result.failure
        self.ready = self.ready or any(result.failure is None for result in scrape.results.values())

    def _report(self, result: Collected) -> None:
        # Once when it breaks and once when it heals, not at every scrape.
        if result.failure:
            log.warning("collector %s failed: %s", result.name, result.failure)
        else:
            log.info("collector %s works again", result.name)


def compressed_body(body: bytes) -> bytes:
    """The body in gzip."""
    return deflate(body, _LEVEL, _GZIP_FORMAT)


def process_text(registry: CollectorRegistry, text_format: TextFormat) -> bytes:
    """The metrics of prometheus-client's registry, without OpenMetrics' end mark."""
    if text_format is OPENMETRICS:
        body: bytes = openmetrics_exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
        return body.removesuffix(OPENMETRICS_END)
    return generate_latest(registry)
