"""One scrape: runs collectors over one snapshot, times them, and keeps each one's failure to itself.

The broad `except` of a scrape is here and nowhere else: a collector is all or nothing, and what it raises, foreseen or
not, becomes success 0 and one sentence, never a broken scrape.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from exporter.errors import ExporterError
from exporter.metrics.collector import Collector, CollectorOptions
from exporter.metrics.counters import CountersCollector
from exporter.metrics.endpoints import EndpointsCollector
from exporter.metrics.family import Samples
from exporter.metrics.maps import MapsCollector
from exporter.metrics.nic import NicCollector
from exporter.metrics.rules import RulesCollector
from exporter.metrics.self_metrics import ExporterCollector, about_collectors
from exporter.snapshot.snapshot import Snapshot

log = logging.getLogger("exporter.metrics")

# Every collector there is, in the order in which they run and their families stand: to add one, add it here.
COLLECTORS: tuple[type[Collector], ...] = (
    CountersCollector,
    EndpointsCollector,
    RulesCollector,
    MapsCollector,
    NicCollector,
)
COLLECTOR_NAMES = tuple(one.name for one in COLLECTORS)
ON_BY_DEFAULT = tuple(one.name for one in COLLECTORS if one.on_by_default)


@dataclass(frozen=True, slots=True)
class Collected:
    """What one collector did: its samples (none if it failed), the seconds it took, and the failure's sentence."""

    name: str
    samples: Sequence[Samples]
    seconds: float
    failure: str | None = None


def make_collectors(names: Iterable[str], options: CollectorOptions | None = None) -> list[Collector]:
    """The collectors of these names, in the order of `COLLECTORS`."""
    wanted = set(names)
    return [one(options or CollectorOptions()) for one in COLLECTORS if one.name in wanted]


def run_collector(collector: Collector, read: Callable[[frozenset[str]], Snapshot]) -> Collected:
    """Reads what one collector needs and runs it; whatever goes wrong in it stays in the result."""
    start = time.perf_counter()
    try:
        samples = collector.collect(read(collector.parts))
    except ExporterError as error:
        return Collected(collector.name, (), time.perf_counter() - start, str(error))
    except MemoryError:  # no bug, and a traceback at every scrape would be the least use of what is left
        failure = "the process was refused memory: raise its limit (ulimit -v, or the container's)"
        return Collected(collector.name, (), time.perf_counter() - start, failure)
    except Exception as error:  # the boundary: one datum's fault must not take the others with it
        log.exception("collector %s met an unforeseen error", collector.name)
        failure = f"unforeseen error ({type(error).__name__}), please report it"
        return Collected(collector.name, (), time.perf_counter() - start, failure)
    return Collected(collector.name, samples, time.perf_counter() - start)


def collected_samples(results: Sequence[Collected]) -> list[Samples]:
    """The samples of all collectors and those about them."""
    samples: dict[str, Samples] = {}
    for one in (one for result in results for one in result.samples):
        # A family may have samples of two collectors, and must stand in one place.
        samples[one.family.name] = samples[one.family.name].with_those_of(one) if one.family.name in samples else one
    return list(samples.values()) + about_collectors((one.name, one.failure is None, one.seconds) for one in results)


def exporter_samples(read: Callable[[frozenset[str]], Snapshot]) -> list[Samples]:
    """The samples that the exporter makes about itself, whatever collectors are on."""
    return list(run_collector(ExporterCollector(), read).samples)
