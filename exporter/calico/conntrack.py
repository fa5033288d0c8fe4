"""Entries of the connection-tracking maps, decoded: who opened a flow to whom, what passed, and what policy said.

`conntrack_rows.py` describes the maps and their layouts. Pure: bytes in, frozen values out. Times are ns of the
kernel's monotonic clock.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.calico.conntrack_rows import (
    ACK,
    APPROVED,
    FIN,
    FROM_B,
    KINDS,
    NAT_REVERSE,
    NORMAL,
    OPENER,
    RST,
    SEEN,
    SYN,
    Layout,
    layout_of_conntrack,
)
from exporter.calico.protocols import ICMP, ICMP6, TCP, UDP
from exporter.calico.tables import Columns, address_text, remembered

# How long an entry lives after its last packet, in seconds: `DefaultTimeouts` in felix/bpf/conntrack/timeouts (v3.30
# on) and felix/bpf/conntrack/cleanup.go (before), the same from v3.26 to v3.33; FelixConfiguration's
# bpfConntrackTimeouts changes them from v3.30 on. Felix deletes expired entries every 10 seconds (`ScanPeriod`).
SCAN_PERIOD = 10
_TIMEOUTS = {UDP: 60, ICMP: 5, ICMP6: 5}
_OTHER_TIMEOUT = 600
_SYN_SENT_TIMEOUT, _ESTABLISHED_TIMEOUT, _FINS_TIMEOUT, _RST_TIMEOUT = 20, 3600, 30, 40


@dataclass(frozen=True, slots=True)
class Leg:
    """What passed in one direction, as bits, and how many packets; None where the layout has no counts."""

    bits: int
    packets: int | None = None

    @property
    def approved(self) -> bool:
        """Whether policy at the end that sends in this direction has allowed the flow."""
        return bool(self.bits & APPROVED)

    @property
    def opener(self) -> bool:
        """Whether the flow's first packet went in this direction."""
        return bool(self.bits & OPENER)

    @property
    def established(self) -> bool:
        """Whether a SYN and an ACK were seen."""
        return bool(self.bits & SYN and self.bits & ACK)


@dataclass(frozen=True, slots=True)
class Side:
    """An address and port at one end of a flow."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A flow from `source`, which opened it, to `destination`.

    `service` is what the client asked for where that was a service, whose backend is then the destination; else None.
    """

    family: int
    protocol: int
    source: Side
    destination: Side
    service: Side | None
    forth: Leg
    back: Leg
    last_seen: int

    @property
    def half_approved(self) -> bool:
        """Whether the opener's end has allowed the flow and the other has not.

        If the destination is a pod of this node, its policy denied the flow. Flows to the node itself, and those that
        leave by an interface without Calico's programs, stay like this too.
        """
        return self.forth.approved and not self.back.approved

    @property
    def approved(self) -> bool:
        """Whether both ends have allowed the flow: Calico's programs do not ask policy about its packets any more."""
        return self.forth.approved and self.back.approved

    @property
    def replied(self) -> bool:
        """Whether anything came back, as far as flags (TCP) and counts tell: v2 counts nothing."""
        return bool(self.back.bits & SEEN or self.back.packets)

    @property
    def timeout(self) -> int:
        """For how many seconds after its last packet the entry lives by default (see `SCAN_PERIOD`)."""
        if self.protocol != TCP:
            return _TIMEOUTS.get(self.protocol, _OTHER_TIMEOUT)
        if (self.forth.bits | self.back.bits) & RST:
            return _RST_TIMEOUT
        if self.forth.bits & self.back.bits & FIN:
            return _FINS_TIMEOUT
        return _ESTABLISHED_TIMEOUT if self.forth.established and self.back.established else _SYN_SENT_TIMEOUT


def decode_conntrack(columns: Columns) -> Iterator[Entry]:
    """The flows in the order of their entries. Raises `LayoutError` at once.

    A forward NAT entry is none: the reverse entry of its flow says more. Entries of a type that no release has are left
    out too, as Calico's programs do.
    """
    return _entries(layout_of_conntrack(columns), columns)


def _entries(layout: Layout, columns: Columns) -> Iterator[Entry]:
    text = remembered(address_text)
    for key, row in columns.rows(layout.key, layout.value):
        kind = KINDS.get(row[2])
        if kind in (NORMAL, NAT_REVERSE):
            yield _entry(layout, key, row, text, translated=kind == NAT_REVERSE)


def _entry(
    layout: Layout, key: tuple[Any, ...], row: tuple[Any, ...], text: Callable[[bytes], str], *, translated: bool
) -> Entry:
    protocol, source, destination = key[0], Side(text(key[1]), key[3]), Side(text(key[2]), key[4])
    *legs, service, port = row[7:]
    forth, back = _legs(legs, counts=layout.counts)
    if back.opener or (row[6] & FROM_B and not forth.opener):
        source, destination, forth, back = destination, source, back, forth
    asked = Side(text(service), port) if translated else None
    return Entry(layout.family, protocol, source, destination, asked, forth, back, last_seen=row[1])


def _legs(numbers: Sequence[int], *, counts: bool) -> tuple[Leg, Leg]:
    if not counts:
        bits_a, _, bits_b, _ = numbers
        return Leg(bits_a), Leg(bits_b)
    _, packets_a, bits_a, _, _, packets_b, bits_b, _ = numbers
    return Leg(bits_a, packets_a), Leg(bits_b, packets_b)
