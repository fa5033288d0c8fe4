"""Runs the collectors of one scrape over one snapshot, times them and isolates their failures.

This is the only broad `except` of a scrape: a collector returns all samples or none, and any exception becomes
success 0 and one sentence, never a failed scrape.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from exporter.errors import OUT_OF_MEMORY, ExporterError
from exporter.metrics.collector import DEFAULTS, Collector, CollectorOptions
from exporter.metrics.conntrack import ConntrackCollector
from exporter.metrics.counters import CountersCollector
from exporter.metrics.endpoints import EndpointsCollector
from exporter.metrics.family import Samples
from exporter.metrics.maps import MapsCollector
from exporter.metrics.nic import NicCollector
from exporter.metrics.rules import RulesCollector
from exporter.metrics.self_metrics import ExporterCollector, about_collectors
from exporter.snapshot.snapshot import Snapshot

log = logging.getLogger("exporter.metrics")

# All collectors in the order of execution and exposition; add new ones here.
COLLECTORS: tuple[type[Collector], ...] = (
    CountersCollector,
    EndpointsCollector,
    RulesCollector,
    MapsCollector,
    NicCollector,
    ConntrackCollector,
)
COLLECTOR_NAMES = tuple(one.name for one in COLLECTORS)
ON_BY_DEFAULT = tuple(one.name for one in COLLECTORS if one.on_by_default)


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of one collector: its samples (none if it failed), its duration, and the error message."""

    name: str
    samples: Sequence[Samples]
    seconds: float
    failure: str | None = None


def make_collectors(names: Iterable[str], options: CollectorOptions = DEFAULTS) -> list[Collector]:
    """The collectors with these names, in the order of `COLLECTORS`."""
    wanted = set(names)
    return [one(options) for one in COLLECTORS if one.name in wanted]


def run_collector(collector: Collector, read: Callable[[frozenset[str]], Snapshot]) -> Collected:
    """Reads the parts that a collector needs and runs it; any failure is part of the result."""
    start = time.perf_counter()
    samples: Sequence[Samples] = ()
    failure = None
    try:
        snapshot = read(collector.parts)
        # A node without Calico's eBPF dataplane has nothing to count, which is no failure.
        if snapshot.dataplane_present is not False or collector.name == ExporterCollector.name:
            samples = collector.collect(snapshot)
    except ExporterError as error:
        failure = str(error)
    except MemoryError:  # not a bug: no traceback at every scrape
        failure = OUT_OF_MEMORY
    except Exception as error:  # isolate collectors from each other
        log.exception("unexpected error in collector %s", collector.name)
        failure = f"unexpected error ({type(error).__name__}), please report it"
    return Collected(collector.name, samples, time.perf_counter() - start, failure)


def collected_samples(results: Sequence[Collected]) -> list[Samples]:
    """The samples of all collectors, and those about the collectors."""
    samples: dict[str, Samples] = {}
    for one in (one for result in results for one in result.samples):
        # Two collectors may have samples of one family, which must be contiguous in the output.
        samples[one.family.name] = samples[one.family.name].merged_with(one) if one.family.name in samples else one
    return list(samples.values()) + about_collectors((one.name, one.failure is None, one.seconds) for one in results)


def exporter_samples(read: Callable[[frozenset[str]], Snapshot]) -> list[Samples]:
    """The self-metrics, exposed whichever collectors are enabled."""
    return list(run_collector(ExporterCollector(), read).samples)
