"""Entries of the connection-tracking maps, decoded: who opened a flow to whom, what passed, and what policy said.

`conntrack_rows.py` describes the maps and their layouts. Pure: bytes in, frozen values out. Times are ns of the
kernel's monotonic clock.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.calico.conntrack_rows import (
    ACK,
    APPROVED,
    BODY,
    FIN,
    FROM_B,
    ICMP,
    ICMPV6,
    KINDS,
    NAT_FORWARD,
    NAT_REVERSE,
    NORMAL,
    OPENER,
    RST,
    SEEN,
    SOURCE_PORT,
    SYN,
    TCP,
    UDP,
    UNKNOWN,
    WORKLOAD,
    Layout,
    layout_of_conntrack,
    pick,
    state_of,
)
from exporter.calico.tables import Columns, address_text, protocol_name, remembered

# How long an entry lives after its last packet, in seconds: `DefaultTimeouts` in felix/bpf/conntrack/timeouts (v3.30
# on) and felix/bpf/conntrack/cleanup.go (before), the same from v3.26 to v3.33; FelixConfiguration's
# bpfConntrackTimeouts changes them from v3.30 on. Felix deletes expired entries every 10 seconds (`ScanPeriod`).
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
        return bool(self.bits & APPROVED)

    @property
    def opener(self) -> bool:
        """Whether the flow's first packet went in this direction."""
        return bool(self.bits & OPENER)

    @property
    def from_workload(self) -> bool:
        """Whether a workload's program approved it (v3.30 on)."""
        return bool(self.bits & WORKLOAD)

    @property
    def established(self) -> bool:
        """Whether a SYN and an ACK were seen."""
        return bool(self.bits & SYN and self.bits & ACK)

    @property
    def syn_seen(self) -> bool:
        """Whether a SYN was seen."""
        return bool(self.bits & SYN)

    @property
    def fin_seen(self) -> bool:
        """Whether a FIN was seen."""
        return bool(self.bits & FIN)

    @property
    def rst_seen(self) -> bool:
        """Whether an RST was seen."""
        return bool(self.bits & RST)


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
    def approved(self) -> bool:
        """Whether both ends have allowed the flow: Calico's programs do not ask policy about its packets any more."""
        return self.forth is not None and self.back is not None and self.forth.approved and self.back.approved

    @property
    def replied(self) -> bool:
        """Whether anything came back, as far as flags (TCP) and counts tell: v2 counts nothing."""
        return self.back is not None and bool(self.back.bits & SEEN or self.back.packets)

    @property
    def state(self) -> str:
        """`syn_sent`, `established`, `closing` (TCP), `unreplied`, `established` (others), or the kind for NAT."""
        return self.kind if self.kind != NORMAL else self.flow_state

    @property
    def flow_state(self) -> str:
        """The state of the flow whatever its kind; `unknown` in a forward NAT entry, whose reverse entry has it."""
        if self.forth is None or self.back is None:
            return UNKNOWN
        return state_of(self.protocol, self.forth.bits, self.back.bits, self.back.packets or 0)

    @property
    def timeout(self) -> int | None:
        """For how many seconds after its last packet the entry lives by default (see `SCAN_PERIOD`); None in a forward
        NAT entry, which lives as long as its reverse entry.
        """
        if self.forth is None or self.back is None:
            return None
        if self.protocol != TCP:
            return _TIMEOUTS.get(self.protocol, _OTHER_TIMEOUT)
        if (self.forth.bits | self.back.bits) & RST:
            return _RST_TIMEOUT
        if self.forth.bits & self.back.bits & FIN:
            return _FINS_TIMEOUT
        return _ESTABLISHED_TIMEOUT if self.forth.established and self.back.established else _SYN_SENT_TIMEOUT

    @property
    def protocol_name(self) -> str:
        """`tcp`, `udp`, …"""
        return protocol_name(self.protocol)


def decode_conntrack(columns: Columns, positions: Collection[int] | None = None) -> Iterator[Entry]:
    """The entries, or those at these positions, in the order of the columns. Raises `LayoutError` at once.

    Entries of a type that no release has are left out, as Calico's programs do.
    """
    layout = layout_of_conntrack(columns)
    # Where the first time is that of an RST, most entries have none; where it is the creation, all have.
    dated = all(row[0] for row in layout.value.iter_unpack(columns.values))
    wanted = pick(columns, range(len(columns.keys) // columns.key_size) if positions is None else sorted(positions))
    return _entries(layout, wanted, dated=dated)


def _entries(layout: Layout, columns: Columns, *, dated: bool) -> Iterator[Entry]:
    text = remembered(address_text)
    for number, (key, row) in enumerate(columns.rows(layout.key, layout.value)):
        kind = KINDS.get(row[2])
        if kind == NAT_FORWARD:
            body = columns.values[number * columns.value_size + BODY :][: layout.key.size + SOURCE_PORT.size]
            yield _forward(layout, key, row, body, text)
        elif kind:
            yield _tracking(layout, kind, key, row, text, created_at=row[0] if dated else None)


def _flags(row: Sequence[int]) -> int:
    low, third, high, second = row[3:7]
    return low | second << 8 | third << 16 | high << 24


def _tracking(
    layout: Layout,
    kind: str,
    key: tuple[Any, ...],
    row: tuple[Any, ...],
    text: Callable[[bytes], str],
    *,
    created_at: int | None,
) -> Entry:
    protocol, source, destination = key[0], Side(text(key[1]), key[3]), Side(text(key[2]), key[4])
    *legs, service, port = row[7:]
    forth, back = _legs(legs, counts=layout.counts)
    if back.opener or (_flags(row) & FROM_B and not forth.opener):
        source, destination, forth, back = destination, source, back, forth
    return Entry(
        kind=kind,
        family=layout.family,
        protocol=protocol,
        source=source,
        destination=destination,
        service=Side(text(service), port) if kind == NAT_REVERSE else None,
        backend=None,
        forth=forth,
        back=back,
        flags=_flags(row),
        last_seen=row[1],
        created_at=created_at,
    )


def _forward(
    layout: Layout, key: tuple[Any, ...], row: tuple[Any, ...], body: bytes, text: Callable[[bytes], str]
) -> Entry:
    ends = Side(text(key[1]), key[3]), Side(text(key[2]), key[4])
    source, service, backend = _ends_of_forward(layout, ends, body, text)
    return Entry(
        kind=NAT_FORWARD,
        family=layout.family,
        protocol=key[0],
        source=source,
        destination=service,
        service=None,
        backend=backend,
        forth=None,
        back=None,
        flags=_flags(row),
        last_seen=row[1],
        created_at=None,  # an RST can leave its time here in any layout that has one
    )


def _legs(numbers: Sequence[int], *, counts: bool) -> tuple[Leg, Leg]:
    if not counts:
        bits_a, ifindex_a, bits_b, ifindex_b = numbers
        return Leg(bits_a, ifindex_a), Leg(bits_b, ifindex_b)
    size_a, packets_a, bits_a, ifindex_a, size_b, packets_b, bits_b, ifindex_b = numbers
    return Leg(bits_a, ifindex_a, packets_a, size_a), Leg(bits_b, ifindex_b, packets_b, size_b)


def _ends_of_forward(
    layout: Layout, ends: tuple[Side, Side], body: bytes, text: Callable[[bytes], str]
) -> tuple[Side, Side, Side | None]:
    """The client, the service and the backend: the client is at an end of both keys, maybe with another port."""
    _, a, b, port_a, port_b = layout.key.unpack_from(body)
    (given,) = SOURCE_PORT.unpack_from(body, layout.key.size)
    reverse = Side(text(a), port_a), Side(text(b), port_b)
    for client, service in (ends, ends[::-1]):
        for end, backend in (reverse, reverse[::-1]):
            if end.address == client.address and end.port in (client.port, given):
                return client, service, backend
    return *ends, None  # the client's address was translated too
