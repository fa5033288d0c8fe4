"""The traffic of each endpoint by direction: since its counters were created, and between two snapshots.

A row sums all hooks of a direction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.calico.counters import DROPPED, TOTAL, Layout
from exporter.diagnosis.changes import compare_counters
from exporter.diagnosis.counters import EndpointCounters, counters_by_endpoint
from exporter.node.endpoints import Endpoint
from exporter.snapshot.snapshot import Snapshot

# An endpoint's key and a direction.
DirectionKey = tuple[tuple[int, str], str]


@dataclass(frozen=True, slots=True)
class Counted:
    """Dropped packets by reason, without zeros; new flows accepted at tc hooks; packets that entered a program."""

    dropped: Mapping[str, int]
    flows: int
    packets: int

    @property
    def drops(self) -> int:
        """Packets dropped for any reason."""
        return sum(self.dropped.values())


NOTHING = Counted({}, 0, 0)


@dataclass(frozen=True, slots=True)
class Traffic:
    """An endpoint's traffic in one direction (`inbound`, `outbound`, or empty if unknown).

    `cumulative` is since its counters were created, `recent` within the last `seconds`, None without an earlier
    snapshot.
    """

    endpoint: Endpoint
    direction: str
    cumulative: Counted
    recent: Counted
    seconds: float | None

    @property
    def direction_key(self) -> DirectionKey:
        """Identifies the endpoint and direction across snapshots."""
        return self.endpoint.key, self.direction

    def per_second(self, count: int) -> float | None:
        """A count of `recent` as a rate; None if the time is unknown."""
        return count / self.seconds if self.seconds else None


def traffic(before: Snapshot | None, now: Snapshot) -> list[Traffic]:
    """Every endpoint with counters, in each direction; most current drops first, then most drops overall.

    Raises `MapError`, `LayoutError` or `NodeError` if the snapshots have no counters or cannot be compared.
    """
    layout = now.counters.get().layout
    recent = _recent(before, now, layout)
    seconds = now.seconds_since(before) if before else None
    rows = [
        Traffic(one.endpoint, way, cumulative, recent.get((one.endpoint.key, way), NOTHING), seconds)
        for one in counters_by_endpoint(now)
        for way, cumulative in by_direction(one, layout).items()
    ]
    return sorted(rows, key=lambda row: (-row.recent.drops, -row.cumulative.drops, row.endpoint.title, row.direction))


def for_reason(rows: Iterable[Traffic], reason: str) -> list[Traffic]:
    """The rows with drops for this reason, with the drops of this reason only; most drops first."""
    chosen = [
        Traffic(row.endpoint, row.direction, _only(row.cumulative, reason), _only(row.recent, reason), row.seconds)
        for row in rows
        if reason in row.cumulative.dropped
    ]
    return sorted(chosen, key=lambda row: (-row.recent.drops, -row.cumulative.drops))


def total(rows: Iterable[Counted]) -> Counted:
    """The sum of these, reasons with most drops first."""
    dropped: dict[str, int] = {}
    flows = packets = 0
    for row in rows:
        flows, packets = flows + row.flows, packets + row.packets
        for reason, count in row.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return Counted(dict(sorted(dropped.items(), key=lambda item: -item[1])), flows, packets)


def by_direction(one: EndpointCounters, layout: Layout) -> dict[str, Counted]:
    """What these counters say, by direction."""
    parts: dict[str, list[Counted]] = {}
    for hook, row in one.hooks.items():
        parts.setdefault(one.endpoint.direction(hook), []).append(_counted(hook, row, layout))
    return {way: total(counted) for way, counted in sorted(parts.items())}


def _only(counted: Counted, reason: str) -> Counted:
    dropped = {reason: counted.dropped[reason]} if reason in counted.dropped else {}
    return Counted(dropped, counted.flows, counted.packets)


def _recent(before: Snapshot | None, now: Snapshot, layout: Layout) -> dict[DirectionKey, Counted]:
    if before is None:
        return {}
    changes = compare_counters(before, now)
    return {
        (change.endpoint.key, way): counted
        for change in changes
        for way, counted in by_direction(change.counters, layout).items()
    }


def _counted(hook: int, row: Sequence[int], layout: Layout) -> Counted:
    dropped = {slot.reason: row[slot.number] for slot in layout.slots if slot.category == DROPPED and row[slot.number]}
    packets = sum(row[slot.number] for slot in layout.slots if slot.category == TOTAL)
    flows = sum(row[slot.number] for slot in layout.slots if slot.counts_flows(hook))
    return Counted(dropped, flows, packets)
