"""The connection-tracking maps `cali_v4_ct<V>` and `cali_v6_ct<V>`: the flows that Calico's programs know.

A key is `{u32 protocol, address A, address B, u16 port A, u16 port B}`, the smaller address first. A value is `{u64,
u64 last seen, type, flags, ...}` and two legs with what passed from A to B and from B to A or, in a forward NAT entry,
the key of the reverse entry that has them (felix/bpf-gpl/conntrack_types.h, felix/bpf/conntrack v2 to v4). Sizes tell
the layout: v2 (until v3.23) has shorter legs without counts; v3 (until v3.30) and v4 (from v3.31 on) are alike, but
from v3.30 on the first u64 is when an RST was seen, and before when the entry was created. Times are ns of the kernel's
monotonic clock, ports are little-endian and 0 for ICMP.

This module has the layouts, the state of an entry and a fast scan; `conntrack.py` decodes entries in full.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exporter.calico.protocols import TCP
from exporter.calico.tables import Columns, layout_of

# `enum cali_ct_type`.
NORMAL, NAT_FORWARD, NAT_REVERSE = "normal", "nat_forward", "nat_reverse"
SYN_SENT, ESTABLISHED, CLOSING, UNREPLIED, UNKNOWN = "syn_sent", "established", "closing", "unreplied", "unknown"
KINDS = {0: NORMAL, 1: NAT_FORWARD, 2: NAT_REVERSE}
# The bits of `struct calico_ct_leg`.
SYN, ACK, FIN, RST, APPROVED, OPENER = (1 << bit for bit in range(6))
SEEN = SYN | ACK | FIN | RST
FROM_B = 0x1  # of flags2, CALI_CT_FLAG_BA: the flow was opened from B to A (in all releases but the oldest)


def state_of(protocol: int, forth: int, back: int, packets: int) -> str:
    """The state of a flow with these bits of its legs, and this many packets that came back."""
    if protocol != TCP:
        return ESTABLISHED if packets or back & SEEN else UNREPLIED
    if (forth | back) & (FIN | RST):
        return CLOSING
    return ESTABLISHED if forth & back & SYN and forth & back & ACK else SYN_SENT


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout of an IP family; `counts` says whether legs have packets and bytes.

    `key` has protocol, address A, address B, port A, port B; `value` first time, last seen, type, flags, flags3,
    flags4, flags2, then (bytes, packets,) bits, ifindex of each leg, and the address and port of the service.
    """

    family: int
    key: struct.Struct
    value: struct.Struct
    counts: bool


_HEAD = "<QQ4B3xB"
BODY = struct.calcsize(_HEAD)
_KEY_4, _KEY_6 = struct.Struct("<I4s4sHH"), struct.Struct("<I16s16sHH")
_LEGS = "QI4xIIQI4xII"
_LAYOUTS = {
    (16, 64): Layout(4, _KEY_4, struct.Struct(f"{_HEAD}4xII4xII4sH10x"), counts=False),
    (16, 88): Layout(4, _KEY_4, struct.Struct(f"{_HEAD}{_LEGS}4x4sH6x"), counts=True),
    (40, 128): Layout(6, _KEY_6, struct.Struct(f"{_HEAD}{_LEGS}16x16sH22x"), counts=True),
}


def keys_of(protocol: int, one: tuple[bytes, int], other: tuple[bytes, int]) -> tuple[bytes, bytes]:
    """The two keys that an entry between these ends, packed addresses and ports, can have: in either order."""
    key = _KEY_4 if len(one[0]) == 4 else _KEY_6
    return key.pack(protocol, one[0], other[0], one[1], other[1]), key.pack(
        protocol, other[0], one[0], other[1], one[1]
    )


def layout_of_conntrack(columns: Columns) -> Layout:
    """The layout of a connection-tracking map with these sizes. Raises `LayoutError`."""
    return layout_of("connection-tracking", columns, _LAYOUTS)


def scan_conntrack(columns: Columns) -> Iterator[tuple[int, str, bytes, bytes, bool]]:
    """Of each entry the protocol, the state, the packed addresses of opener and destination, and whether it is
    half-approved, in a fraction of the time that decoding takes. Raises `LayoutError` at once.

    An entry of an unknown type has the state `unknown`; in this and a forward NAT entry the addresses are in the order
    of the key.
    """
    return _scan(layout_of_conntrack(columns), columns)


def _scan(layout: Layout, columns: Columns) -> Iterator[tuple[int, str, bytes, bytes, bool]]:
    first, step = (9, 4) if layout.counts else (7, 2)
    for (protocol, a, b, _, _), row in columns.rows(layout.key, layout.value):
        kind = KINDS.get(row[2], UNKNOWN)
        if kind not in (NORMAL, NAT_REVERSE):
            yield protocol, kind, a, b, False
            continue
        forth, back, source, destination = first, first + step, a, b
        if row[back] & OPENER or (row[6] & FROM_B and not row[forth] & OPENER):
            forth, back, source, destination = back, forth, b, a
        half = bool(row[forth] & APPROVED and not row[back] & APPROVED)
        packets = row[back - 1] if layout.counts else 0
        state = kind if kind != NORMAL else state_of(protocol, row[forth], row[back], packets)
        yield protocol, state, source, destination, half


def pick(columns: Columns, numbers: Iterable[int]) -> Columns:
    """The entries with these positions."""
    key, value, chosen = columns.key_size, columns.value_size, list(numbers)
    keys = b"".join(columns.keys[one * key : one * key + key] for one in chosen)
    return Columns(keys, b"".join(columns.values[one * value : one * value + value] for one in chosen), key, value)


def last_use(columns: Columns) -> int:
    """When the latest of these entries was last seen; 0 without entries."""
    layout = layout_of_conntrack(columns)
    return max((row[1] for row in layout.value.iter_unpack(columns.values)), default=0)
