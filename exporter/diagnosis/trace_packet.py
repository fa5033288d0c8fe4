"""The packet of a trace as a person describes it, and its two ends among what a snapshot knows.

An end is a pod, [NAMESPACE/]NAME, an address, or interface:NAME, which for an interface of the host is the node.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.calico.packet import WITH_PORTS, Packet
from exporter.calico.protocols import ICMP, ICMP6, PROTOCOLS, SCTP
from exporter.diagnosis.selection import NotHere, WrongUsage, pod_named
from exporter.diagnosis.trace_node import End, NodeFacts
from exporter.node.endpoints import HOST, Endpoint, Endpoints
from exporter.snapshot.snapshot import Snapshot

INTERFACE = "interface:"
_ECHO_REQUEST = {ICMP: 8, ICMP6: 128}
_SOURCE_PORT = 40000
_MAX_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Described:
    """The packet as the user describes it; what was not given is None."""

    protocol: int
    port: int | None = None
    source_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None

    @property
    def has_ports(self) -> bool:
        """Whether its protocol has ports."""
        return self.protocol in (*WITH_PORTS, SCTP)

    def check(self, prefix: str = "--") -> None:
        """Raises `WrongUsage` for what the protocol does not have, or lacks; names are those of the options."""
        if self.has_ports and self.port is None:
            raise WrongUsage(f"give the destination's {prefix}port")
        if not self.has_ports and (self.port is not None or self.source_port is not None):
            raise WrongUsage(f"only tcp, udp and sctp have {prefix}port and {prefix}source-port")
        if self.protocol not in _ECHO_REQUEST and (self.icmp_type is not None or self.icmp_code is not None):
            raise WrongUsage(f"only icmp and icmpv6 have {prefix}icmp-type and {prefix}icmp-code")


def protocol_of(text: str) -> int:
    """A protocol by its name or number. Raises `WrongUsage`."""
    number = PROTOCOLS.get(text.lower(), number_of(text, 255))
    if number is None:
        raise WrongUsage(f"{_shortened(text)} is none of {', '.join(PROTOCOLS)}, nor a number up to 255")
    return number


def number_of(text: str, most: int) -> int | None:
    """The number that is written there, None if there is none or it is larger."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else most + 1
    return number if number <= most else None


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def resolve(
    snapshot: Snapshot, described: Described, ends: tuple[str, str], options: tuple[str, str]
) -> tuple[Packet, End, End]:
    """The packet, its source and its destination; `options` are how the user gave the ends.

    Raises `WrongUsage`, `NotHere`, or the error of the snapshot's endpoints.
    """
    endpoints = [_endpoint(snapshot, end, option) for end, option in zip(ends, options, strict=True)]
    family = _family(described, ends, endpoints)
    facts = NodeFacts(snapshot, family)
    source, destination = (_end(facts, text, one, family) for text, one in zip(ends, endpoints, strict=True))
    return _packet(described, family, source.address, destination.address), source, destination


def host_interfaces(snapshot: Snapshot) -> list[str]:
    """The interfaces of the host, one of which a packet can take."""
    return sorted(one.interface for one in snapshot.endpoints.get().by_index.values() if one.kind == HOST)


def check_via(snapshot: Snapshot, via: str, option: str) -> None:
    """Raises `WrongUsage` if `via`, which the user gave as `option`, is given and no interface of the host."""
    hosts = host_interfaces(snapshot)
    if via and via not in hosts:
        raise WrongUsage(f"{option} {_shortened(via)} is no interface of the host: it has {', '.join(hosts)}")


def addresses_of(endpoints: Endpoints, ends: Sequence[str]) -> set[str]:
    """The addresses of these ends, as far as they can be told before there is a snapshot."""
    pods = (one for one in endpoints.by_index.values() if one.pod in ends or one.title in ends)
    return {str(one) for one in map(_address, ends) if one} | {address for pod in pods for address in pod.addresses}


def named(end: End) -> str:
    """An end for display, a pod with its address."""
    return f"{end.title} ({end.address})" if end.endpoint and end.endpoint.pod else end.title


def _packet(described: Described, family: int, source: str, destination: str) -> Packet:
    protocol = described.protocol
    if protocol in _ECHO_REQUEST:
        kind = _ECHO_REQUEST[protocol] if described.icmp_type is None else described.icmp_type
        code = described.icmp_code or 0
        return Packet(family, source, destination, protocol, icmp_type=kind, icmp_code=code)
    if described.port is None:
        return Packet(family, source, destination, protocol)
    source_port = _SOURCE_PORT if described.source_port is None else described.source_port
    return Packet(family, source, destination, protocol, source_port, described.port)


def _family(described: Described, ends: Sequence[str], endpoints: Sequence[Endpoint | None]) -> int:
    """The packet's IP family: that of an address or of ICMP, else the first that both ends have."""
    families = {address.version for address in map(_address, ends) if address}
    by_protocol = {ICMP: 4, ICMP6: 6}.get(described.protocol)
    if len(families) > 1:
        raise WrongUsage("source and destination are addresses of two IP families")
    if families and by_protocol and by_protocol not in families:
        raise WrongUsage(f"{'icmp' if by_protocol == 4 else 'icmpv6'} is not of the addresses' IP family")
    if families or by_protocol:
        return next(iter(families)) if families else int(by_protocol or 4)
    have = [{ipaddress.ip_address(one).version for one in pod.addresses} for pod in endpoints if pod and pod.addresses]
    return next((family for family in (4, 6) if all(family in one for one in have)), 4)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _endpoint(snapshot: Snapshot, text: str, option: str) -> Endpoint | None:
    """The endpoint that a name stands for; None for an address."""
    every = list(snapshot.endpoints.get().by_index.values())
    if _address(text):
        return None
    if text.startswith(INTERFACE):
        name = text.removeprefix(INTERFACE)
        found = next((one for one in every if one.interface == name), None)
        if found is None:
            raise NotHere(f"there is no interface {name} on this node")
        return found
    return pod_named(every, text, option, f"its address or {INTERFACE}NAME")


def _end(facts: NodeFacts, text: str, endpoint: Endpoint | None, family: int) -> End:
    if endpoint is None:
        return facts.end(str(ipaddress.ip_address(text)))
    if endpoint.kind == HOST:
        return facts.end_at(endpoint)
    addresses = [one for one in endpoint.addresses if ipaddress.ip_address(one).version == family]
    if not addresses:
        raise NotHere(f"no IPv{family} address of {text} is known here: give the address instead")
    return End(addresses[0], endpoint)
