"""How full the maps are that no snapshot reads whole: by the memory that the kernel accounts for them, else counted.

Counting goes batch by batch. `serve` counts in the background and a snapshot has the last count; elsewhere a snapshot
counts by itself. A map that cannot be read has no number, and does not affect the others.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from exporter.bpf.accounting import Accounting, MapUsage
from exporter.bpf.maps import MapError, MapInfo
from exporter.calico.map_kinds import EVICTING_TYPE, MapPin, filling_maps
from exporter.calico.pins import parse_pins
from exporter.snapshot.live_map import Candidate, newest_user
from exporter.snapshot.pinned_maps import programs_of
from exporter.snapshot.source import NodeSource

_COUNTABLE = frozenset({"hash", "lru_hash", "lpm_trie"})
_FILLING = _COUNTABLE | {"percpu_hash", "lru_percpu_hash"}


@dataclass(frozen=True, slots=True)
class MapFill:
    """A live map's entries, None if not known, and its maximum; `counted_at` is the Unix time of a count.

    A map with a `problem` could not be read, and only its name is known.
    """

    map: str
    ip_family: str
    pin: str
    entries: int | None = None
    max_entries: int = 0
    counted_at: float | None = None
    evicts: bool = False
    problem: str = ""

    @property
    def ratio(self) -> float:
        """The part that is taken; 0 if not known."""
        return self.entries / self.max_entries if self.entries and self.max_entries else 0.0


@dataclass(frozen=True, slots=True)
class _Count:
    info: MapInfo
    entries: int
    at: float


@dataclass(slots=True)
class MapCounts:
    """Counts of maps, and what is known of this kernel's accounting, kept between snapshots."""

    background: bool = False
    accounting: Accounting = field(default_factory=Accounting)
    counts: dict[str, _Count] = field(default_factory=dict)

    def fills(self, source: NodeSource, names: list[str]) -> tuple[MapFill, ...]:
        """The fill of each map among the pinned `names`; raises nothing for a map that cannot be read."""
        if not self.background:
            for _ in self.count(source, names):
                pass
        found = (self._fill_or_problem(source, pin) for pin in _live(source, names))
        return tuple(one for one in found if one)

    def count_pinned(self, source: NodeSource) -> Iterator[None]:
        """Counts what is pinned now; nothing where that cannot be read, which each snapshot reports."""
        with suppress(MapError):
            yield from self.count(source, source.pin_names())

    def count(self, source: NodeSource, names: list[str]) -> Iterator[None]:
        """Counts the maps whose memory does not tell their entries; yields after each batch."""
        for gone in self.counts.keys() - set(names):
            del self.counts[gone]
        for pin in _live(source, names):
            if pin.kind:
                try:
                    yield from self._count(source, pin)
                except MapError:
                    self.counts.pop(pin.name, None)  # a snapshot that asks for it names the error

    def _count(self, source: NodeSource, pin: MapPin) -> Iterator[None]:
        before = source.map_usage(pin.name)
        if before.info.type not in _COUNTABLE:
            return
        if self.accounting.entries(before) is not None:
            self.counts.pop(pin.name, None)
            return
        entries, info = 0, before.info
        for batch in source.map_batches(pin.name):
            entries, info = entries + len(batch.keys) // batch.info.key_size, batch.info
            yield
        self.counts[pin.name] = _Count(info, entries, time.time())
        if info.id == before.info.id:
            self.accounting.check(entries, before, source.map_usage(pin.name))

    def _fill_or_problem(self, source: NodeSource, pin: MapPin) -> MapFill | None:
        try:
            return self._fill(source, pin)
        except MapError as error:
            return MapFill(pin.map, pin.ip_family, pin.name, problem=error.sentence)

    def _fill(self, source: NodeSource, pin: MapPin) -> MapFill | None:
        count = self.counts.get(pin.name)
        # The memory of a map that preallocates its entries tells nothing: there is no need to open it.
        opened = count is None or self.accounting.may_tell(count.info)
        usage = source.map_usage(pin.name) if count is None or opened else MapUsage(count.info, None)
        info, entries, at = usage.info, self.accounting.entries(usage), None
        if info.type not in _FILLING:
            return None
        if entries is None and count and count.info.id == info.id:
            entries, at = count.entries, count.at
        evicts = info.type == EVICTING_TYPE
        return MapFill(pin.map, pin.ip_family, pin.name, entries, info.max_entries, at, evicts)


def _live(source: NodeSource, names: list[str]) -> Iterator[MapPin]:
    """Of each map the version that Calico uses; none while several are pinned and no program tells."""
    programs = None
    for versions in filling_maps(names):
        if len(versions) == 1:
            yield versions[0]
            continue
        try:
            candidates = [Candidate(pin.name, source.map_info(pin.name)) for pin in versions]
            programs = programs_of(source, parse_pins(names)) if programs is None else programs
        except MapError:
            continue
        live = newest_user(candidates, programs)
        yield from (pin for pin in versions if live and pin.name == live.name)
