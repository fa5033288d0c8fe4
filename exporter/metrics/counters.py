"""Collector `counters`: packets and flows that Calico's programs counted, per endpoint, hook and reason.

Turns the decoded counter table into families. An index that nobody knows keeps its number as its name and shows only
what is not zero, so that nothing read is lost and nothing is invented. What stands before the values of a row is made
once and used while the row shows the same slots.
"""

from collections.abc import Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from exporter.calico.counters import (
    ACCEPTED,
    DROPPED,
    NAT_COLLISION,
    REDIRECTED,
    TOTAL,
    UNKNOWN,
    CounterTable,
    Layout,
    Slot,
)
from exporter.metrics.counter_rows import CounterRows
from exporter.metrics.family import COUNTER, ENDPOINT_LABELS, GAUGE, Family, Samples
from exporter.node import endpoints
from exporter.node.endpoints import Endpoints
from exporter.snapshot.take import Snapshot

ZEROS = ("core", "all", "none")

PROGRAM_PACKETS = Family(
    "calico_bpf_program_packets_total",
    COUNTER,
    "Packets that entered Calico's program at this hook; not all packets of the endpoint, since redirected ones pass "
    "by the hook of their destination.",
    ENDPOINT_LABELS,
)
ACCEPTED_FLOWS = Family(
    "calico_bpf_accepted_flows_total",
    COUNTER,
    "New flows accepted at a tc hook, one per flow and not per packet; later packets of a tracked flow are not in it.",
    (*ENDPOINT_LABELS, "reason"),
)
ACCEPTED_PACKETS = Family(
    "calico_bpf_accepted_packets_total",
    COUNTER,
    "Packets accepted one by one: by another Calico program that had seen them before, and at the XDP hook by policy "
    "or failsafe.",
    (*ENDPOINT_LABELS, "reason"),
)
DROPPED_PACKETS = Family(
    "calico_bpf_dropped_packets_total",
    COUNTER,
    "Packets dropped, by reason; a lower bound, since some drops (a pod's spoofed source, a stray TCP ACK) have no "
    "reason in Calico and move only the program's total.",
    (*ENDPOINT_LABELS, "reason"),
)
REDIRECTED_PACKETS = Family(
    "calico_bpf_redirected_packets_total",
    COUNTER,
    "Packets forwarded past the kernel's own path, by kind of redirect; they are in the program's total too.",
    (*ENDPOINT_LABELS, "path"),
)
NAT_SOURCE_COLLISIONS = Family(
    "calico_bpf_nat_source_collisions_total",
    COUNTER,
    "Packets whose source port had to be changed because NAT made two flows look alike; not drops.",
    ENDPOINT_LABELS,
)
UNKNOWN_SLOT = Family(
    "calico_bpf_unknown_slot_total",
    COUNTER,
    "Counter slots without a known meaning in this build of Calico, when not zero; --calico.layout-file can name them.",
    (*ENDPOINT_LABELS, "slot"),
)
UNKNOWN_INTERFACES = Family(
    "calico_bpf_unknown_interfaces",
    GAUGE,
    "Interface indexes in the counter map that neither Calico's interface state nor the kernel knows; at most "
    f"{endpoints.MOST_UNKNOWN} of them have series, named ifindex:<n>.",
)
FAMILIES = (
    PROGRAM_PACKETS,
    ACCEPTED_FLOWS,
    ACCEPTED_PACKETS,
    DROPPED_PACKETS,
    REDIRECTED_PACKETS,
    NAT_SOURCE_COLLISIONS,
    UNKNOWN_SLOT,
    UNKNOWN_INTERFACES,
)
_FAMILY_OF = {
    TOTAL: PROGRAM_PACKETS,
    DROPPED: DROPPED_PACKETS,
    REDIRECTED: REDIRECTED_PACKETS,
    NAT_COLLISION: NAT_SOURCE_COLLISIONS,
    UNKNOWN: UNKNOWN_SLOT,
}


class CountersCollector:
    """`zeros` says which zero samples are written: `core`, `all` or `none`."""

    name = "counters"

    def __init__(self, zeros: str = "core") -> None:
        self._zeros = zeros
        self._rows: CounterRows | None = None
        # The slots that each row shows in each family, and their lines; and those of all rows, as last written.
        self._lines: dict[tuple[str, tuple[str, ...]], tuple[tuple[Slot, ...], bytes]] = {}
        self._written: dict[tuple[Family, bool], tuple[bytes, list[bytes]]] = {}

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file from the live counter map."""
        # Without interface state most zeros would be missing, and a missing zero is as false as a made-up one.
        table, _, known = snapshot.counters, snapshot.ifstate, snapshot.endpoints
        rows = self._current_rows(table, known)
        sums = rows.sums_of(table)
        shown = rows.shown(sums)
        samples = {family: Samples(family) for family in FAMILIES}
        for at_tc, numbers in rows.groups.items():
            labels = [rows.labels[number] for number in numbers.tolist()]
            for family, slots in _slots_by_family(table.layout, at_tc=at_tc).items():
                place = np.ix_(numbers, np.array([slot.number for slot in slots]))
                chosen = shown[place]
                samples[family].pieces.extend(self._all_lines((family, at_tc), labels, chosen, slots))
                samples[family].values.extend(sums[place][chosen].tolist())
        samples[UNKNOWN_INTERFACES].add((), len(rows.unknown))
        return list(samples.values())

    def _current_rows(self, table: CounterTable, known: Endpoints) -> CounterRows:
        if self._rows is None or not self._rows.fit(table, known):
            self._rows = CounterRows(table, known, self._zeros)
            # An interface's lines go with the interface.
            now = set(self._rows.labels)
            self._lines = {key: line for key, line in self._lines.items() if key[1] in now}
            self._written = {}
        return self._rows

    def _all_lines(
        self,
        what: tuple[Family, bool],
        labels: Sequence[tuple[str, ...]],
        chosen: NDArray[np.bool_],
        slots: Sequence[Slot],
    ) -> list[bytes]:
        """The lines of all rows in one family: of those slots whose place in `chosen` is true."""
        mark = chosen.tobytes()
        written = self._written.get(what)
        if written is None or written[0] != mark:
            rows = zip(labels, map(bytes, chosen), strict=True)
            written = self._written[what] = mark, [self._row_lines(what[0], *row, slots) for row in rows]
        return written[1]

    def _row_lines(self, family: Family, labels: tuple[str, ...], chosen: bytes, slots: Sequence[Slot]) -> bytes:
        shown = tuple(compress(slots, chosen))
        kept = self._lines.get((family.name, labels))
        if kept is None or kept[0] != shown:
            extras = [(slot.reason,) if slot.reason else () for slot in shown]
            kept = shown, b"".join([family.line(labels + extra) for extra in extras])
            self._lines[family.name, labels] = kept
        return kept[1]


def _slots_by_family(layout: Layout, *, at_tc: bool) -> dict[Family, list[Slot]]:
    slots: dict[Family, list[Slot]] = {}
    for slot in layout.slots:
        slots.setdefault(family_of(slot, at_tc=at_tc), []).append(slot)
    return slots


def family_of(slot: Slot, *, at_tc: bool) -> Family:
    """The family that shows this slot: policy and failsafe count flows at tc hooks and packets at XDP."""
    if slot.category == ACCEPTED:
        per_flow = slot.reason in ("policy", "failsafe") and at_tc
        return ACCEPTED_FLOWS if per_flow else ACCEPTED_PACKETS
    return _FAMILY_OF[slot.category]
