"""How full the maps are that no snapshot reads whole: by the memory that the kernel accounts for them, else counted.

Counting goes batch by batch. `serve` counts in the background and a snapshot has the last count; elsewhere a snapshot
counts by itself. A map that cannot be read has no number, and does not affect the others.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.bpf.accounting import Accounting, MapUsage
from exporter.bpf.maps import MapDump, MapError
from exporter.calico import LayoutError
from exporter.calico.map_kinds import CONNTRACK_FILL, EVICTING_TYPE, MapPin, filling_maps
from exporter.calico.pins import parse_pins
from exporter.privileges import may_read_all
from exporter.snapshot.live_map import Candidate, newest_user
from exporter.snapshot.pinned_maps import columns_of, programs_of
from exporter.snapshot.source import NodeSource

_COUNTABLE = frozenset({"hash", "lru_hash", "lpm_trie"})
_LEFT_OVER_NS = 60 * 10**9
_FILLING = _COUNTABLE | {"percpu_hash", "lru_percpu_hash"}


def _in_use(source: NodeSource, versions: Sequence[MapPin]) -> str | None:
    """The connection-tracking map whose entries were used last, if the others' are much older: Calico's programs change
    the live one all the time, and one that an upgrade left behind is as old as the upgrade.
    """
    from exporter.calico.conntrack_rows import last_use  # seldom needed

    used = {}
    try:
        for pin in versions:
            first = next(source.map_batches(pin.name), None)
            used[last_use(columns_of(first)) if first else 0] = pin.name
    except (MapError, LayoutError):
        return None
    *older, newest = sorted(used)
    return used[newest] if len(used) == len(versions) and newest - older[-1] > _LEFT_OVER_NS else None


def _remedy() -> str:
    return "" if may_read_all() else "run with CAP_SYS_ADMIN, so that Calico's programs can be read"


class MapFill(NamedTuple):  # many at each scrape: four times as fast as a dataclass
    """A live map's entries, None if not known, and its maximum; `counted_at` is the Unix time of a count.

    A map with a `problem` could not be read, and only its name is known, and perhaps a `remedy`.
    """

    map: str
    ip_family: str
    pin: str
    entries: int | None = None
    max_entries: int = 0
    counted_at: float | None = None
    evicts: bool = False
    problem: str = ""
    remedy: str = ""

    @property
    def ratio(self) -> float:
        """The part that is taken; 0 if not known."""
        return self.entries / self.max_entries if self.entries and self.max_entries else 0.0


@dataclass(frozen=True, slots=True)
class _Count:
    usage: MapUsage
    entries: int
    at: float


@dataclass(slots=True)
class MapCounts:
    """Counts of maps, and what is known of this kernel's accounting, kept between snapshots.

    `counts` are by pinned name; `live` is the pinned name that Calico uses by the pinned versions of a map, where there
    are several, None while no program tells: as programs are many, it is asked again at each count only.
    """

    background: bool = False
    accounting: Accounting = field(default_factory=Accounting)
    counts: dict[str, _Count] = field(default_factory=dict)
    live: dict[tuple[MapPin, ...], str | None] = field(default_factory=dict)

    def fills(self, source: NodeSource, names: Sequence[str]) -> tuple[MapFill, ...]:
        """The fill of each map among the pinned `names`; raises nothing for a map that cannot be read."""
        if not self.background:
            for _ in self.count(source, names):
                pass
        found = (self._fill_or_problem(source, pin) for pin in self._pins(names))
        return (*(one for one in found if one), *self._undecided(names))

    def count_pinned(self, source: NodeSource, without: frozenset[str] = frozenset()) -> Iterator[None]:
        """Counts what is pinned now; nothing where that cannot be read, which each snapshot reports."""
        with suppress(MapError):
            yield from self.count(source, source.pin_names(), without)

    def count(self, source: NodeSource, names: Sequence[str], without: frozenset[str] = frozenset()) -> Iterator[None]:
        """Counts the maps whose memory does not tell their entries; yields after each batch.

        Leaves out the maps of `without`, which somebody else reads by `batches`.
        """
        for gone in self.counts.keys() - set(names):
            del self.counts[gone]
        self._decide(source, names)
        for pin in self._pins(names):
            if pin.kind and pin.map not in without:
                try:
                    yield from self._count(source, pin)
                except MapError:
                    self.counts.pop(pin.name, None)  # a snapshot that asks for it names the error

    def _decide(self, source: NodeSource, names: Sequence[str]) -> None:
        several = [versions for versions in filling_maps(tuple(names)) if len(versions) > 1]
        self.live = dict.fromkeys(several)
        if not several:
            return
        with suppress(MapError):  # programs need CAP_SYS_ADMIN
            programs = programs_of(source, parse_pins(names))
            for versions in several:
                chosen = newest_user([Candidate(pin.name, source.map_info(pin.name)) for pin in versions], programs)
                self.live[versions] = chosen.name if chosen else None
        for versions in several:
            if self.live[versions] is None and versions[0].map == CONNTRACK_FILL:
                self.live[versions] = _in_use(source, versions)

    def _pins(self, names: Sequence[str]) -> Iterator[MapPin]:
        """Of each map the version that Calico uses; none while several are pinned and no program tells."""
        for versions in filling_maps(tuple(names)):
            live = versions[0].name if len(versions) == 1 else self.live.get(versions)
            yield from (pin for pin in versions if pin.name == live)

    def _undecided(self, names: Sequence[str]) -> Iterator[MapFill]:
        """The maps of which several versions are pinned and no program tells which one is in use."""
        undecided = {versions for versions, live in self.live.items() if live is None}
        for versions in undecided and filling_maps(tuple(names)):
            if versions in undecided:
                pins = ", ".join(pin.name for pin in versions)
                problem = f"which of {pins} Calico uses now is not known, nor how full it is"
                yield MapFill(versions[0].map, versions[0].ip_family, pins, problem=problem, remedy=_remedy())

    def _count(self, source: NodeSource, pin: MapPin) -> Iterator[None]:
        before = source.map_usage(pin.name)
        if before.info.type not in _COUNTABLE:
            return
        if self.accounting.entries(before) is not None:
            self.counts.pop(pin.name, None)
            return
        for _ in self.batches(source, pin.name):
            yield

    def batches(self, source: NodeSource, name: str) -> Iterator[MapDump]:
        """The batches of a map, which is counted as soon as all of them have been taken."""
        before, entries = source.map_usage(name), 0
        for batch in source.map_batches(name):
            entries += batch.count
            yield batch
        after = source.map_usage(name)
        if after.info.id == before.info.id:  # not replaced meanwhile
            self.counts[name] = _Count(after, entries, time.time())
            self.accounting.check(entries, before, after)

    def _fill_or_problem(self, source: NodeSource, pin: MapPin) -> MapFill | None:
        try:
            return self._fill(source, pin)
        except MapError as error:
            return MapFill(pin.map, pin.ip_family, pin.name, problem=error.sentence, remedy=error.remedy)

    def _fill(self, source: NodeSource, pin: MapPin) -> MapFill | None:
        count = self.counts.get(pin.name)
        # A map whose memory tells nothing need not be opened before its next count.
        usage = count.usage if count and count.usage.memory is None else source.map_usage(pin.name)
        info, entries, at = usage.info, self.accounting.entries(usage), None
        if info.type not in _FILLING:
            return None
        if entries is None and count and count.usage.info.id == info.id:
            entries, at = count.entries, count.at
        evicts = info.type == EVICTING_TYPE
        return MapFill(pin.map, pin.ip_family, pin.name, entries, info.max_entries, at, evicts)
