"""The classic BPF program by which the kernel chooses the packets of one pod, or of a node, for a packet socket.

For a pod it passes what comes in by its interface or goes out by it, what has one of its addresses, and what is for one
of its services. The addresses of all pods would not fit: for a node it passes everything but TCP segments that neither
open nor refuse a connection. Offsets are from the network header (`SKF_NET_OFF`), which fixed ones miss in tunnels.
Pure.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from exporter.calico.protocols import TCP
from exporter.node.packet_flows import SeenFlow
from exporter.node.packet_headers import Header

SNAP_LENGTH = 128  # bytes of a packet that reach this process
MAX_ADDRESSES = 120
_HOST, _OUTGOING = 0, 4  # include/uapi/linux/if_packet.h
# include/uapi/linux/filter.h
_AUXILIARY, _NETWORK = 0xFFFFF000, 0xFFF00000
_PROTOCOL, _PACKET_TYPE, _IFINDEX = 0, 4, 8
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_LENGTH = 0x20, 0x28, 0x30, 0x80
_JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _JUMP_IF_SET, _JUMP, _RETURN = 0x15, 0x35, 0x45, 0x05, 0x06
_IPV4, _IPV6 = 0x0800, 0x86DD
_NO_OPTIONS, _IPV4_PORT = 0x45, 22  # where the destination's port is, without options
_SYN_OR_RST, _FRAGMENT_OFFSET = 0x06, 0x1FFF

# An instruction: code, jump if true, jump if false, operand.
Instruction = tuple[int, int, int, int]
DROP_ALL: tuple[Instruction, ...] = ((_RETURN, 0, 0, 0),)
_PASS: Instruction = (_RETURN, 0, 0, SNAP_LENGTH)
_REFUSE: Instruction = (_RETURN, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Watched:
    """What to watch: a pod's interface and addresses, its services' addresses, and its node ports (address, port).

    `left_out` is how many more addresses of services and node ports there are than fit.
    """

    ifindex: int
    interface: str
    addresses: tuple[str, ...]
    services: tuple[str, ...] = ()
    node_ports: tuple[tuple[str, int], ...] = ()
    left_out: int = 0

    def program(self, loopback: int) -> tuple[Instruction, ...]:
        """The filter for it; `loopback` is the index of `lo`, on which packets are seen a second time."""
        return _by_family(_pass_if(self.ifindex), loopback, _of_family(self, 4), _of_family(self, 6))

    def keeps(self, header: Header, interface: str) -> bool:
        """Whether a flow is kept that opens with this header, by this interface: the filter has chosen already."""
        del header, interface
        return True

    def concerns(self, flow: SeenFlow) -> bool:
        """Whether a flow is from the pod, or for it or one of its services."""
        return (
            flow.interface == self.interface
            or flow.destination in (*self.addresses, *self.services)
            or (flow.destination, flow.destination_port) in self.node_ports
        )


@dataclass(frozen=True, slots=True)
class WatchedNode:
    """All pods of a node: their interfaces, the packed addresses of them and their services, and the node ports."""

    interfaces: frozenset[str]
    destinations: frozenset[bytes]
    node_ports: frozenset[tuple[bytes, int]]

    def program(self, loopback: int) -> tuple[Instruction, ...]:
        """The filter for it; `loopback` is the index of `lo`."""
        four = _outside_connections(
            33,
            (_load(_LOAD_BYTE, _NETWORK, 0), (_JUMP_IF_EQUAL, 1, 0, _NO_OPTIONS)),
            (_load(_LOAD_BYTE, _NETWORK, 9), (_JUMP_IF_EQUAL, 1, 0, TCP)),
            (_load(_LOAD_HALF, _NETWORK, 6), (_JUMP_IF_SET, 0, 1, _FRAGMENT_OFFSET)),
        )
        six = _outside_connections(53, (_load(_LOAD_BYTE, _NETWORK, 6), (_JUMP_IF_EQUAL, 1, 0, TCP)))
        return _by_family((), loopback, four, six)

    def keeps(self, header: Header, interface: str) -> bool:
        """Whether a flow is kept that opens with this header, by this interface: those of the node itself are not."""
        return (
            interface in self.interfaces
            or header.destination in self.destinations
            or (header.destination, header.destination_port) in self.node_ports
        )


def _by_family(
    interface: Sequence[Instruction], loopback: int, four: Sequence[Instruction], six: Sequence[Instruction]
) -> tuple[Instruction, ...]:
    """A program of one part for each IP family, after `interface` has compared the interface's index."""
    return (
        _load(_LOAD_WORD, _AUXILIARY, _PACKET_TYPE),
        (_JUMP_IF_EQUAL, 2, 0, _HOST),
        (_JUMP_IF_EQUAL, 1, 0, _OUTGOING),
        _REFUSE,
        _load(_LOAD_WORD, _AUXILIARY, _IFINDEX),
        *interface,
        (_JUMP_IF_EQUAL, 0, 1, loopback),
        _REFUSE,
        _load(_LOAD_WORD, _AUXILIARY, _PROTOCOL),
        (_JUMP_IF_EQUAL, 0, 1, _IPV4),
        (_JUMP, 0, 0, 3),
        (_JUMP_IF_EQUAL, 1, 0, _IPV6),
        _REFUSE,
        (_JUMP, 0, 0, len(four)),
        *four,
        *six,
    )


def packed(program: Sequence[Instruction]) -> bytes:
    """The program as `struct sock_filter`s."""
    return b"".join(struct.pack("=HBBI", *one) for one in program)


def _outside_connections(flags: int, *tests: tuple[Instruction, Instruction]) -> list[Instruction]:
    """Passes all but TCP segments without SYN and RST, whose flags are at this offset if each test skips one.

    The length comes first: a load beyond the packet would end the program.
    """
    found: list[Instruction] = [(_LOAD_LENGTH, 0, 0, 0), (_JUMP_IF_AT_LEAST, 1, 0, flags + 1), _PASS]
    for load, jump in tests:
        found += [load, jump, _PASS]
    return [*found, _load(_LOAD_BYTE, _NETWORK, flags), (_JUMP_IF_SET, 0, 1, _SYN_OR_RST), _PASS, _REFUSE]


def _of_family(watched: Watched, family: int) -> list[Instruction]:
    """Passes packets from or to the addresses of this family, and refuses the rest."""
    own, services = (_parsed(names, family) for names in (watched.addresses, watched.services))
    source, destination = (12, 16) if family == 4 else (8, 24)
    found = [*_match(source, own), *_match(destination, (*own, *services))]
    ports = [(ip_address(address), port) for address, port in watched.node_ports]
    for address, port in ports if family == 4 else ():
        found += _match_port(address, port) if address.version == 4 else []
    if family == 6:
        found += _match(destination, dict.fromkeys(one for one, _ in ports if one.version == 6))
    return [*found, _REFUSE]


def _match(offset: int, addresses: Iterable[IPv4Address | IPv6Address]) -> list[Instruction]:
    """Passes the packet if one of the addresses is at this offset."""
    found: list[Instruction] = []
    for address in addresses:
        words = struct.unpack(f">{len(address.packed) // 4}I", address.packed)
        for number, word in enumerate(words):
            found.append(_load(_LOAD_WORD, _NETWORK, offset + 4 * number))
            found.append((_JUMP_IF_EQUAL, 0, 2 * (len(words) - number) - 1, word))
        found.append(_PASS)
    return found


def _match_port(address: IPv4Address | IPv6Address, port: int) -> list[Instruction]:
    return [
        _load(_LOAD_WORD, _NETWORK, 16),
        (_JUMP_IF_EQUAL, 0, 5, int(address)),
        _load(_LOAD_BYTE, _NETWORK, 0),
        (_JUMP_IF_EQUAL, 0, 3, _NO_OPTIONS),
        _load(_LOAD_HALF, _NETWORK, _IPV4_PORT),
        (_JUMP_IF_EQUAL, 0, 1, port),
        _PASS,
    ]


def _pass_if(value: int) -> tuple[Instruction, Instruction]:
    return (_JUMP_IF_EQUAL, 0, 1, value), _PASS


def _load(code: int, base: int, offset: int) -> Instruction:
    return code, 0, 0, base + offset


def _parsed(names: Iterable[str], family: int) -> list[IPv4Address | IPv6Address]:
    return [one for one in map(ip_address, dict.fromkeys(names)) if one.version == family]
