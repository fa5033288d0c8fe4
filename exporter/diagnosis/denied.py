"""The flows that an endpoint of this node denied, as connection tracking knows them: who asked for what, how often.

Calico's program at the sender makes an entry and approves its leg; the receiver's approves the other, or drops the
packet. So an entry to a pod of this node with the opener's approval alone is a flow that the pod's policy denied. A
flow that its own sender denied has no entry. Pure: a function of a snapshot's parts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.calico.conntrack import SCAN_PERIOD, Entry, Side
from exporter.calico.packet import Packet
from exporter.calico.protocols import PORTLESS, protocol_name
from exporter.calico.tables import address_port
from exporter.node.endpoints import Endpoint, Endpoints, workloads_by_address
from exporter.quantities import format_duration, plural
from exporter.snapshot.conntrack import Conntrack

if TYPE_CHECKING:  # the page needs no programs
    from exporter.diagnosis.policy_run import Step


@dataclass(frozen=True, slots=True)
class Ruling:
    """The rule that denied a packet, as `trace` words it and as a step of its program; or why that is not known.

    `rule_ids` are those that the program records, the deciding one last. `checked` is whether the attached program is
    that of the file, None if that may not be asked.
    """

    rule: str = ""
    why_unknown: str = ""
    step: "Step | None" = None
    rule_ids: tuple[int, ...] = ()
    checked: bool | None = None

    @property
    def words(self) -> str:
        """The same for a sentence about a denied packet."""
        return f"denied by {self.rule}" if self.rule else f"the rule is not known: {self.why_unknown}"


@dataclass(frozen=True, slots=True)
class DeniedFlows:
    """Flows of one peer to one port that `receiver` denied.

    `peer` and `destination` are addresses, `sender` the endpoint of this node behind `peer`, if it is one. `service` is
    what the peer asked for, if that was a service. `port` is 0 where the protocol has none, `source_port` that of the
    latest flow. `packets` is None where the entries count none; `age` is seconds since the last packet, `lifetime` how
    many seconds after it the entries expire by default. `ruling` is None where nobody asked for the rule.
    """

    receiver: Endpoint
    sender: Endpoint | None
    peer: str
    source_port: int
    destination: str
    family: int
    protocol: int
    port: int
    service: Side | None
    flows: int
    packets: int | None
    age: float | None
    lifetime: int
    ruling: Ruling | None = None

    @property
    def title(self) -> str:
        """The protocol and port, as in `tcp/8080`."""
        return with_port(self.protocol, self.port)


def denied_flows(conntrack: Conntrack, endpoints: Endpoints, of: Endpoint | None = None) -> tuple[DeniedFlows, ...]:
    """What endpoints of this node denied, latest first; with `of`, only what this one denied, or was denied to it."""
    owners = workloads_by_address(endpoints)
    groups: dict[tuple[str, str, int, int, Side | None], list[Entry]] = {}
    for entry in conntrack.entries:
        receiver, sender = owners.get(entry.destination.address), owners.get(entry.source.address)
        if receiver and entry.half_approved and not entry.replied and (of is None or _is_one_of(of, receiver, sender)):
            port = 0 if entry.protocol in PORTLESS else entry.destination.port
            key = entry.source.address, entry.destination.address, entry.protocol, port, entry.service
            groups.setdefault(key, []).append(entry)
    found = [_group(conntrack, owners, entries) for entries in groups.values()]
    return tuple(sorted(found, key=lambda one: (one.age or 0.0, one.receiver.title, one.peer, one.protocol, one.port)))


def packet_of(flow: DeniedFlows) -> Packet:
    """The first packet of the latest of these flows, as the receiver's policy saw it, but for the type and code of
    ICMP, which no entry has.
    """
    if flow.protocol in PORTLESS:
        return Packet(flow.family, flow.peer, flow.destination, flow.protocol)
    asked = flow.service or Side(flow.destination, flow.port)
    return Packet(
        family=flow.family,
        source=flow.peer,
        destination=asked.address,
        protocol=flow.protocol,
        source_port=flow.source_port,
        destination_port=asked.port,
        translated=(flow.destination, flow.port) if flow.service else None,
    )


def _is_one_of(endpoint: Endpoint, *others: Endpoint | None) -> bool:
    return any(one is not None and one.ifindex == endpoint.ifindex for one in others)


def with_port(protocol: int, port: int) -> str:
    """A protocol and its port, if it has ports: Calico has 0 for ICMP, SCTP and others."""
    return f"{protocol_name(protocol)}/{port}" if port else protocol_name(protocol)


def denied_lines(found: Iterable[DeniedFlows]) -> list[str]:
    """A sentence for each, and how long such entries live."""
    rows = list(found)
    lines = [_line(one) for one in rows]
    if rows:
        lifetimes = {one.lifetime: with_port(one.protocol, one.port).partition("/")[0] for one in rows}
        times = ", ".join(f"{seconds} s ({name})" for seconds, name in sorted(lifetimes.items()))
        lines.append(
            "Connection tracking forgets a denied flow this long after its last packet: "
            f"{times} by default, and up to {SCAN_PERIOD} s more."
        )
    return lines


def _line(one: DeniedFlows) -> str:
    peer = f"{one.sender.title} ({one.peer})" if one.sender else one.peer
    asked = f", asked for as service {address_port(one.service.address, one.service.port)}" if one.service else ""
    counted = plural(one.flows, "flow") + ("" if one.packets is None else f" with {plural(one.packets, 'packet')}")
    when = "" if one.age is None else f", the last {format_duration(one.age)} ago"
    rule = f"; {one.ruling.words}" if one.ruling else ""
    return f"{one.receiver.title} denied {peer} to {one.title} at {one.destination}{asked}: {counted}{when}{rule}"


def _group(conntrack: Conntrack, owners: Mapping[str, Endpoint], entries: list[Entry]) -> DeniedFlows:
    latest = max(entries, key=lambda one: one.last_seen)
    counts = [one.forth.packets for one in entries if one.forth.packets is not None]
    return DeniedFlows(
        receiver=owners[latest.destination.address],
        sender=owners.get(latest.source.address),
        peer=latest.source.address,
        source_port=latest.source.port,
        destination=latest.destination.address,
        family=latest.family,
        protocol=latest.protocol,
        port=0 if latest.protocol in PORTLESS else latest.destination.port,
        service=latest.service,
        flows=len(entries),
        packets=sum(counts) if len(counts) == len(entries) else None,
        age=conntrack.age(latest),
        lifetime=latest.timeout,
    )
