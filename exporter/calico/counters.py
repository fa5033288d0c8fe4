"""The counter map `cali_counters<V>`: its layouts and slots, and decoding it into a table.

An entry is `{u32 ifindex, u32 hook}` -> `u64 slot[n]` per CPU (felix/bpf-gpl/counters.h, felix/bpf/counters). Slots are
append-only: an index has the same meaning in every open-source release. The number of slots determines the
layout, the version in the pinned name does not. Calico's reader uses the low 32 bits of each value, this one all 64.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.calico import LayoutError
from exporter.calico.hooks import TC_HOOKS
from exporter.calico.tables import Columns

KEY_SIZE = 8
_KEY = struct.Struct("=II")

TOTAL, ACCEPTED, DROPPED, REDIRECTED, NAT_COLLISION, UNKNOWN = (
    "total",
    "accepted",
    "dropped",
    "redirected",
    "nat_collision",
    "unknown",
)


@dataclass(frozen=True, slots=True)
class Slot:
    """One u64 of a counter entry: its index, its category, the `reason` label and Calico's own caption."""

    number: int
    category: str
    reason: str
    caption: str

    def counts_flows(self, hook: int) -> bool:
        """Whether it counts new flows at `hook` and not packets: by policy and failsafe, and not in XDP."""
        return self.category == ACCEPTED and self.reason in ("policy", "failsafe") and hook in TC_HOOKS


# felix/bpf-gpl/reasons.h and felix/bpf/counters/counters.go at v3.32.1. Slot 24 is reserved there.
SLOTS = (
    Slot(0, TOTAL, "", "packets"),
    Slot(1, ACCEPTED, "failsafe", "by failsafe"),
    Slot(2, ACCEPTED, "policy", "by policy"),
    Slot(3, ACCEPTED, "another_program", "by another program"),
    Slot(4, DROPPED, "policy", "by policy"),
    Slot(5, DROPPED, "too_short", "too short packets"),
    Slot(6, DROPPED, "checksum", "incorrect checksum"),
    Slot(7, DROPPED, "ip_options", "packets with unsupported IP options"),
    Slot(8, DROPPED, "malformed_ip", "malformed IP packets"),
    Slot(9, DROPPED, "encap_failed", "failed encapsulation"),
    Slot(10, DROPPED, "decap_failed", "failed decapsulation"),
    Slot(11, DROPPED, "unknown_source", "packets with unknown source"),
    Slot(12, DROPPED, "unknown_route", "packets with unknown route"),
    Slot(13, DROPPED, "blackhole_route", "packets hitting blackhole route"),
    Slot(14, NAT_COLLISION, "", "packets hitting NAT source collision"),
    Slot(15, DROPPED, "nat_collision_unresolved", "NAT source collision resolution failed"),
    Slot(16, DROPPED, "conntrack_create_failed", "failed to create conntrack"),
    Slot(17, REDIRECTED, "plain", "plain"),
    Slot(18, REDIRECTED, "neigh", "neigh"),
    Slot(19, REDIRECTED, "peer", "peer"),
    Slot(20, DROPPED, "fragment_incomplete", "fragment of yet incomplete packet"),
    Slot(21, DROPPED, "fragment_out_of_order", "fragment out of order within host"),
    Slot(22, DROPPED, "fragment_unsupported", "fragments not supported"),
    Slot(23, DROPPED, "qos_limit", "QoS control limit"),
    Slot(24, UNKNOWN, "24", "slot 24"),
    Slot(25, DROPPED, "maglev_no_backend", "Maglev lookup found no backends for service IP"),
    Slot(26, DROPPED, "host_ip_unknown", "VXLAN encap when host IP unknown"),
)
TOTAL_PACKETS, ACCEPTED_BY_POLICY, DROPPED_BY_POLICY = 0, 2, 4

# Slots whose meaning is certain, by slot count: v3.26-v3.29, v3.30, v3.31, v3.32.0, v3.32.1 and later. Two development
# trees had 23 slots and disagreed on the last (QoS at commit a995435f55, fragments not supported at fbd467de86). Other
# editions have had other counts (15 among them) whose slots past 12 are published nowhere.
RELEASED_COUNTS = (14, 17, 25, 26, 27)
_CERTAIN_SLOTS = {**{count: count for count in RELEASED_COUNTS}, 23: 22}
_CERTAIN_SLOTS_OF_OTHERS = 13
# From v3.31 (25 slots) on Felix creates an entry when it attaches, and a program that finds none drops every packet;
# before, the program created it at the first packet.
_FIRST_COUNT_WITH_ENTRIES_BY_FELIX = 25
# From v3.30 (17 slots) on the end of a tier has its own rule id, and id 0 means only "no profile matched".
FIRST_COUNT_WITH_TIER_ENDS = 17


@dataclass(frozen=True, slots=True)
class Layout:
    """What each slot of an entry means; `source` is `builtin`, `file` (a layout file named slots) or `partial`."""

    slots: tuple[Slot, ...]
    source: str

    @property
    def entries_made_by_felix(self) -> bool:
        """Whether a managed interface without its entry loses every packet (v3.31 and later)."""
        return len(self.slots) >= _FIRST_COUNT_WITH_ENTRIES_BY_FELIX


@dataclass(frozen=True, slots=True)
class CounterTable:
    """Decoded counters: the values of an entry's slots, each summed over the CPUs, by interface index and hook."""

    layout: Layout
    rows: Mapping[tuple[int, int], tuple[int, ...]]


def layout_of(count: int, named: Mapping[int, Slot] | None = None) -> Layout:
    """The layout of an entry with `count` slots; `named` holds the slots that a layout file names for this count."""
    certain = len(SLOTS) if count > len(SLOTS) else _CERTAIN_SLOTS.get(count, _CERTAIN_SLOTS_OF_OTHERS)
    known = [SLOTS[number] if number < certain else _unknown(number) for number in range(min(count, len(SLOTS)))]
    known += [_unknown(number) for number in range(len(SLOTS), count)]
    if named:
        return Layout(tuple(named.get(slot.number, slot) for slot in known), "file")
    return Layout(tuple(known), "builtin" if count in RELEASED_COUNTS else "partial")


def slot_count(key_size: int, value_size: int) -> int:
    """The number of slots of a counter map with these sizes in bytes. Raises `LayoutError` when it can be none."""
    if key_size != KEY_SIZE:
        raise LayoutError(f"the counter map has keys of {key_size} bytes, expected {KEY_SIZE} (interface index, hook)")
    if value_size == 0 or value_size % 8:
        raise LayoutError(f"the counter map has values of {value_size} bytes, expected a multiple of 8")
    return value_size // 8


def decode_counters(columns: Columns, layout: Layout) -> CounterTable:
    """The entries, their values summed over the CPUs, as a table. Raises `LayoutError`."""
    count = slot_count(columns.key_size, columns.value_size)
    if count != len(layout.slots):
        raise LayoutError(f"the counter map has {count} slots where {len(layout.slots)} were expected")
    return CounterTable(layout, dict(columns.rows(_KEY, struct.Struct(f"={count}Q"))))


def _unknown(number: int) -> Slot:
    return Slot(number, UNKNOWN, str(number), f"slot {number}")
