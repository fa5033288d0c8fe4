"""Reads the connection-tracking maps, batch by batch, into what a snapshot keeps of them."""

from exporter.bpf.maps import MapBatch, MapMissing
from exporter.calico.pins import CONNTRACK
from exporter.calico.tables import Columns, address_text
from exporter.snapshot.conntrack import Conntrack, Totals, Wanted
from exporter.snapshot.pinned_maps import PinnedMaps
from exporter.snapshot.source import NodeSource


def read_conntrack(source: NodeSource, maps: PinnedMaps, wanted: Wanted) -> Conntrack:
    """What both families' maps hold. Raises `MapError` or `LayoutError`.

    A family without a map has no entries, but one of them must have a map.
    """
    found = [_read_family(source, maps, family, wanted) for family in CONNTRACK]
    read = [one for one in found if isinstance(one, Totals)]
    if not read:
        raise next(one for one in found if isinstance(one, MapMissing))
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


def _read_family(source: NodeSource, maps: PinnedMaps, family: int, wanted: Wanted) -> Totals | MapMissing:
    try:
        candidates = maps.in_use(CONNTRACK[family])
    except MapMissing as error:
        return error
    found = []
    for candidate in candidates:
        totals = Totals(wanted)
        for batch in source.map_batches(candidate.name):
            totals.add(family, columns_of(batch))
        found.append(totals)
    # Calico's programs change the live map all the time; one that an upgrade left behind is as old as the upgrade.
    return max(found, key=lambda one: one.newest)


def columns_of(batch: MapBatch) -> Columns:
    """The same entries as a decoder takes them."""
    return Columns(batch.keys, batch.values, batch.info.key_size, batch.info.value_size)
