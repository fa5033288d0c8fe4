"""The headers of a captured packet that say which flow it belongs to. Pure: bytes in, a tuple out.

Only headers are read: of IP, and of TCP, UDP, SCTP and ICMP the ports, flags and type. What follows is never kept.
"""

import struct
from typing import NamedTuple

from exporter.calico.protocols import ICMP, ICMP6, SCTP, TCP, UDP

# What a packet is to its flow. The last four have no flow.
OPENS, CONTINUES, SHORT, MALFORMED, FRAGMENT, OTHER = "opens", "continues", "short", "malformed", "fragment", "other"

_IPV4_SIZE, _IPV6_SIZE = 20, 40
_LAYER_4_SIZE = {TCP: 20, UDP: 8, ICMP: 8, ICMP6: 8, SCTP: 12}
_SYN, _ACK = 0x02, 0x10
_HOP_BY_HOP, _ROUTING, _FRAGMENT_HEADER, _DESTINATION = 0, 43, 44, 60
_MAX_EXTENSIONS = 8
_PORTS, _TYPE, _ECHO_ID, _SEQUENCE = struct.Struct(">HH"), struct.Struct("BB"), struct.Struct(">H"), struct.Struct(">I")
_QUERIES = {ICMP: (8, 13, 15, 17), ICMP6: (128,)}
_ECHO_REPLIES = {ICMP: (0, 14, 16, 18), ICMP6: (129,)}


class Header(NamedTuple):
    """Addresses are packed. ICMP queries and their answers have their identifier as both ports, other protocols
    without ports have 0; `icmp` is the type and code, None for others.

    `identity` is the same in the packet that a hook passed on: the sequence number of TCP, the IP id of IPv4, else 0.
    """

    kind: str
    family: int = 0
    protocol: int = 0
    source: bytes = b""
    destination: bytes = b""
    source_port: int = 0
    destination_port: int = 0
    icmp: tuple[int, int] | None = None
    identity: int = 0


def parse_packet(data: bytes, *, ipv6: bool) -> Header:
    """The headers of a packet that begins at its IP header, which may be cut off after 128 bytes."""
    return _parse_ipv6(data) if ipv6 else _parse_ipv4(data)


def _parse_ipv4(data: bytes) -> Header:
    if len(data) < _IPV4_SIZE:
        return Header(SHORT)
    start = 4 * (data[0] & 0xF)
    if start < _IPV4_SIZE or data[0] >> 4 != 4:
        return Header(MALFORMED)
    if int.from_bytes(data[6:8], "big") & 0x1FFF:
        return Header(FRAGMENT)
    identity = int.from_bytes(data[4:6], "big")
    return _layer_4(4, data[9], data[12:16], data[16:20], data[start:], identity)


def _parse_ipv6(data: bytes) -> Header:
    if len(data) < _IPV6_SIZE:
        return Header(SHORT)
    if data[0] >> 4 != 6:
        return Header(MALFORMED)
    protocol, start = data[6], _IPV6_SIZE
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in (_HOP_BY_HOP, _ROUTING, _FRAGMENT_HEADER, _DESTINATION):
            return _layer_4(6, protocol, data[8:24], data[24:40], data[start:], 0)
        if len(data) < start + 8:
            return Header(SHORT)
        if protocol == _FRAGMENT_HEADER and int.from_bytes(data[start + 2 : start + 4], "big") & 0xFFF8:
            return Header(FRAGMENT)
        size = 8 if protocol == _FRAGMENT_HEADER else 8 * (data[start + 1] + 1)
        protocol, start = data[start], start + size
    return Header(OTHER)


def _layer_4(family: int, protocol: int, source: bytes, destination: bytes, rest: bytes, identity: int) -> Header:
    if len(rest) < _LAYER_4_SIZE.get(protocol, 0):
        return Header(SHORT)
    if protocol == (ICMP if family == 4 else ICMP6):
        return _icmp(family, protocol, source, destination, rest, identity)
    if protocol not in (TCP, UDP, SCTP):
        return Header(OPENS, family, protocol, source, destination, identity=identity)
    port, other = _PORTS.unpack_from(rest)
    if protocol == TCP:
        kind = OPENS if rest[13] & (_SYN | _ACK) == _SYN else CONTINUES
        return Header(kind, family, protocol, source, destination, port, other, None, _SEQUENCE.unpack_from(rest, 4)[0])
    return Header(OPENS, family, protocol, source, destination, port, other, None, identity)


def _icmp(family: int, protocol: int, source: bytes, destination: bytes, rest: bytes, identity: int) -> Header:
    """Errors belong to the flow of the packet that they carry, and IPv6's neighbour discovery to none."""
    icmp = _TYPE.unpack_from(rest)
    if icmp[0] in _QUERIES[protocol]:
        kind = OPENS
    elif icmp[0] in _ECHO_REPLIES[protocol]:
        kind = CONTINUES
    else:
        return Header(OTHER)
    (number,) = _ECHO_ID.unpack_from(rest, 4)
    return Header(kind, family, protocol, source, destination, number, number, icmp, identity)
