"""Collector `counters`: packets and flows counted by Calico's programs, per endpoint, hook and reason.

Needs the counter map and nothing else: all other facts only add names and zeros. An unknown interface index is named by
its number and exposes only nonzero values; an entry of an interface that the kernel does not have exposes none. The set
of samples is cached while the same slots are exposed: between scrapes usually only values change.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, count
from operator import itemgetter

from exporter.calico.counters import (
    ACCEPTED,
    ACCEPTED_BY_POLICY,
    DROPPED,
    DROPPED_BY_POLICY,
    NAT_COLLISION,
    REDIRECTED,
    TOTAL,
    TOTAL_PACKETS,
    UNKNOWN,
    CounterTable,
    Layout,
    Slot,
)
from exporter.calico.hooks import TC_HOOKS, TC_INGRESS, XDP, hook_name
from exporter.metrics.collector import DEFAULTS, CollectorOptions
from exporter.metrics.family import COUNTER, ENDPOINT_LABELS, GAUGE, Family, Samples
from exporter.metrics.other_drops import OTHER_DROPPED_PACKETS, NamespaceFilter, OtherDrops
from exporter.node import endpoints
from exporter.node.endpoints import Endpoint, Endpoints
from exporter.snapshot.snapshot import Snapshot

PROGRAM_PACKETS = Family(
    "calico_bpf_program_packets_total",
    COUNTER,
    "Packets that entered Calico's program at this hook; not all packets of the endpoint, since redirected "
    "packets bypass the destination's hook.",
    ENDPOINT_LABELS,
)
ACCEPTED_FLOWS = Family(
    "calico_bpf_accepted_flows_total",
    COUNTER,
    "New flows accepted at a tc hook, one per flow, not per packet; later packets of a tracked flow and replies are "
    "not counted.",
    (*ENDPOINT_LABELS, "reason"),
)
ACCEPTED_PACKETS = Family(
    "calico_bpf_accepted_packets_total",
    COUNTER,
    "Packets accepted one by one: by another Calico program that had seen them before, and at the XDP hook by policy "
    "or failsafe.",
    (*ENDPOINT_LABELS, "reason"),
)
DROPPED_PACKETS = Family(
    "calico_bpf_dropped_packets_total",
    COUNTER,
    "Packets dropped, by reason; a lower bound, since some drops (a pod's spoofed source, a stray TCP ACK) have no "
    "reason in Calico and are counted only in the program's total.",
    (*ENDPOINT_LABELS, "reason"),
)
REDIRECTED_PACKETS = Family(
    "calico_bpf_redirected_packets_total",
    COUNTER,
    "Packets forwarded past the kernel's own path, by kind of redirect, at the hook where they enter; also counted in "
    "the program's total. On kernels without BTF Calico counts none.",
    (*ENDPOINT_LABELS, "path"),
)
NAT_SOURCE_COLLISIONS = Family(
    "calico_bpf_nat_source_collisions_total",
    COUNTER,
    "Packets whose source port had to be changed because NAT gave two flows the same addresses and ports; not drops, "
    "which have the reason nat_collision_unresolved.",
    ENDPOINT_LABELS,
)
UNKNOWN_SLOT = Family(
    "calico_bpf_unknown_slot_total",
    COUNTER,
    "Counts, of unknown unit, of slots without a known meaning in this build of Calico, when not zero; "
    "--calico.layout-file can name them.",
    (*ENDPOINT_LABELS, "slot"),
)
UNKNOWN_INTERFACES = Family(
    "calico_bpf_unknown_interfaces",
    GAUGE,
    "Interface indexes in the counter map that have no name, as while the kernel's links cannot be read; at most "
    f"{endpoints.MAX_UNKNOWN} of them have series, named ifindex:<n>.",
)
LEFTOVER_ENTRIES = Family(
    "calico_bpf_leftover_entries",
    GAUGE,
    "Entries of the map for interfaces that the kernel does not have; they have no other series. Absent while the "
    "kernel's links cannot be read.",
    ("map",),
)
FAMILIES = (
    PROGRAM_PACKETS,
    ACCEPTED_FLOWS,
    ACCEPTED_PACKETS,
    DROPPED_PACKETS,
    REDIRECTED_PACKETS,
    NAT_SOURCE_COLLISIONS,
    UNKNOWN_SLOT,
    UNKNOWN_INTERFACES,
    OTHER_DROPPED_PACKETS,
    LEFTOVER_ENTRIES,
)
_FAMILY_OF = {
    TOTAL: PROGRAM_PACKETS,
    DROPPED: DROPPED_PACKETS,
    REDIRECTED: REDIRECTED_PACKETS,
    NAT_COLLISION: NAT_SOURCE_COLLISIONS,
    UNKNOWN: UNKNOWN_SLOT,
}


_CORE_SLOTS = frozenset({TOTAL_PACKETS, ACCEPTED_BY_POLICY, DROPPED_BY_POLICY})

_Key = tuple[int, int]
_Taker = Callable[[Sequence[int]], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Row:
    """An entry of the counter map, or a hook without one until its first packet, which counts as zero."""

    endpoint: Endpoint
    hook: int
    labels: tuple[str, ...]


class CountersCollector:
    """Packets and flows by reason."""

    name = "counters"
    about = "Packets and flows by reason."
    on_by_default = True
    parts = frozenset({"counters", "endpoints"})

    def __init__(self, options: CollectorOptions = DEFAULTS) -> None:
        self._zeros = options.zeros
        self._filter = NamespaceFilter(options.namespaces, options.exclude_namespaces)
        self._other, self._left_out = OtherDrops(), list[tuple[_Key, str]]()
        self._made_from: tuple[Sequence[_Key], Endpoints, Layout] | None = None
        self._rows: dict[_Key, _Row] = {}
        # Which zeros are exposed (one byte per slot of each row), and which values were nonzero in the last scrape.
        self._shown_zeros = b""
        self._zero_counts: list[int] = []
        self._take_nonzero: _Taker = tuple
        # The lines of each family, and the function that selects their values from those of all rows.
        self._templates: list[tuple[Family, bytes, _Taker]] = []
        # The slots that a row exposes in a family, and their lines.
        self._lines: dict[tuple[str, tuple[str, ...]], tuple[tuple[Slot, ...], bytes]] = {}
        self._gauges: list[Samples] = []

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this module, from the live counter map."""
        table, known = snapshot.counters.get(), snapshot.endpoints.get()
        keys = list(table.rows)
        if self._made_from is None or (keys, table.layout) != self._made_from[::2] or known is not self._made_from[1]:
            self._made_from = keys, known, table.layout
            self._make_rows(table, known)
        idle = (0,) * len(table.layout.slots)
        rows = [table.rows.get(key, idle) for key in self._rows]
        values = list(chain.from_iterable(rows))
        # If each row has as many zeros as before and no nonzero value became zero, the zeros are unchanged.
        zero_counts = [row.count(0) for row in rows]
        if zero_counts != self._zero_counts or not all(self._take_nonzero(values)):
            nonzero = bytes(map(bool, values))
            self._zero_counts, self._take_nonzero = zero_counts, _taker(list(compress(count(), nonzero)))
            shown = (int.from_bytes(nonzero) | int.from_bytes(self._shown_zeros)).to_bytes(len(values))
            self._templates = list(self._make_templates(table.layout, shown, values))
        samples = [Samples.of(family, lines, take(values)) for family, lines, take in self._templates]
        if self._filter:
            samples.append(self._other.samples(table.rows, table.layout, self._left_out))
        return [*samples, *self._gauges]

    def _make_rows(self, table: CounterTable, known: Endpoints) -> None:
        keys = {key for key in table.rows if known.of(key[0]).kind != endpoints.LEFTOVER}
        # Before v3.31 the program creates its entry at a hook's first packet: expose 0 until then, so that
        # increase() sees the first drop.
        if self._zeros != "none" and not table.layout.entries_made_by_felix:
            keys |= set(_tc_hooks_of_calicos(known))
        self._rows = {key: _row(known.of(key[0]), key[1]) for key in sorted(keys)}
        if self._filter:
            left_out = {key: row for key, row in self._rows.items() if self._filter.leaves_out(row.endpoint)}
            self._left_out = [(key, row.endpoint.direction(row.hook)) for key, row in left_out.items()]
            self._rows = {key: row for key, row in self._rows.items() if key not in left_out}
        rows = self._rows.values()
        shown = (_shown_zeros(row, table.layout, self._zeros, assumed=not known.states_known) for row in rows)
        self._shown_zeros = bytes(chain.from_iterable(shown))
        self._zero_counts, self._take_nonzero, self._templates = [], tuple, []
        unknown = {row.endpoint.ifindex for row in self._rows.values() if row.endpoint.kind == endpoints.UNKNOWN}
        self._gauges = [Samples(UNKNOWN_INTERFACES, [((), len(unknown))])]
        if known.links_known:
            leftover = len(known.leftover_entries(table))
            self._gauges.append(Samples(LEFTOVER_ENTRIES, [(("counters",), leftover)]))
        # Drop the lines of removed interfaces.
        labels = {row.labels for row in self._rows.values()}
        self._lines = {key: line for key, line in self._lines.items() if key[1] in labels}

    def _make_templates(
        self, layout: Layout, shown: bytes, values: Sequence[int]
    ) -> Iterator[tuple[Family, bytes, "_Taker"]]:
        width = len(layout.slots)
        rows = [(index * width, row) for index, row in enumerate(self._rows.values())]
        hidden = _hidden(rows, width, values)
        rows = [(start, row) for start, row in rows if row.endpoint.ifindex not in hidden]
        lines: dict[Family, list[bytes]] = {family: [] for family in FAMILIES}
        indexes: dict[Family, list[int]] = {family: [] for family in FAMILIES}
        for at_tc in (True, False):
            group = [(start, row) for start, row in rows if (row.hook in TC_HOOKS) == at_tc]
            for family, slots in _slots_by_family(layout, at_tc=at_tc).items():
                for start, row in group:
                    chosen = tuple(compress(slots, [shown[start + slot.number] for slot in slots]))
                    if chosen:
                        lines[family].append(self._row_lines(family, row.labels, chosen))
                        indexes[family] += [start + slot.number for slot in chosen]
        for family in FAMILIES:
            if indexes[family]:
                yield family, b"".join(lines[family]), _taker(indexes[family])

    def _row_lines(self, family: Family, labels: tuple[str, ...], chosen: tuple[Slot, ...]) -> bytes:
        kept = self._lines.get((family.name, labels))
        if kept is None or kept[0] != chosen:
            extras = [(slot.reason,) if slot.reason else () for slot in chosen]
            kept = chosen, b"".join([family.line(labels + extra) for extra in extras])
            self._lines[family.name, labels] = kept
        return kept[1]


def _taker(indexes: Sequence[int]) -> _Taker:
    if len(indexes) < 2:  # itemgetter with one index returns a bare value
        return lambda values: tuple([values[index] for index in indexes])
    return itemgetter(*indexes)


def _hidden(rows: Sequence[tuple[int, _Row]], width: int, values: Sequence[int]) -> set[int]:
    """The unknown interfaces with nonzero counters beyond the limit."""
    counting = {
        row.endpoint.ifindex
        for start, row in rows
        if row.endpoint.kind == endpoints.UNKNOWN and any(values[start : start + width])
    }
    return set(sorted(counting)[endpoints.MAX_UNKNOWN :])


def _row(endpoint: Endpoint, hook: int) -> _Row:
    labels = (endpoint.interface, hook_name(hook), endpoint.direction(hook), endpoint.namespace, endpoint.pod)
    return _Row(endpoint, hook, labels)


def _tc_hooks_of_calicos(known: Endpoints) -> Iterator[_Key]:
    for endpoint in known.by_index.values():
        # Without the interface state it is not known whether Calico handles a host interface that has no entry.
        calicos = endpoint.state is not None or (not known.states_known and endpoint.kind == endpoints.WORKLOAD)
        if calicos and endpoint.kind != endpoints.UNMANAGED:
            yield from ((endpoint.ifindex, hook) for hook in TC_HOOKS)


def _shown_zeros(row: _Row, layout: Layout, zeros: str, *, assumed: bool) -> list[bool]:
    """Which slots of this row are exposed even if zero, by slot number.

    `assumed` is whether the interface state is unknown: then an entry is taken as evidence that Calico knows it.
    """
    endpoint, slots = row.endpoint, layout.slots
    if zeros == "none" or endpoint.kind == endpoints.UNKNOWN or row.hook > XDP:
        return [False] * len(slots)
    calicos = endpoint.state is not None or assumed
    # Host interfaces are few, and drops there affect the node itself.
    if zeros == "all" or (endpoint.kind == endpoints.HOST and calicos):
        return [slot.category != UNKNOWN for slot in slots]
    core = calicos and row.hook in TC_HOOKS
    return [core and slot.number in _CORE_SLOTS for slot in slots]


def _slots_by_family(layout: Layout, *, at_tc: bool) -> dict[Family, list[Slot]]:
    slots: dict[Family, list[Slot]] = {}
    for slot in layout.slots:
        slots.setdefault(family_of(slot, at_tc=at_tc), []).append(slot)
    return slots


def family_of(slot: Slot, *, at_tc: bool) -> Family:
    """The family of this slot: policy and failsafe count flows at tc hooks and packets at XDP."""
    if slot.category == ACCEPTED:
        return ACCEPTED_FLOWS if slot.counts_flows(TC_INGRESS if at_tc else XDP) else ACCEPTED_PACKETS
    return _FAMILY_OF[slot.category]
