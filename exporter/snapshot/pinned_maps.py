"""Reads Calico's maps for one snapshot, each once, and determines the live version of each.

`live_map.py` defines the kinds of evidence; this module collects them, best evidence first.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import cached_property, partial

from exporter.bpf.maps import MapDump, MapError, MapInfo, MapMissing, NotAMap, ProgramInfo
from exporter.calico import LayoutError
from exporter.calico.counters import Layout, layout_of, slot_count
from exporter.calico.ifstate import decode_ifstate
from exporter.calico.layout_file import LayoutFile
from exporter.calico.pins import CONNTRACK, COUNTERS, IFACE, PROGRAMS, Pin
from exporter.calico.shapes import check_shape
from exporter.calico.tables import Columns
from exporter.node.netlink import Link
from exporter.snapshot import live_map
from exporter.snapshot.live_map import Candidate, Choice, LiveMapMemory
from exporter.snapshot.snapshot import MapVersions, Part
from exporter.snapshot.source import NodeSource

_SOME_MISSING = "if it stays, search the log of calico-node, and send a bundle to the developers"


class PinnedMaps:
    """The pinned maps of `source`; `links` are evidence for the live map. Raises `MapError` or `LayoutError`."""

    def __init__(
        self,
        source: NodeSource,
        pins: Part[tuple[Pin, ...]],
        links: Sequence[Link],
        memory: LiveMapMemory,
        layout_file: LayoutFile | None,
    ) -> None:
        self._source = source
        self._pins = pins
        self._memory = memory
        self._links = links
        self._layout_file = layout_file
        self._dumps: dict[str, MapDump] = {}

    def read(self, datum: str) -> tuple[MapVersions, MapDump | LayoutError | None]:
        """The versions of the map that holds `datum`, and the content of the live map: None while undecided, an error
        if none can be such a map.
        """
        names = self._names(datum)
        if len(names) == 1:
            self._read_sole_version(datum, names[0])
        candidates = self._candidates(datum)
        problems = {one.name: _problem(datum, one.name, one.info) for one in candidates}
        fitting = [one for one in candidates if problems[one.name] is None]
        if not fitting:
            only = Choice(candidates[0], live_map.ONLY) if len(candidates) == 1 else Choice(None, live_map.UNDECIDED)
            return MapVersions(tuple(candidates), only, ()), problems[candidates[0].name]
        choice = self._choose(datum, fitting)
        stale = tuple(
            pin.name
            for pin in self._pins.get()
            if pin.datum == datum and not (choice.live and pin.name == choice.live.name)
        )
        if choice.live is None:
            return MapVersions(tuple(candidates), choice, stale, layouts=self._layouts(datum, candidates)), None
        # Use the dump's info, not the candidate's: the map may have been replaced between the two reads.
        dump = self._dump(choice.live)
        live = Candidate(choice.live.name, dump.info)
        layouts = self._layouts(datum, [live])
        choice = Choice(live, choice.chosen_by)
        return MapVersions(tuple(candidates), choice, stale, dump.info, dump.count, layouts), dump

    def in_use(self, datum: str) -> tuple[Candidate, ...]:
        """The live version of a map that is too large to be read as evidence; all versions while that is undecided."""
        candidates = self._candidates(datum)
        live = self._choose_newest(datum, candidates).live
        return (live,) if live else tuple(candidates)

    def conntrack(self) -> dict[int, tuple[Candidate, ...]]:
        """The connection-tracking maps in use by IP family; a family without a map has no entries, but one of them must
        have a map.
        """
        found, missing = {}, []
        for family, datum in CONNTRACK.items():
            try:
                found[family] = self.in_use(datum)
            except MapMissing as error:
                missing.append(error)
        if not found:
            raise missing[0]
        return found

    def layout_of(self, info: MapInfo) -> Layout:
        """The slot layout of a counter map of this shape. Raises `LayoutError` if it cannot be a counter map."""
        count = slot_count(info.key_size, info.value_size)
        return layout_of(count, self._layout_file.named_for(count) if self._layout_file else None)

    def _layouts(self, datum: str, candidates: Sequence[Candidate]) -> dict[str, Layout]:
        layouts = {}
        for one in candidates if datum == COUNTERS else ():
            with suppress(LayoutError):
                layouts[one.name] = self.layout_of(one.info)
        return layouts

    def _names(self, datum: str) -> list[str]:
        return [pin.name for pin in self._pins.get() if pin.datum == datum and not pin.old]

    def _read_sole_version(self, datum: str, name: str) -> None:
        # One open serves its shape and its content. What is wrong with the pin is found where versions are compared.
        with suppress(LayoutError, NotAMap, MapMissing):
            check = partial(_check, datum, name)
            self._dumps[name] = self._source.map_dump(name, sum_cpus=True, check=check)

    def _candidates(self, datum: str) -> list[Candidate]:
        found, failures = [], []
        for name in self._names(datum):
            try:
                info = self._dumps[name].info if name in self._dumps else self._source.map_info(name)
                found.append(Candidate(name, info))
            except (NotAMap, MapMissing) as error:
                failures.append(error)
        if not found:
            raise failures[0] if failures else self._missing(datum)
        return found

    def _missing(self, datum: str) -> MapMissing:
        if self._source.predates(datum):
            return MapMissing(f"this bundle was made by an older version and has no {datum} map")
        if datum == COUNTERS and self._source.attach_point_folders():
            sentence = "this node runs Calico v3.24 or v3.25, whose counter maps are not supported"
            return MapMissing(sentence, "upgrade to v3.26 or later")
        if self._pins.get():
            return MapMissing(f"Calico has pinned no {datum} map on this node, though others", _SOME_MISSING)
        sentence = f"Calico has pinned no {datum} map on this node: its eBPF dataplane is off or has not started yet"
        return MapMissing(sentence)

    def _choose(self, datum: str, candidates: Sequence[Candidate]) -> Choice:
        if datum != COUNTERS:
            return self._choose_newest(datum, candidates)
        choice = self._choose_by_evidence(candidates)
        if choice.live:
            self._memory.stale = frozenset(one.info.id for one in candidates) - {choice.live.info.id}
        return choice

    def _choose_by_evidence(self, candidates: Sequence[Candidate]) -> Choice:
        memory = self._memory
        # Calico unpins its map to recreate it: a stale map that is alone in that moment is still not the live map.
        if len(candidates) == 1 and candidates[0].info.id not in memory.stale:
            # Stored so that the first snapshot with a second version has something to compare with.
            memory.fingerprints = {candidates[0].info.id: live_map.fingerprint(self._dump(candidates[0]))}
            memory.proven = candidates[0].info.id
            return Choice(candidates[0], live_map.ONLY)
        by_programs = live_map.newest_user(candidates, self._programs)
        if by_programs:
            memory.proven, memory.fingerprints = by_programs.info.id, {}  # in case programs are unreadable next time
            return Choice(by_programs, live_map.PROGRAMS)
        by_movement = live_map.choose_by_movement(candidates, self._dump, memory)
        if by_movement:
            return Choice(by_movement, live_map.MOVEMENT)
        existing = [link.ifindex for link in self._links]
        by_keys = live_map.choose_by_keys(candidates, lambda one: _indexes(self._dump(one)), existing)
        if by_keys is None or by_keys.info.id in memory.stale:
            return Choice(None, live_map.UNDECIDED)
        return Choice(by_keys, live_map.KEYS)

    def _choose_newest(self, datum: str, candidates: Sequence[Candidate]) -> Choice:
        if len(candidates) == 1:
            return Choice(candidates[0], live_map.ONLY)
        by_programs = live_map.newest_user(candidates, self._programs)
        if by_programs:
            return Choice(by_programs, live_map.PROGRAMS)
        if datum != IFACE:
            return Choice(None, live_map.UNDECIDED)
        existing = {link.ifindex: link.name for link in self._links}
        best = live_map.ranked_by_names(candidates, lambda one: _interfaces(self._dump(one)), existing)
        return Choice(best, live_map.KEYS)

    @cached_property
    def _programs(self) -> list[ProgramInfo]:
        # Needs CAP_SYS_ADMIN; without it the other evidence decides, so a refusal is not an error.
        with suppress(MapError):
            return programs_of(self._source, self._pins.get())
        return []

    def _dump(self, candidate: Candidate) -> MapDump:
        if candidate.name not in self._dumps:
            self._dumps[candidate.name] = self._source.map_dump(candidate.name, sum_cpus=True)
        return self._dumps[candidate.name]


def programs_of(source: NodeSource, pins: Sequence[Pin]) -> list[ProgramInfo]:
    """The programs in the program arrays among `pins`; each value is one program id (u32). Raises `MapError`."""
    values: list[bytes] = []
    for pin in pins:
        if pin.datum == PROGRAMS and not _problem(PROGRAMS, pin.name, source.map_info(pin.name)):
            values += (value for _, value in source.map_dump(pin.name).entries())
    return source.programs(sorted({int.from_bytes(value, "little") for value in values}))


def _check(datum: str, name: str, info: MapInfo) -> None:
    check_shape(datum, name, info.type, info.key_size, info.value_size)


def _problem(datum: str, name: str, info: MapInfo) -> LayoutError | None:
    try:
        _check(datum, name, info)
    except LayoutError as error:
        return copy(error)  # without its traceback, whose frames would keep the maps that are read meanwhile
    return None


def _indexes(dump: MapDump) -> set[int]:
    return {int.from_bytes(key[:4], "little") for key, _ in dump.entries()}


def _interfaces(dump: MapDump) -> Mapping[int, str]:
    try:
        return {state.ifindex: state.name for state in decode_ifstate(columns_of(dump))}
    except LayoutError:  # whatever it holds, it names no interface
        return {}


def columns_of(dump: MapDump) -> Columns:
    """The entries as decoders take them; of values that are not summed over CPUs, all of a key are one."""
    return Columns(dump.keys, dump.values, dump.info.key_size, dump.info.value_size * dump.copies)
