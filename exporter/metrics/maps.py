"""Collector `maps`: fill and shape of Calico's maps, and the evidence for the live version.

A map that is not pinned has no series; while the live version is undecided, every candidate has an info series.
"""

from collections.abc import Mapping

from exporter.bpf.maps import MapMissing
from exporter.metrics.collector import DEFAULTS, CollectorOptions
from exporter.metrics.family import GAUGE, Family, Samples
from exporter.snapshot.live_map import Candidate
from exporter.snapshot.map_fill import MapFill
from exporter.snapshot.snapshot import MapVersions, Snapshot

_FILL_LABELS = ("map", "ip_family")
ENTRIES = Family(
    "calico_bpf_map_entries",
    GAUGE,
    "Entries in the live map; a full map rejects new ones, or evicts the least recently used. Absent while the number "
    "is not known.",
    _FILL_LABELS,
)
MAX_ENTRIES = Family("calico_bpf_map_max_entries", GAUGE, "Entries that the live map can hold.", _FILL_LABELS)
COUNTED = Family(
    "calico_bpf_map_counted_timestamp_seconds",
    GAUGE,
    "Unix time at which the entries were counted; only for maps that are counted in the background.",
    _FILL_LABELS,
)
INFO = Family(
    "calico_bpf_map_info",
    GAUGE,
    "Always 1: the live map's pin and shape (sizes in bytes), whether the meaning of its slots is known (layout), and "
    "the evidence that it is the live one (chosen_by; undecided shows every candidate).",
    ("map", "pin", "map_type", "key_size", "value_size", "slots", "layout", "chosen_by"),
)
STALE_PINS = Family(
    "calico_bpf_map_stale_pins",
    GAUGE,
    "Other pinned versions of the map; Calico leaves them behind after upgrades, they are harmless.",
    ("map",),
)
FAMILIES = (ENTRIES, MAX_ENTRIES, INFO, STALE_PINS, COUNTED)


class MapsCollector:
    """Fails only if a map cannot be read, or if none is pinned."""

    name = "maps"
    about = "Fill and shape of Calico's maps."
    on_by_default = True
    parts = frozenset({"counter_map", "rule_map", "ifstate_map", "map_fills"})

    def __init__(self, options: CollectorOptions = DEFAULTS) -> None:
        del options

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this module."""
        samples = {family: Samples(family) for family in FAMILIES}
        missing = 0
        for datum, part in snapshot.maps.items():
            if isinstance(part.error, MapMissing):
                missing += 1
            else:
                _add(samples, datum, part.get())
        if missing == len(snapshot.maps):
            snapshot.counter_map.get()
        for one in snapshot.map_fills.get():
            _add_fill(samples, one)
        return list(samples.values())


def _add(samples: Mapping[Family, Samples], datum: str, versions: MapVersions) -> None:
    live = versions.choice.live
    if live is None or versions.info is None or versions.entries is None:
        for candidate in versions.candidates:
            samples[INFO].add(_info(datum, versions, candidate), 1)
        return
    samples[ENTRIES].add((datum, ""), versions.entries)
    samples[MAX_ENTRIES].add((datum, ""), versions.info.max_entries)
    samples[INFO].add(_info(datum, versions, live), 1)
    samples[STALE_PINS].add((datum,), len(versions.stale))


def _add_fill(samples: Mapping[Family, Samples], one: MapFill) -> None:
    labels = one.map, one.ip_family
    if not one.problem:
        samples[MAX_ENTRIES].add(labels, one.max_entries)
    if one.entries is not None:
        samples[ENTRIES].add(labels, one.entries)
    if one.counted_at is not None:
        samples[COUNTED].add(labels, one.counted_at)


def _info(datum: str, versions: MapVersions, candidate: Candidate) -> tuple[str, ...]:
    shape, layout = candidate.info, versions.layouts.get(candidate.name)
    slots = (str(len(layout.slots)), layout.source) if layout else ("", "")
    sizes = (shape.type, str(shape.key_size), str(shape.value_size))
    return (datum, candidate.name, *sizes, *slots, versions.choice.chosen_by)
