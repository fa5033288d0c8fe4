"""One scrape: runs collectors over one snapshot, times them, and keeps each one's failure to itself.

The broad `except` of a scrape is here and nowhere else: a collector is all or nothing, and what it raises, foreseen or
not, becomes success 0 and one sentence, never a broken scrape.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from exporter.bpf.maps import MapError
from exporter.calico import LayoutError
from exporter.metrics.counters import CountersCollector
from exporter.metrics.endpoints import EndpointsCollector
from exporter.metrics.family import Samples
from exporter.metrics.itself import ExporterCollector, about_collectors
from exporter.metrics.maps import MapsCollector
from exporter.metrics.nic import NicCollector
from exporter.metrics.rules import RulesCollector
from exporter.node import NodeError
from exporter.snapshot.take import Snapshot

log = logging.getLogger("exporter.metrics")

COLLECTOR_NAMES = ("counters", "endpoints", "rules", "maps", "nic")
ON_BY_DEFAULT = ("counters", "endpoints", "rules", "maps")


class Collector(Protocol):
    """Makes one datum's families from a snapshot, or raises."""

    @property
    def name(self) -> str:
        """The word for it in flags, `collect[]` and the `collector` label."""

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """All its samples."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one collector did: its samples (none if it failed), the seconds it took, and the failure's sentence."""

    name: str
    samples: Sequence[Samples]
    seconds: float
    failure: str | None = None


def make_collectors(
    names: Iterable[str], zeros: str, *, unattributed: bool = False, workloads: bool = False
) -> list[Collector]:
    """The collectors of these names, in the order of `COLLECTOR_NAMES`; the other parameters are their own."""
    every: tuple[Collector, ...] = (
        CountersCollector(zeros),
        EndpointsCollector(workloads=workloads),
        RulesCollector(unattributed=unattributed),
        MapsCollector(),
        NicCollector(),
    )
    wanted = set(names)
    return [collector for collector in every if collector.name in wanted]


def run_collector(collector: Collector, snapshot: Snapshot) -> Collected:
    """Runs one collector; whatever goes wrong in it stays in the result."""
    start = time.perf_counter()
    try:
        samples = collector.collect(snapshot)
    except (MapError, LayoutError, NodeError) as error:
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


def exporter_samples(snapshot: Snapshot) -> list[Samples]:
    """The samples that the exporter makes about itself, whatever collectors are on."""
    return list(run_collector(ExporterCollector(), snapshot).samples)
