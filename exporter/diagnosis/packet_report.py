"""What was captured beside what the counters counted in the same time: how far they agree, and what is left over.

Pure functions of a snapshot, a capture and an explanation.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from exporter.calico.nat import Frontend
from exporter.calico.services import NODE_PORT_ADDRESSES
from exporter.diagnosis.explain import Explanation
from exporter.diagnosis.packet_groups import DENIED, OUTBOUND, PASSED, PacketGroup, groups_of
from exporter.diagnosis.trace_node import NodeFacts
from exporter.node.endpoints import Endpoint
from exporter.node.packet_filter import MAX_ADDRESSES, Watched
from exporter.node.packet_flows import Capture
from exporter.node.packet_headers import FRAGMENT, MALFORMED, SHORT
from exporter.quantities import plural
from exporter.snapshot.snapshot import Snapshot

# The parts that tell which packets are an endpoint's.
WATCHED_PARTS = frozenset({"endpoints", "services_4", "services_6", "addresses"})
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
    `error` is why there is no capture.
    """

    groups: tuple[PacketGroup, ...] = ()
    names: tuple[str, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    unplaced: tuple[tuple[str, int], ...] = ()
    capture: Capture = field(default_factory=Capture)
    addresses_left_out: int = 0
    error: str = ""

    @property
    def loses_packets(self) -> bool:
        """Whether denied packets were seen, wherever they are counted."""
        return any(one.verdict == DENIED for one in self.groups)


def watched_of(snapshot: Snapshot, endpoint: Endpoint) -> Watched:
    """What to capture of this endpoint: its interface, its addresses, and those of its services."""
    services: dict[str, None] = {}
    ports: dict[tuple[str, int], None] = {}
    own = [one.address for one in snapshot.addresses.or_else(())]
    for family, one in _frontends(snapshot, endpoint):
        if one.address == NODE_PORT_ADDRESSES[family]:
            ports |= {(each, one.port): None for each in own if (":" in each) == (family == 6)}
        elif one.address not in own:
            services[one.address] = None
    space = max(MAX_ADDRESSES - len(endpoint.addresses), 0)
    kept_ports = tuple(ports)[: max(space - len(services), 0)]
    return Watched(
        endpoint.ifindex,
        endpoint.interface,
        endpoint.addresses,
        tuple(services)[:space],
        kept_ports,
        max(len(services) - space, 0) + len(ports) - len(kept_ports),
    )


def _frontends(snapshot: Snapshot, endpoint: Endpoint) -> Iterator[tuple[int, Frontend]]:
    """The frontends that have the endpoint as a backend, each with its IP family."""
    for family in (4, 6):
        known = snapshot.services(family).or_else(None)
        for one in known.frontends if known else ():
            if known and any(each.address in endpoint.addresses for each in known.backends.get(one.id, ())):
                yield family, one


def report(
    snapshot: Snapshot, capture: Capture, watched: Watched, explanation: Explanation, prefixes: Sequence[str]
) -> PacketReport:
    """The report about the endpoint of the explanation. Raises `MapError` or `NodeError` without endpoints."""
    groups = groups_of(snapshot, capture, explanation.endpoint, prefixes)
    agreements = tuple(_agreements(groups, capture, explanation))
    return PacketReport(
        groups=groups,
        names=tuple(name_of(snapshot, one.family, one.peer) for one in groups),
        agreements=agreements,
        unplaced=tuple(_unplaced(groups, capture, agreements)),
        capture=capture,
        addresses_left_out=watched.left_out,
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


def _agreements(groups: Sequence[PacketGroup], capture: Capture, explanation: Explanation) -> Iterator[Agreement]:
    """A line for each direction and reason that was counted, or seen where a counter of this endpoint counts it."""
    counted: Counter[tuple[str, str]] = Counter()
    for drop in explanation.drops:
        counted[drop.direction, drop.reason] += drop.packets
    seen: Counter[tuple[str, str]] = Counter()
    for one in groups:
        if one.verdict == DENIED and one.reason and one.decider and one.decider.key == explanation.endpoint.key:
            seen[one.direction, one.reason] += one.packets
    for kind, packets in capture.unreadable.items():
        if counted[OUTBOUND, _UNREADABLE[kind]]:  # a later fragment that passes is no drop
            seen[OUTBOUND, _UNREADABLE[kind]] += packets
    for way, reason in sorted({*counted, *seen}):
        if counted[way, reason] or seen[way, reason]:
            yield Agreement(way, reason, counted[way, reason], seen[way, reason])


def _unplaced(
    groups: Sequence[PacketGroup], capture: Capture, placed: Sequence[Agreement]
) -> Iterator[tuple[str, int]]:
    reasons: Counter[str] = Counter()
    for one in groups:
        if one.verdict not in (DENIED, PASSED):
            reasons[one.why or "policy here allows them, and no answer was seen"] += one.packets
    yield from reasons.most_common()
    counted = {one.reason for one in placed if one.counted}
    for kind, packets in capture.unreadable.items():
        if _UNREADABLE[kind] not in counted:
            yield _UNREADABLE_WORDS[kind], packets
    if capture.left_out:
        yield "of more flows than are kept", capture.left_out


def lines(found: PacketReport) -> Iterator[str]:
    """Sentences for a person."""
    if found.error:
        yield f"No packets were captured: {found.error}."
        return
    denied = [pair for pair in zip(found.groups, found.names, strict=True) if pair[0].verdict == DENIED]
    yield (
        "Denied packets that were seen on this node in the same time:"
        if denied
        else ("No denied packet was seen on this node in the same time.")
    )
    yield from (f"  {_group_line(one, name)}" for one, name in denied)
    for one in found.agreements:
        both = f"{plural(one.counted, 'packet')} counted, {one.seen} seen"
        yield f"Reason {one.reason}, {one.direction}: {both}{_rest(one)}."
    passed = sum(one.packets for one in found.groups if one.verdict == PASSED)
    if passed:
        yield f"Of flows that passed, {plural(passed, 'packet')} were seen."
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
