"""Explains why an endpoint loses packets, from two snapshots.

Pure functions of two snapshots, or of one, whose counters then cover all time since they were created. Reports only
what was counted; a rule with hits in the same period is not called the cause unless the numbers leave no other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.bpf.maps import MapError, MapMissing
from exporter.calico import LayoutError
from exporter.calico.counters import ACCEPTED, DROPPED, REDIRECTED, TOTAL_PACKETS
from exporter.calico.counters import UNKNOWN as UNKNOWN_SLOT
from exporter.calico.hooks import TC_HOOKS, XDP, hook_name
from exporter.calico.reasons import reason_of
from exporter.diagnosis import counters, rules, uncounted
from exporter.diagnosis.changes import APPEARED, EndpointChange, compare_counters
from exporter.diagnosis.counters import counters_by_endpoint
from exporter.diagnosis.counting_rules import CountingRule, CountingRules, counting_rules
from exporter.diagnosis.denied import DeniedFlows, denied_flows
from exporter.node.endpoints import HOST, UNKNOWN, UNMANAGED, WORKLOAD, Endpoint
from exporter.quantities import plural
from exporter.snapshot.snapshot import Snapshot

# Connection tracking can be large: it is read once, at the end.
LAST_PARTS = frozenset({"conntrack"})
PARTS = counters.PARTS | rules.PARTS | uncounted.PARTS | {"ifstate", "policy_file_names", "queue_drops"}


@dataclass(frozen=True, slots=True)
class Drop:
    """Packets dropped at one hook for one reason, with the reason's meaning and what to check."""

    hook: str
    direction: str
    reason: str
    packets: int
    meaning: str
    check: str

    @property
    def hook_title(self) -> str:
        """The hook, with the direction if known."""
        return f"{self.hook} ({self.direction})" if self.direction else self.hook


@dataclass(frozen=True, slots=True)
class OtherDropper:
    """Another endpoint of this node that dropped packets in the same period."""

    endpoint: Endpoint
    direction: str
    packets: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The drops, the rules with hits, the endpoint's problems, and notes on the limits of the data.

    `window` is whether it covers the time between two snapshots or all time since the counters were created.
    `uncounted` is the number of packets that Calico's programs never saw.
    `black_hole` are the hooks at which every packet is lost uncounted. `change` are the endpoint's counters, None if
    it never had any. `denied` are the flows that it denied, or another endpoint of this node denied to it, as far as
    connection tracking was read and still knows them.
    """

    endpoint: Endpoint
    window: bool
    change: EndpointChange | None
    drops: tuple[Drop, ...]
    rules: tuple[CountingRule, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    others: tuple[OtherDropper, ...]
    black_hole: tuple[str, ...]
    uncounted: int = 0
    denied: tuple[DeniedFlows, ...] = ()

    @property
    def loses_packets(self) -> bool:
        """Whether drops were counted, or packets are certainly lost uncounted."""
        return bool(self.drops or self.black_hole or self.uncounted)


def explain(before: Snapshot | None, after: Snapshot, endpoint: Endpoint) -> Explanation:
    """Explains the drops of `endpoint`. Raises `MapError`, `LayoutError` or `NodeError` without counters."""
    changes = _changes(before, after)
    change = next((one for one in changes if one.endpoint.key == endpoint.key), None)
    gone = after.endpoints.get().of(endpoint.ifindex).key != endpoint.key
    drops = tuple(drops_of(change, after)) if change else ()
    losing = after.endpoints.get().lose_packets(after.counters.get())
    missing = tuple(hook for one, hook in losing if one.key == endpoint.key)
    counting = counting_rules(before, after, endpoint, changes)
    lost = uncounted.uncounted_of(before, after, endpoint) if before and not gone else 0
    notes = [*_fate(change, gone=gone), *_data_notes(drops, counting, change, after), *counting.notes]
    notes += [*_unknown_slots(change, after), *_unknown_peers(drops, after), *_unknown_state(after)]
    return Explanation(
        endpoint=endpoint,
        window=before is not None,
        change=change,
        drops=drops,
        rules=counting.rules,
        problems=() if gone else (*_lost(lost), *_problems(after, endpoint, missing)),
        notes=tuple(dict.fromkeys(notes)),
        others=() if drops else tuple(_others(changes, endpoint, after)),
        black_hole=tuple(map(hook_name, missing)),
        uncounted=lost,
        denied=()
        if gone or after.conntrack.error
        else denied_flows(after.conntrack.get(), after.endpoints.get(), endpoint),
    )


def _changes(before: Snapshot | None, after: Snapshot) -> list[EndpointChange]:
    if before is None:
        return [EndpointChange(one) for one in counters_by_endpoint(after)]
    return compare_counters(before, after)


def drops_of(change: EndpointChange, after: Snapshot) -> Iterator[Drop]:
    """What an endpoint dropped, most packets first."""
    endpoint = change.endpoint
    found = []
    for slot in after.counters.get().layout.slots:
        for hook, row in change.counters.hooks.items():
            if slot.category == DROPPED and row[slot.number]:
                known = reason_of(slot.reason)
                packets = row[slot.number]
                way = endpoint.direction(hook)
                found.append(Drop(hook_name(hook), way, slot.reason, packets, known.meaning, known.check))
    yield from sorted(found, key=lambda drop: -drop.packets)


def _lost(packets: int) -> Iterator[str]:
    if packets:
        yield (
            f"{plural(packets, 'packet')} never reached Calico's program, so no counter of Calico's moved: another "
            "program dropped them before, or Calico's own cannot run (a failed tail call); compare the output of "
            "`tc filter show` and `bpftool net` for this interface with another pod's, and restart calico-node on this "
            "node"
        )


def _problems(after: Snapshot, endpoint: Endpoint, missing: tuple[int, ...]) -> Iterator[str]:
    for hook in missing:
        yield (
            f"Its counter entry at {endpoint.hook_title(hook)} is missing: from Calico v3.31 on every packet there is "
            "dropped and not counted; restart calico-node on this node"
        )
    if endpoint.kind == UNMANAGED:
        yield "Calico does not manage this interface: no program of Calico's sees its packets"
    if endpoint.kind == UNKNOWN:
        yield "Its name is not known: the kernel's links could not be read"
    known = after.endpoints.get()
    families = after.ip_families() if known.links_known and known.states_known else None
    if families is not None and endpoint.state is None and endpoint.kind in (WORKLOAD, HOST):
        yield "Calico's interface state does not know this interface (yet): its programs may not be attached"
    for family in families or ():
        if endpoint.state and endpoint.state.managed and not endpoint.state.ready(family):
            yield f"Calico's IPv{family} programs are not in place on it (not ready): check the log of calico-node"
    if after.rules.error:
        yield f"Its policy is not known: {after.rules.error}"
    for one in after.rules.get().problems if after.rules.error is None else ():
        if one.endpoint.interface == endpoint.interface:
            yield f"Its {one.direction} IPv{one.family} policy is not in place: {one.why}"


def _fate(change: EndpointChange | None, *, gone: bool) -> Iterator[str]:
    if gone:
        yield "It is gone now: what it counted last is not known"
    elif change is None:
        yield "No packet of it has ever been counted"
    elif change.fate == APPEARED:
        yield "It appeared in this time: counts are since then; Calico denies a pod's packets until it knows the pod"
    elif change.reset:
        yield "Its counters were reset in this time: the counts are since then"


def _data_notes(
    drops: tuple[Drop, ...], counting: CountingRules, change: EndpointChange | None, after: Snapshot
) -> Iterator[str]:
    for drop in (drop for drop in drops if drop.reason == "policy"):
        denied = sum(rule.hits for rule in counting.rules if rule.hook == drop.hook and rule.action == "deny")
        left = drop.packets - denied
        if left * 100 <= drop.packets:  # tolerance: the two maps are not read at the same instant
            left = 0
        if drop.hook == hook_name(XDP):
            yield "Drops by untracked policy (XDP) are counted without their rule"
        elif left > 0 and counting.known and after.ends_have_ids() is False:
            yield (
                f"No deny rule with a number explains {left} of the drops at {drop.hook_title}: before Calico v3.30 "
                "ends of tiers and missing profile matches have none"
            )
        elif left > 0 and counting.known:
            yield (
                f"No deny rule of this endpoint explains {left} of the drops at {drop.hook_title}: rule counts may be "
                "off, full or just emptied, or the pod was not yet known to Calico"
            )
    if change and not drops:
        for silent in _silent_hooks(change, after):
            yield (
                f"At {change.endpoint.hook_title(silent)} packets were counted only in the total, as are "
                "packets of established connections, ARP, and some that Calico drops without a reason (a spoofed "
                "source, a TCP ACK without connection, a service without endpoints, IPv6 on a node without it, a pod "
                "without workload endpoint)"
            )


def _unknown_slots(change: EndpointChange | None, after: Snapshot) -> Iterator[str]:
    """What was counted in slots without a known meaning, which can be drops."""
    unknown = [slot.number for slot in after.counters.get().layout.slots if slot.category == UNKNOWN_SLOT]
    rows = change.counters.hooks.values() if change else ()
    counted = {number: sum(row[number] for row in rows) for number in unknown}
    moved = ", ".join(f"{number} ({value})" for number, value in counted.items() if value)
    if moved:
        yield (
            f"Slots of its counters without a known meaning, which may be drops, counted packets: {moved}; "
            "--calico.layout-file can name them"
        )


def _unknown_peers(drops: tuple[Drop, ...], after: Snapshot) -> Iterator[str]:
    """That the flows which were denied are not known; where there is no such map, nothing is missing."""
    error = after.conntrack.error
    failed = isinstance(error, MapError | LayoutError) and not isinstance(error, MapMissing)
    if failed and any(drop.reason == "policy" for drop in drops):
        yield f"Whose flows were denied is not known: {error}"


def _unknown_state(after: Snapshot) -> Iterator[str]:
    """That problems of the interface, and drops that nothing counts, are not found."""
    received = None if after.reader == "bundle" else after.received.error  # bundles of 0.1 do not have it
    if error := after.links.error or after.ifstate.error or received:
        yield f"Whether packets are lost before Calico's programs, or for want of them, is not known: {error}"


def _silent_hooks(change: EndpointChange, after: Snapshot) -> list[int]:
    """The tc hooks at which only the total increased."""
    slots = after.counters.get().layout.slots
    categorized = [slot.number for slot in slots if slot.category in (ACCEPTED, DROPPED, REDIRECTED, UNKNOWN_SLOT)]
    silent = []
    for hook in TC_HOOKS:
        row = change.counters.hooks.get(hook)
        if row and row[TOTAL_PACKETS] and not any(row[number] for number in categorized):
            silent.append(hook)
    return silent


def _others(changes: list[EndpointChange], endpoint: Endpoint, after: Snapshot) -> Iterator[OtherDropper]:
    for change in changes:
        other = change.endpoint
        if other.key == endpoint.key or other.kind == UNKNOWN:
            continue
        reasons: dict[str, int] = {}
        ways = set()
        for drop in drops_of(change, after):
            if drop.direction == "inbound" or other.kind == HOST:
                reasons[drop.reason] = reasons.get(drop.reason, 0) + drop.packets
                ways.add(drop.direction)
        if reasons:
            yield OtherDropper(other, " and ".join(sorted(ways)), sum(reasons.values()), reasons)
