"""The interface of collectors: a name, the snapshot parts it needs, and the samples it makes of them."""

from dataclasses import dataclass
from typing import Protocol

from exporter.metrics.family import Samples
from exporter.snapshot.snapshot import Snapshot

ZEROS = ("core", "all", "none")


@dataclass(frozen=True, slots=True)
class CollectorOptions:
    """User options.

    Which zero-valued series to expose (one of `ZEROS`) of packets and of rules; whether to expose series for
    rules or for whole policies (`rule`, `policy`), for unattributed rule ids, and for the owners of pods; and the
    namespaces whose pods have series: only `namespaces`, unless that is empty, without `exclude_namespaces`.
    """

    zeros: str = "core"
    rules_zeros: str = "core"
    rules_detail: str = "rule"
    unattributed: bool = False
    workloads: bool = False
    namespaces: frozenset[str] = frozenset()
    exclude_namespaces: frozenset[str] = frozenset()


DEFAULTS = CollectorOptions()


class Collector(Protocol):
    """Collects a group of metric families from a snapshot.

    `name` is used in flags, `collect[]` and the `collector` label; `about` is the help text of its flag.
    """

    name: str
    about: str
    on_by_default: bool
    parts: frozenset[str]

    def __init__(self, options: CollectorOptions) -> None:
        """Created once per server: it may cache work for the next scrape."""

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """All samples. Raises the error of a required part."""
