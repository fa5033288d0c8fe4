"""How full Calico's maps are, and what to do about one that is nearly full.

Pure: a function of a snapshot's parts.
"""

from exporter.calico.map_kinds import EVICTED_BY_DESIGN, SETTINGS
from exporter.snapshot.map_fill import MapFill
from exporter.snapshot.snapshot import Snapshot

PARTS = frozenset({"counter_map", "rule_map", "ifstate_map", "map_fills"})
# As CalicoBPFMapNearFull warns.
NEAR_FULL = 0.8


def map_fills(snapshot: Snapshot) -> list[MapFill]:
    """Every live map whose entries are known, the fullest first."""
    whole = [
        MapFill(datum, "", versions.choice.live.name, versions.entries, versions.info.max_entries)
        for datum, versions in ((datum, part.or_else(None)) for datum, part in snapshot.maps.items())
        if versions and versions.choice.live and versions.info
    ]
    others = snapshot.map_fills.or_else(())
    return sorted((one for one in (*whole, *others) if one.entries is not None), key=lambda one: -one.ratio)


def near_full(snapshot: Snapshot) -> list[MapFill]:
    """The maps that are nearly full, without those that are so by design."""
    return [one for one in map_fills(snapshot) if one.ratio > NEAR_FULL and one.map not in EVICTED_BY_DESIGN]


def title(one: MapFill) -> str:
    """The map's name, with the IP family if it has one."""
    return f"{one.map} (IPv{one.ip_family})" if one.ip_family else one.map


def sentence(one: MapFill) -> str:
    """How full a map is, and what happens when it is full."""
    full = "it evicts the least recently used when it is full" if one.evicts else "it refuses new ones when it is full"
    return f"{title(one)}, {one.pin}: {one.entries:,} of {one.max_entries:,} entries, {one.ratio:.0%}; {full}"


def remedy(one: MapFill) -> str:
    """The setting of the map's size."""
    if one.map == one.pin:
        return "a release that is new to this program: search Calico's documentation for the setting of its size"
    setting = SETTINGS.get(one.map)
    if not setting:
        return "no setting of Calico's sizes this map: see the runbook of CalicoBPFMapNearFull"
    return f"raise {setting} in the FelixConfiguration; Felix restarts and copies the map, which needs memory for both"
