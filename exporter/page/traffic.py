"""What each endpoint's programs counted in each direction: since the counters began, and between two snapshots.

One row for an endpoint and a direction, as a person reads it: all hooks of that direction together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.calico.counters import DROPPED, TOTAL, Layout
from exporter.diagnosis.changes import compare_counters
from exporter.diagnosis.counters import EndpointCounters, counters_by_endpoint
from exporter.node.endpoints import Endpoint
from exporter.snapshot.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Counted:
    """Packets dropped by reason, without the zeros; new flows accepted at tc hooks; packets that entered a program."""

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
    """An endpoint's traffic in one direction (`inbound`, `outbound`, or empty where that is not known).

    `ever` is since its counters began, `lately` within the last `seconds`; those are None without an earlier snapshot.
    """

    endpoint: Endpoint
    direction: str
    ever: Counted
    lately: Counted
    seconds: float | None

    @property
    def key(self) -> str:
        """The same for the same endpoint and direction in every snapshot."""
        return f"{self.endpoint.ifindex}/{self.endpoint.interface}/{self.direction}"

    def per_second(self, count: int) -> float | None:
        """A count of `lately` as a rate; None where there is no time to divide by."""
        return count / self.seconds if self.seconds else None


def traffic(before: Snapshot | None, now: Snapshot) -> list[Traffic]:
    """Every endpoint that counts, in each direction; who drops most now first, then who ever dropped most.

    Raises `MapError`, `LayoutError` or `NodeError` when the snapshots have no counters or cannot be compared.
    """
    layout = now.counters.get().layout
    lately = _lately(before, now, layout)
    seconds = now.seconds_since(before) if before else None
    rows = [
        Traffic(
            one.endpoint, way, ever, lately.get((one.endpoint.ifindex, one.endpoint.interface, way), NOTHING), seconds
        )
        for one in counters_by_endpoint(now)
        for way, ever in _by_direction(one, layout).items()
    ]
    return sorted(rows, key=lambda row: (-row.lately.drops, -row.ever.drops, row.endpoint.title, row.direction))


def for_reason(rows: Iterable[Traffic], reason: str) -> list[Traffic]:
    """Of these rows those that ever dropped for this reason, with nothing but its drops; most of them first."""
    chosen = [
        Traffic(row.endpoint, row.direction, _only(row.ever, reason), _only(row.lately, reason), row.seconds)
        for row in rows
        if reason in row.ever.dropped
    ]
    return sorted(chosen, key=lambda row: (-row.lately.drops, -row.ever.drops))


def total(rows: Iterable[Counted]) -> Counted:
    """All of these together, reasons with most drops first."""
    dropped: dict[str, int] = {}
    flows = packets = 0
    for row in rows:
        flows, packets = flows + row.flows, packets + row.packets
        for reason, count in row.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return Counted(dict(sorted(dropped.items(), key=lambda item: -item[1])), flows, packets)


def _only(counted: Counted, reason: str) -> Counted:
    dropped = {reason: counted.dropped[reason]} if reason in counted.dropped else {}
    return Counted(dropped, counted.flows, counted.packets)


def _lately(before: Snapshot | None, now: Snapshot, layout: Layout) -> dict[tuple[int, str, str], Counted]:
    if before is None:
        return {}
    changes = compare_counters(before, now)
    return {
        (change.endpoint.ifindex, change.endpoint.interface, way): counted
        for change in changes
        for way, counted in _by_direction(change.counters, layout).items()
    }


def _by_direction(one: EndpointCounters, layout: Layout) -> dict[str, Counted]:
    parts: dict[str, list[Counted]] = {}
    for hook, row in one.hooks.items():
        parts.setdefault(one.endpoint.direction(hook), []).append(_counted(hook, row, layout))
    return {way: total(counted) for way, counted in sorted(parts.items())}


def _counted(hook: int, row: Sequence[int], layout: Layout) -> Counted:
    dropped = {slot.reason: row[slot.number] for slot in layout.slots if slot.category == DROPPED and row[slot.number]}
    packets = sum(row[slot.number] for slot in layout.slots if slot.category == TOTAL)
    flows = sum(row[slot.number] for slot in layout.slots if slot.counts_flows(hook))
    return Counted(dropped, flows, packets)
