"""The counters of a snapshot grouped by endpoint, those with the most drops first.

Pure functions of a snapshot; the data of the `counters` collector, for tables and pages.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.calico.counters import DROPPED, Layout
from exporter.node.endpoints import LEFTOVER, UNKNOWN, Endpoint
from exporter.snapshot.snapshot import Snapshot

# The snapshot parts that this module needs.
PARTS = frozenset({"counters", "endpoints"})


@dataclass(frozen=True, slots=True)
class EndpointCounters:
    """An endpoint and its slot values by hook; hooks without a map entry are absent."""

    endpoint: Endpoint
    hooks: Mapping[int, tuple[int, ...]]

    def dropped(self, layout: Layout) -> dict[str, int]:
        """Packets dropped at all hooks by reason, without zeros."""
        sums: dict[str, int] = {}
        for slot in layout.slots:
            packets = sum(row[slot.number] for row in self.hooks.values())
            if slot.category == DROPPED and packets:
                sums[slot.reason] = packets
        return sums


def counters_by_endpoint(snapshot: Snapshot) -> list[EndpointCounters]:
    """Every endpoint that Calico knows or that has counters, without leftovers; most drops first, then by name."""
    table, known = snapshot.counters.get(), snapshot.endpoints.get()
    rows: dict[int, dict[int, tuple[int, ...]]] = {}
    for (ifindex, hook), row in table.rows.items():
        rows.setdefault(ifindex, {})[hook] = row
    calicos = {one.ifindex for one in known.by_index.values() if one.belongs_to_calico}
    every = [EndpointCounters(known.of(ifindex), rows.get(ifindex, {})) for ifindex in calicos | rows.keys()]
    there = [one for one in every if one.endpoint.kind != LEFTOVER]
    return sorted(there, key=lambda one: _rank(one, table.layout))


def dropped_in_all(every: Iterable[EndpointCounters], layout: Layout) -> dict[str, int]:
    """Packets dropped by these endpoints by reason, most first."""
    sums: dict[str, int] = {}
    for one in every:
        for reason, packets in one.dropped(layout).items():
            sums[reason] = sums.get(reason, 0) + packets
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _rank(one: EndpointCounters, layout: Layout) -> tuple[int, bool, str]:
    packets = sum(one.dropped(layout).values())
    return -packets, one.endpoint.kind == UNKNOWN, one.endpoint.title
