"""Counts the connection-tracking maps for the collector `conntrack`, in slices that other work can run between.

Of entries it keeps nothing but counts: by protocol and state, and by the local addresses that they have.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from exporter.bpf.maps import MapDump
from exporter.calico.conntrack_rows import NAT_REVERSE, SYN_SENT, UNREPLIED, last_use, scan_conntrack
from exporter.calico.tables import Columns, address_text
from exporter.snapshot.conntrack import packed
from exporter.snapshot.pinned_maps import PinnedMaps, columns_of

# The state of a flow that a pod of this node denied: approved by its opener's end and not by the pod's.
DENIED = "denied"
_NOT_ANSWERED = frozenset({SYN_SENT, UNREPLIED, NAT_REVERSE})
_AT_ONCE = 1000  # entries in a slice, 1 to 2 ms


@dataclass(frozen=True, slots=True)
class ConntrackCount:
    """The entries of both families' maps by IP family, protocol and state, and those that have a local address.

    `counted_at` is the Unix time of the count of each family that has a map.
    """

    counts: Mapping[tuple[int, int, str], int]
    of_address: Mapping[str, int]
    counted_at: Mapping[int, float]


@dataclass(slots=True)
class _Tally:
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    of_address: Counter[bytes] = field(default_factory=Counter)
    newest: int = 0
    at: float = 0.0

    def add(self, columns: Columns, local: frozenset[bytes]) -> None:
        counts, of_address = self.counts, self.of_address
        for protocol, state, source, destination, half in scan_conntrack(columns):
            here = destination in local
            counts[protocol, DENIED if half and here and state in _NOT_ANSWERED else state] += 1
            if here:
                of_address[destination] += 1
            if source in local and source != destination:
                of_address[source] += 1


def count_conntrack(
    maps: PinnedMaps, addresses: Iterable[str], read: Callable[[str], Iterator[MapDump]]
) -> Generator[None, None, ConntrackCount]:
    """Counts both families' maps, yielding after each slice; `addresses` are the local ones, `read` reads a map.

    Raises `MapError` or `LayoutError`.
    """
    local = packed(addresses)
    tallies: dict[int, _Tally] = {}
    for family, candidates in maps.conntrack().items():
        for one in candidates:
            tally = yield from _count_map(read(one.name), local, dated=len(candidates) > 1)
            # Calico's programs change the live map all the time; one that an upgrade left is as old as the upgrade.
            tallies[family] = max(tallies.get(family, tally), tally, key=lambda one: one.newest)
    return ConntrackCount(
        {(family, *key): number for family, tally in tallies.items() for key, number in tally.counts.items()},
        {address_text(one): number for tally in tallies.values() for one, number in tally.of_address.items()},
        {family: tally.at for family, tally in tallies.items()},
    )


def _count_map(batches: Iterator[MapDump], local: frozenset[bytes], *, dated: bool) -> Generator[None, None, _Tally]:
    tally = _Tally()
    for batch in batches:
        for start in range(0, batch.count, _AT_ONCE):
            columns = columns_of(batch).part(start, start + _AT_ONCE)
            tally.add(columns, local)
            tally.newest = max(tally.newest, last_use(columns)) if dated else 0
            yield
    tally.at = time.time()
    return tally
