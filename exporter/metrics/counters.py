"""Collector `counters`: packets and flows that Calico's programs counted, per endpoint, hook and reason.

Turns the decoded counter table into families, and decides which zeros are worth a series. An index that nobody knows
keeps its number as its name and shows only what is not zero, so that nothing read is lost and nothing is invented.
Works on whole columns: a node with 1000 interfaces has 54000 samples, and one at a time would cost more than all else.
"""

from collections.abc import Iterator, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from exporter.calico.counters import (
    ACCEPTED,
    ACCEPTED_BY_POLICY,
    DROPPED,
    DROPPED_BY_POLICY,
    NAT_COLLISION,
    REDIRECTED,
    TOTAL,
    UNKNOWN,
    Layout,
    Slot,
)
from exporter.calico.hooks import TC_HOOKS, XDP, direction, hook_name
from exporter.metrics.family import COUNTER, ENDPOINT_LABELS, GAUGE, Family, KeptSeries, Samples, Series
from exporter.node import endpoints
from exporter.node.endpoints import Endpoint, Endpoints
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
_CORE_SLOTS = frozenset({0, ACCEPTED_BY_POLICY, DROPPED_BY_POLICY})
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
        self._kept: KeptSeries[tuple[Series, ...]] = KeptSeries()

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file from the live counter map."""
        # Without interface state most zeros would be missing, and a missing zero is as false as a made-up one.
        table, _, known = snapshot.counters, snapshot.ifstate, snapshot.endpoints
        keys = list(zip(table.ifindex.tolist(), table.hook.tolist(), strict=True))
        # Before v3.31 the program made its entry at the first packet: until then the true count is 0, and increase()
        # must see the first denial.
        absent_is_zero = self._zeros != "none" and not table.layout.entries_made_by_felix
        idle = sorted(set(_idle_keys(known)).difference(keys)) if absent_is_zero else []
        sums = np.concatenate([table.sums, np.zeros((len(idle), len(table.layout.slots)), np.uint64)])
        keys += idle
        unknown = {ifindex for ifindex, _ in keys if known.of(ifindex).kind == endpoints.UNKNOWN}
        counting = sorted({key[0] for key, row in zip(keys, sums, strict=True) if key[0] in unknown and row.any()})
        hidden = unknown.difference(counting[: endpoints.MOST_UNKNOWN])
        order = sorted((row for row, key in enumerate(keys) if key[0] not in hidden), key=keys.__getitem__)
        samples = {family: Samples(family) for family in FAMILIES}
        for at_tc in (True, False):
            rows = [row for row in order if (keys[row][1] in TC_HOOKS) == at_tc]
            if rows:
                whose = [(known.of(keys[row][0]), keys[row][1]) for row in rows]
                self._add(samples, whose, sums[rows], table.layout)
        self._kept.turn()
        samples[UNKNOWN_INTERFACES].add((), len(unknown))
        return list(samples.values())

    def _add(
        self,
        samples: dict[Family, Samples],
        whose: Sequence[tuple[Endpoint, int]],
        sums: NDArray[np.uint64],
        layout: Layout,
    ) -> None:
        """Adds the rows `sums` of these endpoints and hooks, family by family; all are tc hooks or none is."""
        hook = whose[0][1]
        zeros = np.array([self._shown_zeros(*one, layout) for one in whose], bool)
        shown = (sums != 0) | zeros
        series = [self._series(*one, layout) for one in whose]
        for family, columns in _columns_by_family(layout, hook).items():
            chosen = shown[:, columns].ravel().tolist()
            every = [row[column] for row in series for column in columns]
            samples[family].extend(compress(every, chosen), compress(sums[:, columns].ravel().tolist(), chosen))

    def _series(self, endpoint: Endpoint, hook: int, layout: Layout) -> tuple[Series, ...]:
        """The series of all slots of an entry, by slot number."""
        labels = endpoint_labels(endpoint, hook)
        kept = self._kept.get((labels, len(layout.slots)))
        if kept is not None:
            return kept
        extras = [(slot.reason,) if slot.reason else () for slot in layout.slots]
        made = [family_of(slot, hook).series(labels + extra) for slot, extra in zip(layout.slots, extras, strict=True)]
        return self._kept.keep((labels, len(layout.slots)), tuple(made))

    def _shown_zeros(self, endpoint: Endpoint, hook: int, layout: Layout) -> list[bool]:
        """Which slots of this entry are shown even when they are zero, by slot number."""
        known = [slot.category != UNKNOWN for slot in layout.slots]
        nothing = [False] * len(known)
        if self._zeros == "none" or endpoint.kind == endpoints.UNKNOWN or hook > XDP:
            return nothing
        # A host's interfaces are few, and where a node's own traffic is lost.
        if self._zeros == "all" or (endpoint.kind == endpoints.HOST and endpoint.state is not None):
            return known
        if endpoint.state is None or hook not in TC_HOOKS:
            return nothing
        return [slot.number in _CORE_SLOTS for slot in layout.slots]


def _columns_by_family(layout: Layout, hook: int) -> dict[Family, list[int]]:
    columns: dict[Family, list[int]] = {}
    for slot in layout.slots:
        columns.setdefault(family_of(slot, hook), []).append(slot.number)
    return columns


def family_of(slot: Slot, hook: int) -> Family:
    """The family that shows this slot at this hook: policy and failsafe count flows at tc, packets at XDP."""
    if slot.category == ACCEPTED:
        per_flow = slot.reason in ("policy", "failsafe") and hook in TC_HOOKS
        return ACCEPTED_FLOWS if per_flow else ACCEPTED_PACKETS
    return _FAMILY_OF[slot.category]


def endpoint_labels(endpoint: Endpoint, hook: int) -> tuple[str, ...]:
    """The values of `ENDPOINT_LABELS` for this endpoint at this hook."""
    known = endpoint.kind != endpoints.UNKNOWN
    way = direction(hook, workload=endpoint.kind == endpoints.WORKLOAD) if known else ""
    return (endpoint.interface, hook_name(hook), way, endpoint.namespace, endpoint.pod)


def _idle_keys(known: Endpoints) -> Iterator[tuple[int, int]]:
    for endpoint in known.by_index.values():
        if endpoint.state is not None and endpoint.kind != endpoints.UNMANAGED:
            yield from ((endpoint.ifindex, hook) for hook in TC_HOOKS)
