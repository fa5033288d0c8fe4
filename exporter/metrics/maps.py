"""Collector `maps`: how full Calico's maps are, of which shape, and how the live version was told.

A map that is not pinned has no series; one whose live version is undecided shows every candidate and no fill.
"""

from dataclasses import dataclass

from exporter.bpf.maps import MapMissing
from exporter.calico import LayoutError
from exporter.calico.pins import COUNTERS, IFACE, RULES
from exporter.metrics.family import GAUGE, Family, Samples
from exporter.snapshot.live_map import Candidate
from exporter.snapshot.map_choice import MapVersions
from exporter.snapshot.take import Snapshot

ENTRIES = Family(
    "calico_bpf_map_entries", GAUGE, "Entries in the live map; new ones are refused at its maximum.", ("map",)
)
MAX_ENTRIES = Family("calico_bpf_map_max_entries", GAUGE, "Entries that the live map can hold.", ("map",))
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
    "Other pinned versions of the map; Calico leaves them behind after every upgrade, they do no harm.",
    ("map",),
)
FAMILIES = (ENTRIES, MAX_ENTRIES, INFO, STALE_PINS)


@dataclass(frozen=True, slots=True)
class MapsCollector:
    """Fails only when a map cannot be read, or none is pinned at all."""

    name: str = "maps"

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file."""
        samples = [Samples(family) for family in FAMILIES]
        missing: list[MapMissing] = []
        for datum in (COUNTERS, RULES, IFACE):
            try:
                versions = _versions(snapshot, datum)
            except MapMissing as error:
                missing.append(MapMissing(str(error)))  # without the traceback, which would keep the look alive
                continue
            _add(samples, snapshot, datum, versions)
        if len(missing) == 3:
            raise missing[0]
        return samples


def _versions(snapshot: Snapshot, datum: str) -> MapVersions:
    if datum == COUNTERS:
        return snapshot.counter_versions
    return snapshot.ifstate_versions if datum == IFACE else snapshot.rule_versions


def _add(samples: list[Samples], snapshot: Snapshot, datum: str, versions: MapVersions) -> None:
    entries, max_entries, info, stale = samples
    live = versions.choice.live
    if live is None:
        for candidate in versions.candidates:
            info.add(_info(snapshot, datum, candidate, versions.choice.chosen_by), 1)
        return
    dump = snapshot.dump(live)
    entries.add((datum,), len(dump.keys))
    max_entries.add((datum,), dump.info.max_entries)
    # The dump's shape, not the candidate's: the map may have been replaced between the two.
    info.add(_info(snapshot, datum, Candidate(live.name, dump.info), versions.choice.chosen_by), 1)
    stale.add((datum,), len(versions.stale))


def _info(snapshot: Snapshot, datum: str, candidate: Candidate, chosen_by: str) -> tuple[str, ...]:
    shape = candidate.info
    slots, layout = _layout(snapshot, candidate) if datum == COUNTERS else ("", "")
    return (datum, candidate.name, shape.type, str(shape.key_size), str(shape.value_size), slots, layout, chosen_by)


def _layout(snapshot: Snapshot, candidate: Candidate) -> tuple[str, str]:
    try:
        layout = snapshot.layout_of(candidate.info)
    except LayoutError:
        return "", ""  # no counter map of any release; the sizes beside it say how it differs
    return str(len(layout.slots)), layout.source
