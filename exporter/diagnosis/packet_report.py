"""What was captured beside what the counters counted in the same time: how far they agree, and what is left over.

Pure functions of a snapshot, a capture and an explanation. `watched.py` has what is captured.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from exporter.diagnosis.explain import Explanation
from exporter.diagnosis.packet_groups import DENIED, OUTBOUND, PASSED, PacketGroup, groups_of
from exporter.diagnosis.trace_node import NodeFacts
from exporter.diagnosis.watched import watched_of
from exporter.node.endpoints import Endpoint
from exporter.node.packet_filter import Watched
from exporter.node.packet_flows import Capture
from exporter.node.packet_headers import FRAGMENT, MALFORMED, SHORT
from exporter.quantities import format_duration, plural
from exporter.snapshot.recorded_packets import Counted, RecordedPackets
from exporter.snapshot.snapshot import Snapshot

_UNREADABLE = {SHORT: "too_short", MALFORMED: "malformed_ip", FRAGMENT: "fragment_out_of_order"}
_UNREADABLE_WORDS = {
    SHORT: "cut off",
    MALFORMED: "with a malformed header",
    FRAGMENT: "later fragments",
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Packets that the endpoint's counters counted as dropped, and those that were seen and placed there."""

    direction: str
    reason: str
    counted: int
    seen: int


@dataclass(frozen=True, slots=True)
class PacketReport:
    """A capture of one endpoint: its groups, each with the name of its peer, and how it agrees with the counters.

    `unplaced` says of what was seen why it is in no group, or in one without a verdict, with the number of packets.
    `when` is its time in words, `error` why there is no capture.
    """

    groups: tuple[PacketGroup, ...] = ()
    names: tuple[str, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    unplaced: tuple[tuple[str, int], ...] = ()
    capture: Capture = field(default_factory=Capture)
    addresses_left_out: int = 0
    when: str = "in the same time"
    error: str = ""

    @property
    def loses_packets(self) -> bool:
        """Whether denied packets were seen, wherever they are counted."""
        return any(one.verdict == DENIED for one in self.groups)


def report(snapshot: Snapshot, capture: Capture, watched: Watched, explanation: Explanation) -> PacketReport:
    """The report about the endpoint of the explanation. Raises `MapError` or `NodeError` without endpoints."""
    interface = explanation.endpoint.interface
    counted = [Counted(interface, drop.direction, drop.reason, drop.packets) for drop in explanation.drops]
    found = _report(snapshot, RecordedPackets(capture, tuple(counted)), explanation.endpoint)
    return replace(found, addresses_left_out=watched.left_out)


def capture_of(snapshot: Snapshot, capture: Capture, endpoint: Endpoint) -> Capture:
    """What a capture of all pods saw of one endpoint."""
    watched = watched_of(snapshot, endpoint, most=None)
    return replace(capture, flows=tuple(one for one in capture.flows if watched.concerns(one)))


def report_of_bundle(snapshot: Snapshot, recorded: RecordedPackets, endpoint: Endpoint) -> PacketReport:
    """The report about one endpoint from a capture of all pods. Raises as `report`."""
    own = replace(recorded, capture=capture_of(snapshot, recorded.capture, endpoint))
    found = _report(snapshot, own, endpoint)
    return replace(found, when=f"in {format_duration(recorded.capture.seconds)} while the bundle was made")


def _report(snapshot: Snapshot, recorded: RecordedPackets, endpoint: Endpoint) -> PacketReport:
    capture = recorded.capture
    unreadable = capture.unreadable.get(endpoint.interface, {})
    groups = groups_of(snapshot, capture, endpoint)
    counted: Counter[tuple[str, str]] = Counter()
    for one in recorded.counted:
        if one.interface == endpoint.interface:
            counted[one.direction, one.reason] += one.packets
    agreements = tuple(_agreements(groups, unreadable, counted, endpoint))
    return PacketReport(
        groups=groups,
        names=tuple(name_of(snapshot, one.family, one.peer) for one in groups),
        agreements=agreements,
        unplaced=tuple(_unplaced(groups, capture, unreadable, agreements)),
        capture=capture,
    )


def name_of(snapshot: Snapshot, family: int, address: str) -> str:
    """Whose an address is, as far as the node knows; empty if it does not."""
    facts = NodeFacts(snapshot, family)
    end, route = facts.end(address), facts.route(address)
    if end.endpoint:
        return end.endpoint.title
    if end.is_node:
        return "this node"
    if route and route.remote_host:
        return "another node"
    if route and route.remote_workload:
        return f"a pod of the node {route.next_hop}" if route.next_hop else "a pod of another node"
    known = snapshot.services(family).or_else(None)
    return "a service" if known and any(one.address == address for one in known.frontends) else ""


def _agreements(
    groups: Sequence[PacketGroup],
    unreadable: Mapping[str, int],
    counted: Counter[tuple[str, str]],
    endpoint: Endpoint,
) -> Iterator[Agreement]:
    """A line for each direction and reason that was counted, or seen where a counter of this endpoint counts it."""
    seen: Counter[tuple[str, str]] = Counter()
    for one in groups:
        if one.verdict == DENIED and one.reason and one.decider and one.decider.key == endpoint.key:
            seen[one.direction, one.reason] += one.packets
    for kind, packets in unreadable.items():
        place = OUTBOUND, _UNREADABLE.get(kind, "")
        if counted[place]:  # a later fragment that passes is no drop
            seen[place] += packets
    for way, reason in sorted({*counted, *seen}):
        if counted[way, reason] or seen[way, reason]:
            yield Agreement(way, reason, counted[way, reason], seen[way, reason])


def _unplaced(
    groups: Sequence[PacketGroup], capture: Capture, unreadable: Mapping[str, int], placed: Sequence[Agreement]
) -> Iterator[tuple[str, int]]:
    reasons: Counter[str] = Counter()
    for one in groups:
        if one.verdict not in (DENIED, PASSED):
            reasons[one.why or "policy here allows them, and no answer was seen"] += one.packets
    yield from reasons.most_common()
    counted = {one.reason for one in placed if one.counted}
    for kind, packets in unreadable.items():
        if _UNREADABLE.get(kind) not in counted:
            yield _UNREADABLE_WORDS.get(kind, kind), packets
    if capture.left_out:
        yield "of more flows than are kept", capture.left_out


def lines(found: PacketReport) -> Iterator[str]:
    """Sentences for a person."""
    if found.error:
        yield f"No packets were captured: {found.error}."
        return
    denied = [pair for pair in zip(found.groups, found.names, strict=True) if pair[0].verdict == DENIED]
    yield (
        f"Denied packets that were seen on this node {found.when}:"
        if denied
        else f"No denied packet was seen on this node {found.when}."
    )
    yield from (f"  {_group_line(one, name)}" for one, name in denied)
    for one in found.agreements:
        both = f"{plural(one.counted, 'packet')} counted, {one.seen} seen"
        yield f"Reason {one.reason}, {one.direction}: {both}{_rest(one)}."
    passed = sum(one.packets for one in found.groups if one.verdict == PASSED)
    if passed:
        yield f"Seen of flows that passed: {plural(passed, 'packet')}."
    yield from (f"Not placed: {plural(packets, 'packet')}: {why}." for why, packets in found.unplaced)
    yield from _limits(found)


def _rest(one: Agreement) -> str:
    left = one.counted - one.seen
    if not left:
        return ": they agree"
    return f": {left} more were counted than seen" if left > 0 else f": {-left} more were seen than counted"


def _group_line(one: PacketGroup, name: str) -> str:
    peer = f"{name} ({one.peer})" if name else one.peer
    ends = f"from {peer}" if one.direction == "inbound" else f"to {peer}"
    asked = f" at {one.destination}" if one.direction == "inbound" else ""
    backend = f", backend {one.translated[0]} port {one.translated[1]}" if one.translated else ""
    by = f"{one.decider.title}, " if one.decider else ""
    how = one.ruling.words if one.ruling else one.why
    return f"{plural(one.packets, 'packet')} {ends}, {one.title}{asked}{backend}: {by}{how}"


def _limits(found: PacketReport) -> Iterator[str]:
    capture = found.capture
    if capture.lost:
        yield f"The packet socket lost {plural(capture.lost, 'packet')}: what was seen is too few."
    if capture.full:
        yield f"The capture ended at its limit of {plural(capture.packets, 'packet')}."
    if found.addresses_left_out:
        yield f"Not captured: what came for {found.addresses_left_out} more addresses of its services."
