"""Which packets are an endpoint's, or those of all pods of a node: what a capture watches.

Pure functions of a snapshot.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_address

from exporter.calico.services import NODE_PORT_ADDRESSES
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.node.packet_filter import MAX_ADDRESSES, Watched, WatchedNode
from exporter.snapshot.conntrack import packed
from exporter.snapshot.snapshot import Snapshot

# The parts that tell it.
PARTS = frozenset({"endpoints", "services_4", "services_6", "addresses"})


@dataclass(slots=True)
class _Asked:
    """What is asked for where a service is meant: its addresses, and the node's own with a port."""

    services: dict[str, None] = field(default_factory=dict)
    node_ports: dict[tuple[str, int], None] = field(default_factory=dict)


def watched_of(snapshot: Snapshot, endpoint: Endpoint, most: int | None = MAX_ADDRESSES) -> Watched:
    """What to capture of this endpoint: its interface, its addresses, and those of its services, `most` in all."""
    asked = _asked(snapshot, endpoint.addresses)
    services, ports = asked.services, asked.node_ports
    space = len(services) + len(ports) if most is None else max(most - len(endpoint.addresses), 0)
    kept_ports = tuple(ports)[: max(space - len(services), 0)]
    return Watched(
        endpoint.ifindex,
        endpoint.interface,
        endpoint.addresses,
        tuple(services)[:space],
        kept_ports,
        max(len(services) - space, 0) + len(ports) - len(kept_ports),
    )


def watched_node(snapshot: Snapshot) -> WatchedNode:
    """What to capture of all pods. Raises the error of the snapshot's endpoints."""
    pods = [one for one in snapshot.endpoints.get().by_index.values() if one.kind == WORKLOAD]
    addresses = {address for one in pods for address in one.addresses}
    asked = _asked(snapshot, addresses)
    return WatchedNode(
        frozenset(one.interface for one in pods),
        packed((*addresses, *asked.services)),
        frozenset((ip_address(address).packed, port) for address, port in asked.node_ports),
    )


def _asked(snapshot: Snapshot, addresses: Collection[str]) -> _Asked:
    """The frontends of the services that have one of these addresses as a backend."""
    found, own = _Asked(), [one.address for one in snapshot.addresses.or_else(())]
    for family in (4, 6):
        known = snapshot.services(family).or_else(None)
        for one in known.frontends if known else ():
            if not known or all(each.address not in addresses for each in known.backends.get(one.id, ())):
                continue
            if one.address == NODE_PORT_ADDRESSES[family]:
                found.node_ports |= {(each, one.port): None for each in own if (":" in each) == (family == 6)}
            elif one.address not in own:
                found.services[one.address] = None
    return found
