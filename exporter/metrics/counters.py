"""Collector `counters`: packets and flows that Calico's programs counted, per endpoint, hook and reason.

Turns the decoded counter table into families, and decides which zeros are worth a series. An index that nobody knows
keeps its number as its name and shows only what is not zero, so that nothing read is lost and nothing is invented.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from exporter.metrics.family import COUNTER, ENDPOINT_LABELS, GAUGE, Family, Samples
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
    "Packets accepted one by one: by another Calico program at any hook, by policy or failsafe only at the XDP hook.",
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


@dataclass(frozen=True, slots=True)
class CountersCollector:
    """`zeros` says which zero samples are written: `core`, `all` or `none`."""

    zeros: str = "core"
    name: str = "counters"

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file from the live counter map."""
        table, known = snapshot.counters, snapshot.endpoints
        rows = dict(
            zip(zip(table.ifindex.tolist(), table.hook.tolist(), strict=True), table.sums.tolist(), strict=True)
        )
        # Before v3.31 the program made its entry at the first packet: until then the true count is 0, and increase()
        # must see the first denial.
        if self.zeros != "none" and not table.layout.entries_made_by_felix:
            empty = [0] * len(table.layout.slots)
            rows = dict.fromkeys(_idle_keys(known), empty) | rows
        samples = {family.name: Samples(family) for family in FAMILIES}
        unknown = {ifindex for ifindex, _ in rows if known.of(ifindex).kind == endpoints.UNKNOWN}
        shown = set(sorted(unknown)[: endpoints.MOST_UNKNOWN])
        for ifindex, hook in sorted(rows):
            if ifindex not in unknown or ifindex in shown:
                self._add(samples, known.of(ifindex), hook, rows[ifindex, hook], table.layout)
        samples[UNKNOWN_INTERFACES.name].add((), len(unknown))
        return list(samples.values())

    def _add(
        self, samples: dict[str, Samples], endpoint: Endpoint, hook: int, row: Sequence[int], layout: Layout
    ) -> None:
        labels = endpoint_labels(endpoint, hook)
        zeros = self._zeros(endpoint, hook)
        for slot, value in zip(layout.slots, row, strict=True):
            if value or (slot.category != UNKNOWN and (zeros is None or slot.number in zeros)):
                extra = (slot.reason,) if slot.reason else ()
                samples[family_of(slot, hook).name].add(labels + extra, value)

    def _zeros(self, endpoint: Endpoint, hook: int) -> frozenset[int] | None:
        """The slots whose zero is shown; None means all of them."""
        if self.zeros == "none" or endpoint.kind == endpoints.UNKNOWN or hook > XDP:
            return frozenset()
        if self.zeros == "all":
            return None
        if endpoint.state is None:
            return frozenset()
        if endpoint.kind == endpoints.HOST:
            return None  # few, and where a node's own traffic is lost
        return _CORE_SLOTS if hook in TC_HOOKS else frozenset()


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
