"""The way of one packet through this node: which policy programs it meets, in which order.

The order is that of felix/bpf-gpl/tc.c (`calico_tc_process_ct_lookup`) and xdp.c: the egress policy of the pod that
sends, or the host endpoint by which the packet enters; then the ingress policy of the pod that receives, or the host
endpoint by which it leaves. What is not certain is said, never guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from exporter.calico.failsafes import DEFAULT_INBOUND, DEFAULT_OUTBOUND
from exporter.calico.packet import DESTINATION_IS_HOST, SOURCE_IS_HOST, WIREGUARD_PORT, WITH_PORTS
from exporter.calico.policy_program import ALLOW, DENY, NO_MATCH, NotKnown
from exporter.calico.protocols import PROTOCOLS, TCP, UDP
from exporter.calico.rules import EGRESS, INGRESS
from exporter.diagnosis.rules import why_no_files
from exporter.diagnosis.trace_node import OTHER_NODE, End, Hidden, NodeFacts
from exporter.diagnosis.trace_program import XDP_FILE, Programs, ProgramTrace
from exporter.node.endpoints import HOST, WORKLOAD, Endpoint

_COST_OF_FILES = "which costs some instructions for each rule that a packet matches and a file for each program"
_IP_IN_IP = 4
_BLACKHOLE = "a blackhole route (service loop prevention) drops it before policy"
_INTERNAL = ("lo", "bpfin.cali", "bpfout.cali")  # interfaces of the node to itself


@dataclass(slots=True)
class Walk:
    """The way of one packet, as far as it has come: the programs that it has met, and what to say beside them."""

    programs: Programs
    facts: NodeFacts
    source: End
    destination: End
    via: str
    excluded: bool = False  # whether it is for a service that Calico leaves alone: its route is then not looked up
    met: list[ProgramTrace] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hidden: Hidden = field(default_factory=Hidden)
    is_refused: bool = False

    def go(self) -> None:
        """Goes as far as the packet does. Raises `NotKnown` where its way is not known.

        `is_refused` is then whether it is dropped before any program of a policy.
        """
        if not self.programs.any_file:
            raise NotKnown(why_no_files(self.programs.snapshot, _COST_OF_FILES))
        if self.programs.packet.protocol == _IP_IN_IP:
            raise NotKnown("Calico's programs decide about IP-in-IP packets before policy")
        packet = self.programs.packet
        if packet.protocol != TCP and not self.facts.knows_flows:
            self.notes.append(
                "connection tracking was not read: if this very flow is in it and was allowed, policy is not asked"
            )
        if packet.is_icmp_error:
            raise NotKnown(
                "Calico lets an ICMP error pass with the flow of the packet that it carries, which is not known here, "
                "and drops others before policy"
            )
        if not self.facts.knows_services and not self.destination.endpoint and packet.protocol in PROTOCOLS.values():
            self.notes.append(
                f"services are not known here: {self.destination.title} is taken for the address of none; policy sees "
                "the backends of a service"
            )
        if not self.source.endpoint and not self.destination.endpoint:
            self._find_the_node()
        if self.source.is_node:
            self._leave_the_node()
        elif self.source.endpoint:
            self._leave_the_pod(self.source.endpoint)
        else:
            self.hidden = self.facts.hidden_source(self.source, self.destination)
            self._note_the_other_half(self.source)
            self._come_in()
        self._doubt_wireguard()

    def _leave_the_pod(self, endpoint: Endpoint) -> None:
        if endpoint == self.destination.endpoint and not self.programs.packet.translated:
            why = "a pod's packets to its own addresses do not leave it: policy is not asked"
            self.met.append(self.programs.unasked(endpoint, EGRESS, why))
            return
        if self._is_blackhole():
            self.met.append(self.programs.unasked(endpoint, EGRESS, _BLACKHOLE, DENY))
            return
        self._ask(endpoint, EGRESS, self._flags())
        self._arrive()

    def _come_in(self) -> None:
        if self._is_blackhole() and not self._has_policy((XDP_FILE,)):
            self._refuse()
            return
        try:
            passed = self._at_host_endpoint(INGRESS, self.source, self._flags(), self._unless_node(self.source))
        except NotKnown:
            if self.destination.endpoint and not self._has_policy((XDP_FILE,)):
                self._arrive()  # a pod that denies it settles it, whichever interface it comes by
            raise
        if not passed and self._is_blackhole():
            self._refuse()
        elif not passed:
            self._arrive()

    def _refuse(self) -> None:
        self.is_refused = True
        self.notes.append(f"{self.destination.title}: {_BLACKHOLE}")

    def _find_the_node(self) -> None:
        """Neither end is a pod here, so one of them is the node itself: its addresses may not be known."""
        if None not in (self.source.is_node, self.destination.is_node):
            either = self.source.is_node or self.destination.is_node
            if not (either or self.via or self.programs.packet.translated or self._is_blackhole()):
                raise NotKnown(
                    f"neither {self.source.title} nor {self.destination.title} is a pod of this node or the node "
                    "itself: ask the node of one of them, or name the host's interface that forwards it with --via"
                )
            return
        if not self.via:
            raise NotKnown(
                f"neither {self.source.title} nor {self.destination.title} is a pod of this node, and the node's own "
                "addresses are not known here: name the host's interface with --via"
            )
        self.source = replace(self.source, is_node=bool(self.source.is_node))
        if not self.source.is_node and self.destination.is_node is None:
            self.notes.append(
                f"the node's addresses are not known here: {self.destination.title} is taken for this node's; a packet "
                "that the node itself sends is --from interface:NAME"
            )
        self.destination = replace(self.destination, is_node=not self.source.is_node)

    def _flags(self) -> tuple[int, ...]:
        """The flags that the packet can have where it enters the node."""
        known = self.destination.is_node and not self.excluded
        return (0, DESTINATION_IS_HOST) if known is None else (DESTINATION_IS_HOST,) if known else (0,)

    def _unless_node(self, end: End) -> str:
        """Why a program may not be met: this end may be the node itself. Empty if that is known."""
        if end.is_node is not None or self.via:
            return ""
        return f"{end.title} may be this node itself: if it is not, name the host's interface to it with --via"

    def _leave_the_node(self) -> None:
        if self.destination.endpoint:
            why = "the node's packets to its own pods are always allowed: policy is not asked"
            self.met.append(self.programs.unasked(self.destination.endpoint, INGRESS, why))
        elif self.destination.is_node:
            raise NotKnown("a packet of the node to itself does not leave it: loopback policy is not evaluated")
        else:
            self.hidden = self.facts.hidden_node_source(self.destination)
            self._note_the_other_half(self.destination)
            self._at_host_endpoint(EGRESS, self.destination, (SOURCE_IS_HOST,))

    def _arrive(self) -> None:
        if any(one.denies for one in self.met):
            return
        destination = self.destination
        if destination.endpoint:
            self._ask(
                destination.endpoint, INGRESS, (0,), "" if self.source.endpoint else self._unless_node(self.source)
            )
            return
        if destination.is_node is not False and self.source.endpoint:
            self.notes.append(
                f"{'if it is this node itself, ' if destination.is_node is None else ''}DefaultEndpointToHostAction of "
                "the FelixConfiguration decides after policy about a pod's packets to its own node: by default it "
                "drops them"
            )
        if not destination.is_node and not self._goes_on_in_a_tunnel():
            if self.source.endpoint and self.facts.may_translate_source(self.source.address, destination.address):
                why = f"outgoing NAT may replace {self.source.title} before, by an address that is not known here"
                self.hidden = Hidden(("ip_src", "sport"), why)
            self._note_the_other_half(destination)
            self._at_host_endpoint(EGRESS, destination, (0,), self._unless_node(destination))

    def _goes_on_in_a_tunnel(self) -> bool:
        """From outside through a service to another node: `dnat_should_encap`, which no policy is asked about."""
        if self.source.endpoint or self.source.is_node or not self.programs.packet.translated:
            return False
        self._note_the_other_half(self.destination)
        return True

    def _doubt_wireguard(self) -> None:
        """Calico v3.32 drops what comes from, or goes to, its WireGuard port but for its own nodes (parsing.h)."""
        packet = self.programs.packet
        came_in = not self.source.endpoint and not self.source.is_node
        goes_out = not self.destination.endpoint and not self.destination.is_node
        crossed = [(self.source, packet.destination_port)] if came_in else []
        crossed += [(self.destination, packet.port)] if goes_out else []
        for peer, port in crossed:
            route = self.facts.route(peer.address)
            if packet.protocol == UDP and port == WIREGUARD_PORT and not (route and route.remote_host):
                raise NotKnown(
                    f"udp port {port} is that of WireGuard between Calico's nodes by default: Calico v3.32 drops such "
                    f"packets before policy if the other end, here {peer.title}, is none of them"
                )

    def _note_the_other_half(self, end: End) -> None:
        location = self.facts.location(end)
        if location.where == OTHER_NODE:
            where = f"at the node {location.node}" if location.node not in ("", end.address) else "another node"
            self.notes.append(f"{end.title} is {where}: policy there is not evaluated, ask its own node")
        elif end is self.destination:
            self.notes.append(f"{end.title} is not a pod of this node: policy there is not evaluated, ask its own node")

    def _at_host_endpoint(self, way: str, peer: End, flags: Sequence[int], conditional: str = "") -> bool:
        """Asks the host endpoint between `peer` and this node. Returns whether untracked policy let the packet pass."""
        endpoint = self._host_interface(way, peer)
        if endpoint is None:
            return False
        if way == INGRESS and self.programs.has_file(endpoint, XDP_FILE) and not self._is_failsafe_for_xdp():
            untracked = self.programs.evaluate(endpoint, XDP_FILE, (0,), self.hidden)
            if untracked.run is None or untracked.run.verdict != NO_MATCH:
                self.met.append(replace(untracked, conditional=conditional or self._unless_failsafe(way)))
                return untracked.verdict == ALLOW
        if self.programs.has_file(endpoint, way):
            of_node = (SOURCE_IS_HOST if way == EGRESS else DESTINATION_IS_HOST) in flags
            if of_node and self._is_failsafe(way):
                why = f"port {self.programs.packet.port} is a failsafe port: policy is not asked"
                self.met.append(self.programs.unasked(endpoint, way, why))
            else:
                conditional = conditional or (self._unless_failsafe(way) if of_node else "")
                self._ask(endpoint, way, flags, conditional)
        return False

    def _is_failsafe_for_xdp(self) -> bool:
        """Whether the packet is to a failsafe port, or an answer from one: untracked policy is not asked."""
        packet, known = self.programs.packet, self.programs.failsafes
        return known is not None and (
            known.inbound(packet.protocol, packet.destination_port, packet.source)
            or known.outbound(packet.protocol, packet.source_port, packet.source)
        )

    def _is_failsafe(self, way: str) -> bool:
        packet, known = self.programs.packet, self.programs.failsafes
        if known is None:
            return False
        peer, asked = (self.destination, known.outbound) if way == EGRESS else (self.source, known.inbound)
        return asked(packet.protocol, packet.port, peer.address)

    def _unless_failsafe(self, way: str) -> str:
        """Why policy may not be asked where the failsafe ports are not known."""
        packet = self.programs.packet
        defaults = DEFAULT_OUTBOUND if way == EGRESS else DEFAULT_INBOUND
        if self.programs.failsafes is not None or (packet.protocol, packet.port) not in defaults:
            return ""
        return (
            f"port {packet.port} is a failsafe port by default, which policy is not asked about: whether "
            "it is one here is not known"
        )

    def _host_endpoints(self) -> list[Endpoint]:
        every = self.programs.snapshot.endpoints.get().by_index.values()
        return [one for one in every if one.kind == HOST and one.state and one.interface not in _INTERNAL]

    def _has_policy(self, ways: Sequence[str]) -> bool:
        """Whether any interface of the host has policy of one of these kinds."""
        return any(self.programs.has_file(one, name) for one in self._host_endpoints() for name in ways)

    def _host_interface(self, way: str, peer: End) -> Endpoint | None:
        """The interface between this node and `peer`, None where none of those that it can be has policy."""
        endpoints = self.programs.snapshot.endpoints.get().by_index.values()
        wanted = self.via or self.source.interface or self.destination.interface
        if wanted:
            return next((one for one in endpoints if one.interface == wanted), None)
        every = self._host_endpoints()
        if not self._has_policy((way, XDP_FILE) if way == INGRESS else (way,)):
            return None
        index, tunneled = self.facts.interface_to(peer.address), self.facts.is_tunneled(peer.address)
        found = every if len(every) == 1 and not tunneled else [one for one in every if one.ifindex == index]
        if found:
            return found[0]
        names = ", ".join(one.interface for one in every)
        raise NotKnown(f"which of {names} lies between this node and {peer.title} is not known: name it with --via")

    def _is_blackhole(self) -> bool:
        """Service loop prevention: what enters the node for such an address is dropped before policy.

        Raises `NotKnown` where the address may be a service's.
        """
        if self.excluded or not self.facts.is_blackhole(self.destination.address):
            return False
        packet = self.programs.packet
        if not self.facts.knows_services and not packet.translated and packet.protocol in WITH_PORTS:
            raise NotKnown(f"services are not known here: if {self.destination.title} is none, {_BLACKHOLE}")
        return True

    def _ask(self, endpoint: Endpoint, way: str, flags: Sequence[int], conditional: str = "") -> None:
        flow = self.facts.flow(self.programs.packet)
        # The program by which a packet comes into the node checks its own direction, the other one the reverse.
        comes_in = (way == EGRESS) == (endpoint.kind == WORKLOAD)
        if flow and flow[0 if comes_in else 1].approved:
            why = "this very flow is in connection tracking, allowed: policy is not asked while it lives"
            found = self.programs.unasked(endpoint, way, why)
        else:
            found = self.programs.evaluate(endpoint, way, flags, self.hidden)
        self.met.append(replace(found, conditional=conditional))
