"""Who it was whose packets an endpoint denied, or which were denied to it: what was captured, by peer and port.

Pure functions of a snapshot and a capture. A flow was denied if none of its packets was seen beyond the hook, nothing
came back, connection tracking does not know it as allowed, and the policy program of the side that decides denies it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from exporter.calico.conntrack import Entry
from exporter.calico.packet import WITH_PORTS, Packet
from exporter.calico.policy_program import DENY
from exporter.calico.protocols import PORTLESS, protocol_name
from exporter.diagnosis.denied import Ruling, with_port
from exporter.diagnosis.denied_rules import ruling_of
from exporter.diagnosis.trace import trace
from exporter.diagnosis.trace_node import NodeFacts
from exporter.diagnosis.trace_program import Budget, Files, ProgramTrace
from exporter.errors import ExporterError
from exporter.node.endpoints import HOST, WORKLOAD, Endpoint
from exporter.node.packet_flows import Capture, SeenFlow
from exporter.snapshot.snapshot import Snapshot

# What tells whether a flow passed; the policy files and IP sets of `trace` are read for the others.
PARTS = frozenset({"endpoints", "conntrack", "services_4", "services_6", "routes_4", "routes_6"})
MAX_EVALUATED = 50
INBOUND, OUTBOUND = "inbound", "outbound"
PASSED, DENIED, UNANSWERED, UNKNOWN, SPOOFED = "passed", "denied", "unanswered", "unknown", "spoofed"
_SPOOFED_WHY = "the source is no address of the pod: Calico drops it and counts none"
_Side = tuple[str, int]


@dataclass(frozen=True, slots=True)
class PacketGroup:
    """Packets of new flows between the endpoint and one peer, to one port; `port` is 0 where the protocol has none.

    `destination` is what the packets were for, a service's address too; `translated` its backend, if one is known.
    `why` says why the verdict is `unknown`, or what but policy denied it. `decider` is the endpoint whose program
    denied it, `reason` that of its counter, empty if nothing counts it.
    """

    direction: str
    peer: str
    destination: str
    family: int
    protocol: int
    port: int
    icmp: tuple[int, int] | None
    translated: _Side | None
    verdict: str
    flows: int
    packets: int
    sample: SeenFlow
    why: str = ""
    ruling: Ruling | None = None
    decider: Endpoint | None = None
    reason: str = ""

    @property
    def title(self) -> str:
        """The protocol and port, or the type and code of ICMP."""
        if self.icmp:
            return f"{protocol_name(self.protocol)} type {self.icmp[0]} code {self.icmp[1]}"
        return with_port(self.protocol, self.port)


class _Flows:
    """What a snapshot knows about captured flows of one endpoint."""

    def __init__(self, snapshot: Snapshot, endpoint: Endpoint) -> None:
        self._own = _normal(endpoint)
        self._interface = endpoint.interface
        every = snapshot.endpoints.get().by_index.values()
        self._pods = {one.interface: _normal(one) for one in every if one.kind == WORKLOAD}
        conntrack = snapshot.conntrack.or_else(None)
        self._entries = _by_opener(conntrack.entries if conntrack else ())
        self._facts = {family: NodeFacts(snapshot, family) for family in (4, 6)}

    def direction(self, flow: SeenFlow) -> str:
        """Empty for what is no flow of the endpoint: the link's own packets."""
        if any(_is_of_link(one) for one in (flow.source, flow.destination)):
            return ""
        if flow.interface == self._interface:
            return OUTBOUND
        return "" if flow.source in self._own else INBOUND

    def is_spoofed(self, flow: SeenFlow) -> bool:
        """Whether a pod sends from an address that is none of its own, where those of this IP family are known.

        A pod may be allowed to: its packets go out again then.
        """
        known = [one for one in self._pods.get(flow.interface, ()) if ip_address(one).version == flow.family]
        return bool(known) and flow.source not in known and not flow.same_passed

    def backends(self, flow: SeenFlow) -> set[_Side]:
        """The backends of the service that the flow is for, empty if it is for none."""
        service = self._facts[flow.family].service(_packet(flow, None))
        return {(one.address, one.port) for one in service.backends} if service else set()

    def entry(self, flow: SeenFlow) -> Entry | None:
        """The flow's entry in connection tracking."""
        asked = flow.destination, flow.destination_port
        has_ports = flow.protocol in WITH_PORTS  # in connection tracking: those of SCTP are 0 there
        found = self._entries.get((flow.protocol, flow.source, flow.source_port if has_ports else 0), ())
        if not has_ports:
            return next((one for one in found if one.destination.address == flow.destination), None)
        ends = [(one, (one.destination.address, one.destination.port)) for one in found]
        of_service = [(one, (one.service.address, one.service.port)) for one in found if one.service]
        return next((one for one, end in (*of_service, *ends) if end == asked), None)

    def has_passed(self, flow: SeenFlow, entry: Entry | None) -> bool:
        """Whether anything shows that both sides allowed it."""
        if flow.same_passed or (entry and (entry.approved or entry.replied)):
            return True
        beyond = flow.passed_to | flow.answered_by
        return bool(beyond and beyond & {(flow.destination, flow.destination_port), *self.backends(flow)})

    def is_for(self, flow: SeenFlow, entry: Entry | None) -> bool:
        """Whether a flow that comes in is for this endpoint, and not for another backend of its service."""
        if entry and entry.service:
            return entry.destination.address in self._own
        return flow.destination in self._own or {one for one, _ in self.backends(flow)} <= self._own


def groups_of(snapshot: Snapshot, capture: Capture, endpoint: Endpoint) -> tuple[PacketGroup, ...]:
    """What was captured of new flows by peer, direction, protocol and port, most packets first.

    Raises `MapError` or `NodeError` without endpoints.
    """
    flows, groups = _Flows(snapshot, endpoint), dict[tuple[object, ...], PacketGroup]()
    for flow in capture.flows:
        direction = flows.direction(flow)
        if direction:
            one = _group(flows, flow, direction)
            key = (one.direction, one.peer, one.destination, one.protocol, one.port, one.icmp, one.translated)
            before = groups.get((*key, one.verdict, one.why))
            total = (before.flows + 1, before.packets + one.packets) if before else (1, one.packets)
            groups[*key, one.verdict, one.why] = replace(before or one, flows=total[0], packets=total[1])
    ranked = sorted(groups.values(), key=lambda one: (-one.packets, one.direction, one.peer, one.protocol, one.port))
    return _judged(snapshot, ranked)


def policies_of_flows(snapshot: Snapshot, capture: Capture, endpoint: Endpoint) -> set[str]:
    """The interfaces whose policy these flows can meet here: those of their ends, of backends, and the host's."""
    flows = _Flows(snapshot, endpoint)
    addresses = {address for one in capture.flows for address in (one.source, one.destination)}
    addresses |= {address for one in capture.flows for address, _ in flows.backends(one)}
    addresses |= {one.destination.address for one in map(flows.entry, capture.flows) if one}
    every = snapshot.endpoints.get().by_index.values()
    hosts = {one.interface for one in every if one.kind == HOST and one.state}
    return hosts | {one.interface for one in every if addresses & {*one.addresses}} if addresses else set()


def _group(flows: _Flows, flow: SeenFlow, direction: str) -> PacketGroup:
    entry = flows.entry(flow)
    translated = entry.destination if entry and entry.service else None
    one = PacketGroup(
        direction=direction,
        peer=flow.source if direction == INBOUND or flows.is_spoofed(flow) else flow.destination,
        destination=flow.destination,
        family=flow.family,
        protocol=flow.protocol,
        port=flow.destination_port if _has_ports(flow) else 0,
        icmp=flow.icmp,
        translated=(translated.address, translated.port) if translated else None,
        verdict="",
        flows=1,
        packets=flow.packets,
        sample=flow,
    )
    if flows.is_spoofed(flow):
        return replace(one, verdict=SPOOFED, why=_SPOOFED_WHY)
    if flows.has_passed(flow, entry):
        return replace(one, verdict=PASSED)
    if direction == INBOUND and not flows.is_for(flow, entry):
        return replace(one, verdict=UNKNOWN, why="it may have gone to another backend of the service")
    return one


def _judged(snapshot: Snapshot, groups: Iterable[PacketGroup]) -> tuple[PacketGroup, ...]:
    """The groups whose verdict is open, with that of the policy programs."""
    found, asked = [], 0
    files = Files(snapshot, Budget()) if snapshot.policy_files.error is None else None
    for one in groups:
        asked += not one.verdict
        if one.verdict:
            found.append(one)
        elif asked > MAX_EVALUATED:
            found.append(replace(one, verdict=UNKNOWN, why=f"only the {MAX_EVALUATED} largest groups are evaluated"))
        else:
            found.append(_judge(snapshot, one, files))
    return tuple(found)


def _judge(snapshot: Snapshot, group: PacketGroup, files: Files | None) -> PacketGroup:
    flow, facts = group.sample, NodeFacts(snapshot, group.family)
    packet = _packet(flow, group.translated)
    try:
        found = trace(snapshot, packet, facts.end(flow.source), facts.end(flow.destination), "", files)
    except ExporterError as error:
        return replace(group, verdict=UNKNOWN, why=str(error))
    if found.verdict != DENY:
        verdict = UNKNOWN if found.why_unknown else UNANSWERED
        return replace(group, verdict=verdict, why=found.why_unknown)
    deniers = [one for one in found.programs if one.denies]
    if not deniers:
        return replace(group, verdict=DENIED, why="; ".join(found.notes))
    if len({one.endpoint.ifindex for one in deniers}) > 1:
        return replace(
            group, verdict=UNKNOWN, why="every backend of the service denies it: to which it went, is not known"
        )
    return _denied_by(group, deniers[0])


def _denied_by(group: PacketGroup, program: ProgramTrace) -> PacketGroup:
    one = replace(group, verdict=DENIED, decider=program.endpoint)
    if program.run is None:
        return replace(one, why=program.why, reason="blackhole_route")
    return replace(one, ruling=ruling_of(program), reason="policy")


def _packet(flow: SeenFlow, translated: _Side | None) -> Packet:
    ports = (flow.source_port, flow.destination_port) if _has_ports(flow) else (0, 0)
    kind, code = flow.icmp or (0, 0)
    return Packet(flow.family, flow.source, flow.destination, flow.protocol, *ports, kind, code, translated)


def _has_ports(flow: SeenFlow) -> bool:
    return flow.protocol not in PORTLESS


def _by_opener(entries: Iterable[Entry]) -> Mapping[tuple[int, str, int], list[Entry]]:
    """The entries in both directions: a captured packet may be an answer."""
    found: dict[tuple[int, str, int], list[Entry]] = {}
    for entry in entries:
        for one in (entry, replace(entry, source=entry.destination, destination=entry.source, service=None)):
            port = 0 if one.protocol in PORTLESS else one.source.port
            found.setdefault((one.protocol, one.source.address, port), []).append(one)
    return found


def _normal(endpoint: Endpoint) -> set[str]:
    return {str(ip_address(one)) for one in endpoint.addresses}


def _is_of_link(address: str) -> bool:
    """Whether it is not routed; in IPv4 a link-local address can be a service, such as 169.254.169.254."""
    one = ip_address(address)
    local = one.version == 6 and one.is_link_local
    return local or one.is_multicast or one.is_unspecified or address == "255.255.255.255"
