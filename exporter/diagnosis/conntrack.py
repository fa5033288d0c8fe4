"""Who talks to whom by connection tracking: its entries by pod, protocol and state, and the peers with most.

Pure: a function of a snapshot. `denied.py` has the flows that were denied.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from exporter.calico.conntrack import Entry, Side
from exporter.calico.protocols import PORTLESS
from exporter.diagnosis.denied import DeniedFlows, denied_flows
from exporter.node.endpoints import Endpoint, workloads_by_address
from exporter.snapshot.snapshot import Snapshot

PARTS = frozenset({"conntrack", "endpoints"})


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many entries of a protocol are in a state."""

    protocol: int
    state: str
    entries: int


@dataclass(frozen=True, slots=True)
class EndpointEntries:
    """The entries that have an address of this endpoint, by protocol and state, most first."""

    endpoint: Endpoint
    entries: int
    states: tuple[StateCount, ...]


@dataclass(frozen=True, slots=True)
class PeerEntries:
    """The entries between an endpoint and a peer's address: `inbound` ones the peer opened.

    `other` is the pod of this node that has the peer's address; `port` is the destination's (0 without ports);
    `service` is what was asked for where that was a service.
    """

    endpoint: Endpoint
    direction: str
    peer: str
    other: Endpoint | None
    protocol: int
    port: int
    service: Side | None
    entries: int


@dataclass(frozen=True, slots=True)
class Connections:
    """All entries by protocol and state; endpoints, peers and denied flows as far as they were chosen."""

    total: int
    states: tuple[StateCount, ...]
    endpoints: tuple[EndpointEntries, ...]
    peers: tuple[PeerEntries, ...]
    denied: tuple[DeniedFlows, ...]


def connections(snapshot: Snapshot, chosen: Collection[int], *, peers: bool) -> Connections:
    """The entries of the node, and those of the chosen interface indexes; `peers` needs their entries in the part."""
    conntrack, endpoints = snapshot.conntrack.get(), snapshot.endpoints.get()
    owners = workloads_by_address(endpoints)
    counts: dict[int, Counter[tuple[int, str]]] = {}
    for (address, protocol, state), number in conntrack.of_address.items():
        owner = owners.get(address)
        if owner and owner.ifindex in chosen:
            counts.setdefault(owner.ifindex, Counter())[protocol, state] += number
    rows = [EndpointEntries(endpoints.of(index), found.total(), _states(found)) for index, found in counts.items()]
    total: Counter[tuple[int, str]] = Counter()
    for (_, protocol, state), number in conntrack.counts.items():
        total[protocol, state] += number
    denied = denied_flows(conntrack, endpoints)
    return Connections(
        total.total(),
        _states(total),
        tuple(sorted(rows, key=lambda one: (-one.entries, one.endpoint.title))),
        _peers(snapshot, chosen) if peers else (),
        tuple(one for one in denied if {one.receiver.ifindex, one.sender and one.sender.ifindex} & {*chosen}),
    )


def _states(found: Counter[tuple[int, str]]) -> tuple[StateCount, ...]:
    rows = [StateCount(protocol, state, number) for (protocol, state), number in found.items()]
    return tuple(sorted(rows, key=lambda one: (-one.entries, one.protocol, one.state)))


def _peers(snapshot: Snapshot, chosen: Collection[int]) -> tuple[PeerEntries, ...]:
    owners = workloads_by_address(snapshot.endpoints.get())
    counts: Counter[tuple[int, str, str, int, int, Side | None]] = Counter()
    for entry in snapshot.conntrack.get().entries:
        port = 0 if entry.protocol in PORTLESS else entry.destination.port
        for near, far, direction in _ends(entry):
            owner = owners.get(near)
            if owner and owner.ifindex in chosen:
                counts[owner.ifindex, direction, far, entry.protocol, port, entry.service] += 1
    rows = [
        PeerEntries(
            snapshot.endpoints.get().of(index), direction, far, owners.get(far), protocol, port, service, number
        )
        for (index, direction, far, protocol, port, service), number in counts.items()
    ]
    return tuple(sorted(rows, key=lambda one: (-one.entries, one.endpoint.title, one.peer, one.protocol, one.port)))


def _ends(entry: Entry) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    source, destination = entry.source.address, entry.destination.address
    return (source, destination, "outbound"), (destination, source, "inbound")
