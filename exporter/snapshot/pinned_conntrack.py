"""Reads the connection-tracking maps, batch by batch, into what a snapshot keeps of them; or single entries of them."""

from collections.abc import Collection, Iterable

from exporter.calico.conntrack import Entry, decode_conntrack
from exporter.calico.conntrack_rows import layout_of_conntrack
from exporter.calico.pins import CONNTRACK
from exporter.calico.tables import Columns, address_text
from exporter.snapshot.conntrack import Conntrack, Totals, Wanted
from exporter.snapshot.live_map import Candidate
from exporter.snapshot.pinned_maps import PinnedMaps, columns_of
from exporter.snapshot.source import NodeSource


def read_conntrack(source: NodeSource, maps: PinnedMaps, wanted: Wanted) -> Conntrack:
    """What both families' maps hold. Raises `MapError` or `LayoutError`."""
    read = [_read_family(source, family, one, wanted) for family, one in maps.conntrack().items()]
    return Conntrack(
        counts={key: number for one in read for key, number in one.counts.items()},
        of_address={
            (address_text(address), protocol, state): number
            for one in read
            for (address, protocol, state), number in one.of_address.items()
        },
        entries=tuple(entry for one in read for entry in one.entries),
        left_out=sum(one.left_out() for one in read),
        at=source.clock_ns(),
        partial=source.reader_name == "bundle",
    )


def read_flows(source: NodeSource, maps: PinnedMaps, family: int, keys: Collection[bytes]) -> Conntrack:
    """The entries with these keys alone, however many the family's map has. Raises `MapError` or `LayoutError`."""
    found: list[Entry] = []
    for candidate in maps.in_use(CONNTRACK[family]):
        sizes = candidate.info.key_size, candidate.info.value_size
        layout_of_conntrack(Columns(b"", b"", *sizes))
        rows = zip(keys, source.map_values(candidate.name, [*keys]), strict=True)
        kept = [(key, value) for key, value in rows if value is not None]
        columns = Columns(b"".join(key for key, _ in kept), b"".join(value for _, value in kept), *sizes)
        found += decode_conntrack(columns)
    return Conntrack({}, {}, tuple(found), 0, source.clock_ns(), partial=True)


def _read_family(source: NodeSource, family: int, candidates: Iterable[Candidate], wanted: Wanted) -> Totals:
    found = []
    for candidate in candidates:
        totals = Totals(wanted)
        for batch in source.map_batches(candidate.name):
            totals.add(family, columns_of(batch))
        found.append(totals)
    # Calico's programs change the live map all the time; one that an upgrade left behind is as old as the upgrade.
    return max(found, key=lambda one: one.newest)
