"""The maps of a bundle: whole ones, and of connection tracking the entries that concern this node's endpoints."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict

from exporter.bpf.maps import MapInfo
from exporter.calico.conntrack_rows import pick
from exporter.calico.pins import CONNTRACK, NAT_AFFINITY, NAT_BACKENDS, NAT_FRONTENDS, ROUTES, Pin
from exporter.snapshot.conntrack import MAX_ENTRIES, Wanted
from exporter.snapshot.pinned_maps import columns_of
from exporter.snapshot.source import NodeSource

# The data that bundles of version 0.1 and before have no maps of.
NEW_DATA = tuple(
    datum for data in (NAT_FRONTENDS, NAT_BACKENDS, NAT_AFFINITY, ROUTES, CONNTRACK) for datum in data.values()
)


def map_members(source: NodeSource, pin: Pin, addresses: Collection[str]) -> dict[str, bytes]:
    """The members of an archive for the map behind `pin`; of flows, those that have one of the addresses."""
    if pin.datum in CONNTRACK.values():
        return _flows(source, pin.name, Wanted.of(addresses, addresses))
    dump = source.map_dump(pin.name)
    return _members(pin.name, dump.info, dump.copies, dump.keys, dump.values)


def entry_members(source: NodeSource, name: str, entries: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """The members for these entries of a map that is too large to keep whole."""
    return _members(name, source.map_info(name), 1, b"".join(entries), b"".join(entries.values()))


def _flows(source: NodeSource, name: str, wanted: Wanted) -> dict[str, bytes]:
    info = source.map_info(name)
    kept: tuple[list[tuple[bytes, bytes]], ...] = [], []
    for batch in source.map_batches(name):
        columns, info = columns_of(batch), batch.info
        # Flows that an endpoint denied come first: they are few, and the reason for the bundle.
        for rows, positions in zip(kept, wanted.positions(columns), strict=True):
            one = pick(columns, positions[: MAX_ENTRIES - sum(len(keys) // columns.key_size for keys, _ in rows)])
            rows.append((one.keys, one.values))
    keys, values = (b"".join(row[part] for rows in kept for row in rows) for part in (0, 1))
    return _members(name, info, 1, keys, values)


def _members(name: str, info: MapInfo, copies: int, keys: bytes, values: bytes) -> dict[str, bytes]:
    head = json.dumps({"info": asdict(info), "copies": copies}, indent=1).encode()
    return {f"maps/{name}/info.json": head, f"maps/{name}/keys": keys, f"maps/{name}/values": values}
