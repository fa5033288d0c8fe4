"""What a snapshot knows about the ends of a flow: whose they are, and what Calico's programs do before policy.

Pure functions of a snapshot. Calico's programs know a node by the flags in their route map (`cali_rt_lookup` in
felix/bpf-gpl/routes.h); a bundle of an older version has neither that map nor the node's addresses.
"""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from exporter.calico.packet import WITH_PORTS, Packet
from exporter.calico.protocols import TCP
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.snapshot.snapshot import Snapshot

if TYPE_CHECKING:  # only where it is used
    from exporter.calico.conntrack import Leg
    from exporter.calico.nat import Backend
    from exporter.calico.routes import Route
    from exporter.calico.services import Service

# Where an end is, seen from this node.
HERE, OTHER_NODE, OUTSIDE, SOMEWHERE = "here", "other_node", "outside", "unknown"
_TUNNEL_SOURCE = "policy then sees the tunnel's address as the source: name that address instead"
_TUNNEL_DEVICES = ("tunl0", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali")


@dataclass(frozen=True, slots=True)
class End:
    """An end of the flow: its address, empty if unknown, and the local pod that has it.

    `is_node` is whether it is the node itself, None if that is not known; `interface` is the node's interface that the
    user named.
    """

    address: str
    endpoint: Endpoint | None = None
    is_node: bool | None = False
    interface: str = ""

    @property
    def title(self) -> str:
        """Its name for display."""
        return self.endpoint.title if self.endpoint else self.address or f"the node at {self.interface}"


@dataclass(frozen=True, slots=True)
class Location:
    """Where the end with this address is; `node` is the address of the other node that has it."""

    address: str
    where: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Fields of the packet's state whose values are not known, and why."""

    fields: tuple[str, ...] = ()
    why: str = ""


class NodeFacts:
    """The facts of one node about addresses of IP `family`."""

    def __init__(self, snapshot: Snapshot, family: int) -> None:
        self._snapshot = snapshot
        self._family = family
        self._routes = snapshot.routes(family).or_else(None)

    def end(self, address: str) -> End:
        """The end with this address."""
        every = self._snapshot.endpoints.get().by_index.values()
        pod = next((one for one in every if one.kind == WORKLOAD and address in one.addresses), None)
        return End(address, pod, is_node=False if pod else self._is_node(address))

    def end_at(self, host: Endpoint) -> End:
        """The node itself, at this interface of the host."""
        rows = self._snapshot.addresses.or_else(())
        on_it = [one.address for one in rows if one.ifindex == host.ifindex]
        own = [one for one in on_it if ip_address(one).version == self._family and not ip_address(one).is_link_local]
        return End(own[0] if own else "", is_node=True, interface=host.interface)

    def _is_node(self, address: str) -> bool | None:
        if self._routes is not None:
            route = self._routes.of(address)
            return route is not None and route.local_host
        if self._snapshot.addresses.error:
            return None
        return address in {one.address for one in self._snapshot.addresses.get()}

    def route(self, address: str) -> "Route | None":
        """What Calico's programs know about an address, None where they know nothing or their routes are unknown."""
        return self._routes.of(address) if self._routes and address else None

    def is_blackhole(self, address: str) -> bool:
        """Whether Calico's programs drop or reject what comes in for this address before policy."""
        route = self.route(address)
        return route is not None and route.blackhole

    def location(self, end: End) -> Location:
        """Where an end is, as far as Calico's routes tell."""
        if end.endpoint or end.is_node:
            return Location(end.address, HERE)
        route = self.route(end.address)
        if route and (route.remote_workload or route.remote_host):
            return Location(end.address, OTHER_NODE, route.next_hop)
        return Location(end.address, SOMEWHERE if self._routes is None or end.is_node is None else OUTSIDE)

    def is_tunneled(self, address: str) -> bool:
        """Whether packets between this node and a pod elsewhere may be in a tunnel."""
        route = self.route(address)
        return route is not None and route.remote_workload and (route.tunneled or self._has_tunnel())

    def hidden_source(self, source: End, destination: End) -> Hidden:
        """What its own node may have changed in a packet from elsewhere to this node."""
        route = self.route(source.address)
        if route and route.remote_workload and self.may_translate_source(source.address, destination.address):
            why = f"outgoing NAT on its own node may have replaced {source.title}, by an address that is not known here"
            return Hidden(("ip_src", "sport"), why)
        if destination.endpoint and route and route.remote_host and self._may_use_tunnel(route):
            return Hidden(("ip_src",), f"{source.title} may use a tunnel to pods here: {_TUNNEL_SOURCE}")
        return Hidden()

    def hidden_node_source(self, destination: End) -> Hidden:
        """What the node itself may choose in its packet to elsewhere."""
        if self.is_tunneled(destination.address):
            return Hidden(("ip_src",), f"this node may use a tunnel to {destination.title}: {_TUNNEL_SOURCE}")
        return Hidden()

    def _may_use_tunnel(self, host: "Route") -> bool:
        """Whether another node may reach pods here through a tunnel. The route of a tunnel's own address says so."""
        if host.tunneled:
            return False
        if self._has_tunnel():
            return True
        pods = [one for one in self._routes.routes if one.remote_workload] if self._routes else []
        theirs = [one for one in pods if one.next_hop == host.next_hop] or pods
        return not theirs or any(one.tunneled for one in theirs)

    def _has_tunnel(self) -> bool:
        """Whether a device of a tunnel is in use: Calico then gives it an address. Routes may not tell."""
        every = self._snapshot.endpoints.get().by_index
        used = (every.get(one.ifindex) for one in self._snapshot.addresses.or_else(()))
        return any(one is not None and one.interface in _TUNNEL_DEVICES for one in used)

    def may_translate_source(self, source: str, destination: str) -> bool:
        """Whether outgoing NAT may replace the source of a pod's packet before it leaves the node."""
        if self._routes is None:
            return True
        own, theirs = self.route(source), self.route(destination)
        outgoing = own is not None and own.nat_outgoing
        return outgoing and not (theirs is not None and theirs.in_pool)

    def interface_to(self, address: str) -> int | None:
        """The index of the node's interface to an address, or to its node; None if unknown.

        It is the kernel's own choice where it was asked, or the only interface in whose network the address is.
        """
        route, chosen = self.route(address), self._snapshot.interfaces_to.or_else({}).get(address)
        if route and route.next_hop:
            if route.tunneled:
                return None
            address = route.next_hop
        if chosen is not None:
            return chosen
        found = {
            one.ifindex
            for one in self._snapshot.addresses.or_else(())
            if one.bits < ip_address(one.address).max_prefixlen
            and address
            and ip_address(address) in ip_network(f"{one.address}/{one.bits}", strict=False)
        }
        return found.pop() if len(found) == 1 else None

    @property
    def knows_services(self) -> bool:
        """Whether the node's services are known."""
        return self._snapshot.services(self._family).error is None

    @property
    def knows_flows(self) -> bool:
        """Whether connection tracking was read."""
        return self._snapshot.conntrack.error is None

    def service(self, packet: Packet) -> "Service | None":
        """The service that the packet is for, as Calico's programs look it up; None for no service, or if unknown."""
        services = self._snapshot.services(self._family).or_else(None)
        if services is None or not packet.destination:
            return None
        source, destination = self.route(packet.source), self.route(packet.destination)
        known = source is not None and bool(source.host or source.local_workload or source.remote_workload)
        # What comes in by a host's interface finds node ports only where the address itself is a frontend.
        here = not packet.source or (source is not None and (source.local_workload or source.local_host))
        host = here and destination is not None and destination.host
        asked = packet.destination, packet.destination_port, packet.protocol, packet.source
        return services.find(*asked, host=host, external=not known)

    def bound(self, packet: Packet) -> "Backend | None":
        """The backend that session affinity gave the packet's source last, which may have expired since."""
        services = self._snapshot.services(self._family).or_else(None)
        if services is None or not packet.source:
            return None
        return services.bound(packet.destination, packet.destination_port, packet.protocol, packet.source)

    def flow(self, packet: Packet) -> "tuple[Leg, Leg] | None":
        """What a live connection-tracking entry says about the packet's direction and about the other one.

        Policy is asked about each SYN of TCP all the same.
        """
        conntrack = self._snapshot.conntrack.or_else(None)
        if conntrack is None or packet.protocol == TCP:
            return None
        has_ports = packet.protocol in WITH_PORTS
        address, port = packet.translated or (packet.destination, packet.destination_port)
        wanted = (packet.source, packet.source_port * has_ports), (address, port * has_ports)
        for entry in conntrack.entries:
            ends = (entry.source.address, entry.source.port), (entry.destination.address, entry.destination.port)
            if entry.protocol != packet.protocol or ends not in (wanted, wanted[::-1]):
                continue
            age = conntrack.age(entry)
            if age is not None and age < entry.timeout:
                return (entry.forth, entry.back) if ends == wanted else (entry.back, entry.forth)
        return None
