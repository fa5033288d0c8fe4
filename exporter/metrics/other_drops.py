"""Drops of endpoints that a namespace filter leaves out: together, without an endpoint's labels.

Only increments between snapshots are summed, so the counter does not fall when an interface goes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from exporter.calico.counters import DROPPED, Layout
from exporter.diagnosis.changes import increase
from exporter.metrics.family import COUNTER, Family, Samples
from exporter.node.endpoints import Endpoint

OTHER_DROPPED_PACKETS = Family(
    "calico_bpf_other_dropped_packets_total",
    COUNTER,
    "Packets dropped at endpoints that a namespace filter leaves out, since the exporter's start.",
    ("direction", "reason"),
)

_POLICY = "policy"  # the reason whose zeros are exposed, as those of endpoints are
_Key = tuple[int, int]
_Rows = Mapping[_Key, Sequence[int]]


class NamespaceFilter:
    """Which endpoints have series: those of `only` (all if empty) without those of `but`; always those of no pod."""

    def __init__(self, only: frozenset[str], but: frozenset[str]) -> None:
        self._only, self._but = only, but

    def __bool__(self) -> bool:
        return bool(self._only or self._but)

    def leaves_out(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint has no series of its own."""
        namespace = endpoint.namespace
        return bool(namespace) and (namespace in self._but or bool(self._only and namespace not in self._only))


class OtherDrops:
    """Sums what the entries that are left out dropped, by direction and reason."""

    def __init__(self) -> None:
        self._last: _Rows | None = None
        self._totals: Counter[tuple[str, str]] = Counter(
            {(direction, _POLICY): 0 for direction in ("inbound", "outbound")}
        )

    def samples(self, rows: _Rows, layout: Layout, left_out: Iterable[tuple[_Key, str]]) -> Samples:
        """The totals after the snapshot of these `rows`; `left_out` are entries with their direction."""
        last = rows if self._last is None else self._last
        drops = [slot for slot in layout.slots if slot.category == DROPPED]
        for key, direction in left_out:
            row, before = rows.get(key, ()), last.get(key, ())
            for slot in drops if row else ():
                # An entry that is new or started over has counted from 0.
                earlier = before[slot.number] if len(before) == len(row) else 0
                self._totals[direction, slot.reason] += increase(row[slot.number], earlier)
        self._last = rows
        shown = {key: value for key, value in self._totals.items() if value or key[1] == _POLICY}
        return Samples(OTHER_DROPPED_PACKETS, sorted(shown.items()))
