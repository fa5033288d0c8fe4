"""Why an endpoint loses packets: what two looks can say about it, and no more.

Pure over two snapshots, or over one, whose counters then stand for all since they began. Every sentence says what was
counted; a rule that counted at the same time is called that and no cause, unless the numbers leave no other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.bpf.maps import MapError
from exporter.calico import LayoutError
from exporter.calico.counters import ACCEPTED, DROPPED, REDIRECTED, TOTAL_PACKETS
from exporter.calico.hooks import TC_EGRESS, TC_HOOKS, TC_INGRESS, XDP, direction, hook_name
from exporter.calico.reasons import reason_of
from exporter.calico.rules import NO_PROFILE_MATCH
from exporter.node import NodeError
from exporter.node.endpoints import HOST, UNKNOWN, UNMANAGED, WORKLOAD, Endpoint
from exporter.snapshot.by_endpoint import counters_by_endpoint
from exporter.snapshot.changes import APPEARED, VANISHED, EndpointChange, compare_counters, compare_rules
from exporter.snapshot.rules import END_OF_TIER, TIER
from exporter.snapshot.rules_by_endpoint import CountedProgram, merged, programs_of, sharers
from exporter.snapshot.take import Snapshot


@dataclass(frozen=True, slots=True)
class Drop:
    """Packets dropped at one hook for one reason, what the reason means and what to check."""

    hook: str
    direction: str
    reason: str
    packets: int
    meaning: str
    check: str


@dataclass(frozen=True, slots=True)
class CountingRule:
    """A rule of the endpoint that counted in the same time.

    `others` is how many other endpoints share its counter, `others_dropping` how many of those dropped packets by
    policy in that time: if none did, all hits of a deny rule are this endpoint's. `policy` is empty for a tier's end
    and for "no profile matched"; `rule` is its place, `end_of_tier` or `no_profile_match`.
    """

    hook: str
    kind: str
    policy: str
    tier: str
    rule: str
    action: str
    hits: int
    others: int
    others_dropping: int
    match: str


@dataclass(frozen=True, slots=True)
class OtherDropper:
    """Another endpoint of this node that dropped packets in the same time."""

    endpoint: Endpoint
    direction: str
    packets: int
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known: drops, the rules that counted, what is wrong with the endpoint, and notes of caution.

    `window` says whether it is about the time between two looks; else about all since the counters began. `black_hole`
    are the hooks at which every packet is lost uncounted.
    """

    endpoint: Endpoint
    window: bool
    drops: tuple[Drop, ...]
    rules: tuple[CountingRule, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    others: tuple[OtherDropper, ...]
    black_hole: tuple[str, ...]

    @property
    def loses_packets(self) -> bool:
        """Whether drops were counted, or packets are lost for certain without being counted."""
        return bool(self.drops or self.black_hole)


def explain(before: Snapshot | None, after: Snapshot, endpoint: Endpoint) -> Explanation:
    """What the looks say about `endpoint`. Raises `MapError`, `LayoutError` or `NodeError` without counters."""
    changes = _changes(before, after)
    own = next((one for one in changes if one.endpoint == endpoint), None)
    own = own or next((one for one in changes if one.endpoint.ifindex == endpoint.ifindex), None)
    drops = tuple(_drops(own, after)) if own else ()
    black_hole = tuple(map(hook_name, _missing_hooks(after, endpoint)))
    rules, unknown = _rules_of(before, after, endpoint, _policy_droppers(changes, after))
    return Explanation(
        endpoint=endpoint,
        window=before is not None,
        drops=drops,
        rules=tuple(rules),
        problems=tuple(_problems(after, endpoint, black_hole)),
        notes=(*_fate(own), *_cautions(drops, rules, own, after), *unknown),
        others=() if drops else tuple(_others(changes, endpoint, after)),
        black_hole=black_hole,
    )


def _changes(before: Snapshot | None, after: Snapshot) -> list[EndpointChange]:
    if before is None:
        return [EndpointChange(one) for one in counters_by_endpoint(after)]
    return compare_counters(before, after)


def _drops(change: EndpointChange, after: Snapshot) -> Iterator[Drop]:
    endpoint = change.endpoint
    found = []
    for slot in after.counter_layout.slots:
        for hook, row in change.counters.hooks.items():
            if slot.category == DROPPED and row[slot.number]:
                known = reason_of(slot.reason)
                packets = row[slot.number]
                way = _direction(endpoint, hook)
                found.append(Drop(hook_name(hook), way, slot.reason, packets, known.meaning, known.check))
    yield from sorted(found, key=lambda drop: -drop.packets)


def _direction(endpoint: Endpoint, hook: int) -> str:
    return "" if endpoint.kind == UNKNOWN else direction(hook, workload=endpoint.kind == WORKLOAD)


def _missing_hooks(after: Snapshot, endpoint: Endpoint) -> list[int]:
    state, layout = endpoint.state, after.counter_layout
    attached = state is not None and state.managed and not state.bond_slave and (state.ready(4) or state.ready(6))
    if not attached or not layout.entries_made_by_felix:
        return []
    table = after.counters
    there = set(table.hook[table.ifindex == endpoint.ifindex].tolist())
    return [hook for hook in TC_HOOKS if hook not in there]


def _problems(after: Snapshot, endpoint: Endpoint, black_hole: tuple[str, ...]) -> Iterator[str]:
    for hook in black_hole:
        yield (
            f"Its counter entry at {hook} is missing: from Calico v3.31 on every packet there is dropped and not "
            "counted; restart calico-node on this node"
        )
    if endpoint.kind == UNMANAGED:
        yield "Calico does not manage this interface: no program of Calico's sees its packets"
    if endpoint.kind == UNKNOWN:
        yield "Neither Calico nor the kernel knows this interface any more: these are leftovers"
    if endpoint.state is None and endpoint.kind in (WORKLOAD, HOST):
        yield "Calico's interface state does not know this interface (yet): its programs may not be attached"
    used = {family for state in after.ifstate for family in (4, 6) if state.ready(family)}
    for family in sorted(used):
        if endpoint.state and endpoint.state.managed and not endpoint.state.ready(family):
            yield f"Calico's IPv{family} programs are not in place on it (not ready): look into the log of calico-node"
    try:
        for one in after.rules.problems:
            if one.endpoint.interface == endpoint.interface:
                yield f"Its {one.direction} IPv{one.family} policy is not in place: {one.why}"
    except NodeError as error:
        yield f"Its policy is not known: {error}"


def _policy_droppers(changes: list[EndpointChange], after: Snapshot) -> set[tuple[str, str]]:
    """The interfaces and hooks that dropped by policy; where an interface is gone, those that may have."""
    found = set()
    for change in changes:
        hooks = [drop.hook for drop in _drops(change, after) if drop.reason == "policy"]
        hooks += map(hook_name, TC_HOOKS) if change.fate == VANISHED else []
        found |= {(change.endpoint.interface, hook) for hook in hooks}
    return found


def _rules_of(
    before: Snapshot | None, after: Snapshot, endpoint: Endpoint, droppers: set[tuple[str, str]]
) -> tuple[list[CountingRule], list[str]]:
    """The endpoint's rules that counted, those that deny first, and what is not known of them."""
    try:
        hits = after.rule_hits.by_id() if before is None else compare_rules(before.rule_hits, after.rule_hits)
        programs = merged([one for one in programs_of(after, endpoint, hits) if one.hook != hook_name(XDP)])
        carriers = sharers(after)
    except (MapError, LayoutError, NodeError) as error:
        return [], [f"Which rules counted is not known: {error}"]
    if not any(after.policies.files.values()):
        return [], [
            "Which rules counted is not known: Calico writes no policy files here (bpfPolicyDebugEnabled is off)"
        ]
    found = {rule: None for program in programs for rule in _counting(program, carriers, droppers)}
    order = {"deny": 0, "pass": 1, "allow": 2}
    notes = []
    if before is None:
        notes.append(
            "Rule counts begin when Calico starts, those of an endpoint with its interface: do not compare them"
        )
    elif _fell(before, after):
        notes.append(
            "Rule counts fell in this time: Calico started or a policy changed, and earlier hits are not known"
        )
    return sorted(found, key=lambda rule: (order.get(rule.action, 3), -rule.hits)), notes


def _fell(before: Snapshot, after: Snapshot) -> bool:
    return bool((after.rule_hits.of(before.rule_hits.ids) < before.rule_hits.hits).any())


def _counting(
    program: CountedProgram, carriers: Mapping[int, set[tuple[str, str]]], droppers: set[tuple[str, str]]
) -> Iterator[CountingRule]:
    def others(rule_id: int) -> tuple[int, int]:
        places = {place for place in carriers.get(rule_id, set()) if place[0] != program.endpoint.interface}
        return len({interface for interface, _ in places}), len({interface for interface, _ in places & droppers})

    for tier in program.tiers:
        for policy in tier.policies:
            title = "/".join(filter(None, (policy.name.namespace, policy.name.name)))
            for rule in policy.rules:
                if rule.hits:
                    about = (program.hook, policy.name.kind, title, tier.name, str(rule.position), rule.action)
                    yield CountingRule(*about, rule.hits, *others(rule.id), rule.match)
        if tier.end_hits:
            about = (program.hook, TIER, "", tier.name, END_OF_TIER, tier.end_action)
            yield CountingRule(*about, tier.end_hits, *others(tier.end_id), "what no rule of the tier matched")
    if program.no_profile_match:
        about = (program.hook, "Profile", "", "", "no_profile_match", "deny")
        match = "what no profile of the pod matched, inbound or outbound"
        yield CountingRule(*about, program.no_profile_match, *others(NO_PROFILE_MATCH), match)


def _fate(change: EndpointChange | None) -> Iterator[str]:
    if change is None or change.fate == VANISHED:
        yield "It is gone now: what it counted last is not known"
    elif change.fate == APPEARED:
        yield "It appeared in this time: counts are since then; Calico denies a pod's packets until it knows the pod"
    elif change.reset:
        yield "Its counters began anew in this time: the counts are since then"


def _cautions(
    drops: tuple[Drop, ...], rules: list[CountingRule], change: EndpointChange | None, after: Snapshot
) -> Iterator[str]:
    for hook in {drop.hook for drop in drops if drop.reason == "policy"}:
        denying = [rule for rule in rules if rule.hook == hook and rule.action == "deny"]
        if hook == hook_name(XDP):
            yield "Drops by untracked policy (XDP) are counted without their rule"
        elif not denying and not after.ends_have_ids and after.ends_have_ids is not None:
            yield "No deny rule counted: before Calico v3.30 ends of tiers and missing profile matches have no number"
        elif not denying:
            yield (
                "No deny rule of this endpoint counted in this time, although policy dropped packets: rule counts may "
                "be off, full or just emptied, or the pod was not yet known to Calico"
            )
    if change:
        for silent in _silent_hooks(change, after):
            way = _direction(change.endpoint, silent)
            yield (
                f"At {hook_name(silent)} ({way}) packets were seen that count as nothing else: packets of established "
                "connections and ARP do, and so do some that Calico drops without a reason (a spoofed source, a TCP "
                "ACK without connection, a pod without workload endpoint)"
            )


def _silent_hooks(change: EndpointChange, after: Snapshot) -> list[int]:
    """The tc hooks at which only the total moved."""
    slots = after.counter_layout.slots
    spoken = [slot.number for slot in slots if slot.category in (ACCEPTED, DROPPED, REDIRECTED)]
    silent = []
    for hook in (TC_INGRESS, TC_EGRESS):
        row = change.counters.hooks.get(hook)
        if row and row[TOTAL_PACKETS] and not any(row[number] for number in spoken):
            silent.append(hook)
    return silent


def _others(changes: list[EndpointChange], endpoint: Endpoint, after: Snapshot) -> Iterator[OtherDropper]:
    for change in changes:
        other = change.endpoint
        if other.ifindex == endpoint.ifindex or other.kind == UNKNOWN:
            continue
        reasons: dict[str, int] = {}
        ways = set()
        for drop in _drops(change, after):
            if drop.direction == "inbound" or other.kind == HOST:
                reasons[drop.reason] = reasons.get(drop.reason, 0) + drop.packets
                ways.add(drop.direction)
        if reasons:
            yield OtherDropper(other, " and ".join(sorted(ways)), sum(reasons.values()), reasons)
