"""The connection-tracking maps `cali_v4_ct<V>` and `cali_v6_ct<V>`: the flows that Calico's programs know.

A key is `{u32 protocol, address A, address B, u16 port A, u16 port B}`, the smaller address first. A value is `{u64,
u64 last seen, type, flags, ...}` and two legs with what passed from A to B and from B to A or, in a forward NAT entry,
the key of the reverse entry that has them (felix/bpf-gpl/conntrack_types.h, felix/bpf/conntrack v2 to v4). Sizes tell
the layout: v2 (until v3.23) has shorter legs without counts; v3 (until v3.30) and v4 (from v3.31 on) are alike, but
from v3.30 on the first u64 is when an RST was seen, and before when the entry was created. Times are ns of the kernel's
monotonic clock, ports are little-endian; ICMP has its identifier for a port.
"""

import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.calico.tables import Columns, address_text, layout_of, protocol_name, remembered

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
# `enum cali_ct_type`.
NORMAL, NAT_FORWARD, NAT_REVERSE = "normal", "nat_forward", "nat_reverse"
SYN_SENT, ESTABLISHED, CLOSING, UNREPLIED, UNKNOWN = "syn_sent", "established", "closing", "unreplied", "unknown"
_KINDS = {0: NORMAL, 1: NAT_FORWARD, 2: NAT_REVERSE}
# The bits of `struct calico_ct_leg`.
_SYN, _ACK, _FIN, _RST, _APPROVED, _OPENER, _WORKLOAD = (1 << bit for bit in range(7))
_FROM_B = 0x100  # CALI_CT_FLAG_BA: the flow was opened from B to A (in all releases but the oldest)

# How long an entry lives after its last packet, in seconds: `DefaultTimeouts` in felix/bpf/conntrack/timeouts (v3.30
# on) and felix/bpf/conntrack/cleanup.go (before), the same from v3.26 to v3.33; FelixConfiguration's
# bpfConntrackTimeouts changes them from v3.30 on. Felix looks for expired entries every 10 seconds (`ScanPeriod`).
SCAN_PERIOD = 10
_TIMEOUTS = {UDP: 60, ICMP: 5, ICMPV6: 5}
_OTHER_TIMEOUT = 600
_SYN_SENT_TIMEOUT, _ESTABLISHED_TIMEOUT, _FINS_TIMEOUT, _RST_TIMEOUT = 20, 3600, 30, 40


@dataclass(frozen=True, slots=True)
class Leg:
    """What passed in one direction, as bits, and the interface by which it enters the node (0: from the node itself).

    `packets` and `bytes` are None where the layout has no counts.
    """

    bits: int
    ifindex: int
    packets: int | None = None
    bytes: int | None = None

    @property
    def approved(self) -> bool:
        """Whether policy at the end that sends in this direction has allowed the flow."""
        return bool(self.bits & _APPROVED)

    @property
    def opener(self) -> bool:
        """Whether the flow's first packet went in this direction."""
        return bool(self.bits & _OPENER)

    @property
    def from_workload(self) -> bool:
        """Whether a workload's program approved it (v3.30 on)."""
        return bool(self.bits & _WORKLOAD)

    @property
    def established(self) -> bool:
        """Whether a SYN and an ACK were seen."""
        return bool(self.bits & _SYN and self.bits & _ACK)

    @property
    def syn_seen(self) -> bool:
        """Whether a SYN was seen."""
        return bool(self.bits & _SYN)

    @property
    def fin_seen(self) -> bool:
        """Whether a FIN was seen."""
        return bool(self.bits & _FIN)

    @property
    def rst_seen(self) -> bool:
        """Whether an RST was seen."""
        return bool(self.bits & _RST)


@dataclass(frozen=True, slots=True)
class Side:
    """An address and port at one end of a flow."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A flow from `source`, which opened it, to `destination`.

    `destination` of a `nat_reverse` entry is the backend, and `service` what the client asked for; that of a
    `nat_forward` entry is the service, and `backend` where it goes. `service` and `backend` are None in others.
    A `nat_forward` entry has no legs; if the client's address is translated too, its ends are in the order of the key
    and `backend` is None. `created_at` is None where the layout does not say.
    """

    kind: str
    family: int
    protocol: int
    source: Side
    destination: Side
    service: Side | None
    backend: Side | None
    forth: Leg | None
    back: Leg | None
    flags: int
    last_seen: int
    created_at: int | None

    @property
    def half_approved(self) -> bool:
        """Whether the opener's end has allowed the flow and the other has not.

        If the destination is a pod of this node, its policy denied the flow. Flows to the node itself, and those that
        leave by an interface without Calico's programs, stay like this too.
        """
        return self.forth is not None and self.back is not None and self.forth.approved and not self.back.approved

    @property
    def replied(self) -> bool | None:
        """Whether anything came back; None where the layout does not count packets and no flag tells."""
        if self.back is None:
            return None
        if self.back.bits & (_SYN | _ACK | _FIN | _RST) or self.back.packets:
            return True
        return None if self.back.packets is None and self.protocol != TCP else False

    @property
    def state(self) -> str:
        """`syn_sent`, `established`, `closing` (TCP), `unreplied`, `established` (others), or the kind for NAT."""
        return self.kind if self.kind != NORMAL else self.flow_state

    @property
    def flow_state(self) -> str:
        """The state of the flow whatever its kind; `unknown` in a forward NAT entry, whose reverse entry has it."""
        if self.forth is None or self.back is None:
            return UNKNOWN
        if self.protocol != TCP:
            return ESTABLISHED if self.replied else UNREPLIED
        if (self.forth.bits | self.back.bits) & (_FIN | _RST):
            return CLOSING
        return ESTABLISHED if self.forth.established and self.back.established else SYN_SENT

    @property
    def timeout(self) -> int | None:
        """For how many seconds after its last packet the entry lives by default (see `SCAN_PERIOD`); None in a forward
        NAT entry, which lives as long as its reverse entry.
        """
        if self.forth is None or self.back is None:
            return None
        if self.protocol != TCP:
            return _TIMEOUTS.get(self.protocol, _OTHER_TIMEOUT)
        if (self.forth.bits | self.back.bits) & _RST:
            return _RST_TIMEOUT
        if self.forth.bits & self.back.bits & _FIN:
            return _FINS_TIMEOUT
        return _ESTABLISHED_TIMEOUT if self.forth.established and self.back.established else _SYN_SENT_TIMEOUT

    @property
    def protocol_name(self) -> str:
        """`tcp`, `udp`, …"""
        return protocol_name(self.protocol)


@dataclass(frozen=True, slots=True)
class _Layout:
    family: int
    key: struct.Struct  # protocol, address A, address B, port A, port B
    legs: struct.Struct  # of both legs (bytes, packets,) bits, ifindex; then the service's address and port
    counts: bool


# First time, last seen, type, flags, flags3, flags4, flags2.
_HEAD = struct.Struct("<QQ4B3xB")
_BODY = 24
_KEY_4, _KEY_6 = struct.Struct("<I4s4sHH"), struct.Struct("<I16s16sHH")
_LAYOUTS = {
    (16, 64): _Layout(4, _KEY_4, struct.Struct("<4xII4xII4sH"), counts=False),
    (16, 88): _Layout(4, _KEY_4, struct.Struct("<QI4xIIQI4xII4x4sH"), counts=True),
    (40, 128): _Layout(6, _KEY_6, struct.Struct("<QI4xIIQI4xII16x16sH"), counts=True),
}
_SOURCE_PORT = struct.Struct("<H")  # behind the key of a forward entry: the port that the source was given


def decode_conntrack(columns: Columns, addresses: Collection[bytes] | None = None) -> Iterator[Entry]:
    """The entries in the order of the columns; with packed `addresses`, those that have one of them at an end.

    Entries of a type that no release has are left out, as Calico's programs do. Raises `LayoutError` at once.
    """
    layout = layout_of("connection-tracking", columns, _LAYOUTS)
    return _entries(layout, columns, None if addresses is None else frozenset(addresses))


def _entries(layout: _Layout, columns: Columns, addresses: Collection[bytes] | None) -> Iterator[Entry]:
    text, size = remembered(address_text), columns.value_size
    # Where the first time is that of an RST, most entries have none; where it is the creation, all have.
    dated = all(first for (first,) in struct.iter_unpack(f"<Q{size - 8}x", columns.values))
    for number, key in enumerate(layout.key.iter_unpack(columns.keys)):
        if addresses is None or key[1] in addresses or key[2] in addresses:
            value = columns.values[number * size : (number + 1) * size]
            entry = _entry(layout, key, value, text, dated=dated)
            if entry is not None:
                yield entry


def _entry(
    layout: _Layout, key: tuple[Any, ...], value: bytes, text: Callable[[bytes], str], *, dated: bool
) -> Entry | None:
    first, last_seen, number, low, third, high, second = _HEAD.unpack_from(value)
    flags = low | second << 8 | third << 16 | high << 24
    protocol, a, b = key[0], Side(text(key[1]), key[3]), Side(text(key[2]), key[4])
    kind, created_at = _KINDS.get(number), first if dated else None
    if kind is None:
        return None
    if kind == NAT_FORWARD:
        source, destination, backend = _ends_of_forward(layout, (a, b), value, text)
        return Entry(
            kind, layout.family, protocol, source, destination, None, backend, None, None, flags, last_seen, created_at
        )
    *numbers, service, port = layout.legs.unpack_from(value, _BODY)
    forth, back = _legs(numbers, counts=layout.counts)
    if back.opener or (not forth.opener and flags & _FROM_B):
        a, b, forth, back = b, a, back, forth
    asked = Side(text(service), port) if kind == NAT_REVERSE else None
    return Entry(kind, layout.family, protocol, a, b, asked, None, forth, back, flags, last_seen, created_at)


def _legs(numbers: Sequence[int], *, counts: bool) -> tuple[Leg, Leg]:
    if not counts:
        bits_a, ifindex_a, bits_b, ifindex_b = numbers
        return Leg(bits_a, ifindex_a), Leg(bits_b, ifindex_b)
    size_a, packets_a, bits_a, ifindex_a, size_b, packets_b, bits_b, ifindex_b = numbers
    return Leg(bits_a, ifindex_a, packets_a, size_a), Leg(bits_b, ifindex_b, packets_b, size_b)


def _ends_of_forward(
    layout: _Layout, ends: tuple[Side, Side], value: bytes, text: Callable[[bytes], str]
) -> tuple[Side, Side, Side | None]:
    """The client, the service and the backend: the client is at an end of both keys, maybe with another port."""
    _, a, b, port_a, port_b = layout.key.unpack_from(value, _BODY)
    (given,) = _SOURCE_PORT.unpack_from(value, _BODY + layout.key.size)
    reverse = Side(text(a), port_a), Side(text(b), port_b)
    for client, service in (ends, ends[::-1]):
        for end, backend in (reverse, reverse[::-1]):
            if end.address == client.address and end.port in (client.port, given):
                return client, service, backend
    return *ends, None  # the client's address was translated too
