"""The counters of a look grouped by endpoint, as a person asks for them: who drops most comes first.

Pure over a snapshot's parts; the same facts that the `counters` collector exposes, for tables and pages.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.calico.counters import DROPPED, Layout
from exporter.node.endpoints import UNKNOWN, Endpoint
from exporter.snapshot.snapshot import Snapshot

# The parts of a snapshot that the functions of this file need.
PARTS = frozenset({"counters", "endpoints"})


@dataclass(frozen=True, slots=True)
class EndpointCounters:
    """An endpoint and its slot values by hook; a hook without an entry in the map is absent."""

    endpoint: Endpoint
    hooks: Mapping[int, tuple[int, ...]]

    def dropped(self, layout: Layout) -> dict[str, int]:
        """Packets dropped at all hooks, by reason, without the zeros."""
        sums: dict[str, int] = {}
        for slot in layout.slots:
            packets = sum(row[slot.number] for row in self.hooks.values())
            if slot.category == DROPPED and packets:
                sums[slot.reason] = packets
        return sums


def counters_by_endpoint(snapshot: Snapshot) -> list[EndpointCounters]:
    """Every endpoint that Calico knows or that has counted something; droppers first, then by name."""
    table, known = snapshot.counters.get(), snapshot.endpoints.get()
    rows: dict[int, dict[int, tuple[int, ...]]] = {}
    for (ifindex, hook), row in table.rows.items():
        rows.setdefault(ifindex, {})[hook] = row
    calicos = {one.ifindex for one in known.by_index.values() if one.is_calicos}
    every = [EndpointCounters(known.of(ifindex), rows.get(ifindex, {})) for ifindex in calicos | rows.keys()]
    return sorted(every, key=lambda one: _rank(one, table.layout))


def dropped_in_all(every: Iterable[EndpointCounters], layout: Layout) -> dict[str, int]:
    """Packets dropped by all of these, by reason, most first."""
    sums: dict[str, int] = {}
    for one in every:
        for reason, packets in one.dropped(layout).items():
            sums[reason] = sums.get(reason, 0) + packets
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _rank(one: EndpointCounters, layout: Layout) -> tuple[int, bool, str]:
    packets = sum(one.dropped(layout).values())
    return -packets, one.endpoint.kind == UNKNOWN, one.endpoint.title
