"""Which pinned version of each of Calico's maps is read in this look: candidates, evidence, choice.

`live_map.py` says what each kind of evidence means; this file asks a look for it, best evidence first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.bpf.maps import MapDump, MapMissing, NotAMap
from exporter.calico.ifstate import decode_ifstate
from exporter.calico.pins import COUNTERS, IFACE, IP_SETS, RULES
from exporter.node import NodeError
from exporter.node.netlink import Link
from exporter.snapshot import live_map
from exporter.snapshot.live_map import Candidate, Choice

if TYPE_CHECKING:
    from exporter.snapshot.take import Snapshot


@dataclass(frozen=True, slots=True)
class MapVersions:
    """The pinned versions of one datum's map: those that could be alive, the choice among them, and the names of all
    pins that are not the live one (`_old` copies included).
    """

    candidates: tuple[Candidate, ...]
    choice: Choice
    stale: tuple[str, ...]


def counter_versions(look: "Snapshot") -> MapVersions:
    """The versions of the counter map. Raises `MapError` when there is none."""
    return _versions(look, COUNTERS, _choose_counters)


def ifstate_versions(look: "Snapshot") -> MapVersions:
    """The versions of the interface state map. Raises `MapError` when there is none."""
    return _versions(look, IFACE, _choose_by_names)


def rule_versions(look: "Snapshot") -> MapVersions:
    """The versions of the rule counter map. Raises `MapError` when there is none."""
    return _versions(look, RULES, _choose_newest)


def ip_set_versions(look: "Snapshot", family: int) -> MapVersions:
    """The versions of the IP-set map of IP `family`. Raises `MapError` when there is none."""
    return _versions(look, IP_SETS[family], _choose_newest)


def _candidates(look: "Snapshot", datum: str) -> list[Candidate]:
    found, failures = [], []
    for pin in look.pins:
        if pin.datum == datum and not pin.old:
            try:
                found.append(Candidate(pin.name, look.info(pin.name)))
            except (NotAMap, MapMissing) as error:
                failures.append(error)
    if not found:
        raise failures[0] if failures else MapMissing(_why_missing(look, datum))
    return found


def _why_missing(look: "Snapshot", datum: str) -> str:
    if datum == COUNTERS and look.source.attach_point_folders():
        return "this node runs Calico v3.24 or v3.25, whose counter maps are not supported: upgrade to v3.26 or later"
    return f"Calico has pinned no {datum} map on this node: its eBPF dataplane is off or has not started yet"


def _versions(look: "Snapshot", datum: str, choose: "Callable[[Snapshot, Sequence[Candidate]], Choice]") -> MapVersions:
    candidates = _candidates(look, datum)
    choice = choose(look, candidates)
    live = choice.live.name if choice.live else None
    stale = tuple(pin.name for pin in look.pins if pin.datum == datum and pin.name != live)
    return MapVersions(tuple(candidates), choice, stale)


def _choose_counters(look: "Snapshot", candidates: Sequence[Candidate]) -> Choice:
    memory = look.memory.counters
    choice = _choose_by_evidence(look, candidates)
    if choice.live:
        memory.passed_over = frozenset(one.info.id for one in candidates) - {choice.live.info.id}
    return choice


def _choose_by_evidence(look: "Snapshot", candidates: Sequence[Candidate]) -> Choice:
    memory = look.memory.counters
    # Calico deletes the pin of its map to make it anew: what lay dead beside it is not alive for being alone then.
    if len(candidates) == 1 and candidates[0].info.id not in memory.passed_over:
        # Remembered, so that the look at which a second version appears can already compare.
        memory.fingerprints = {candidates[0].info.id: live_map.fingerprint(look.dump(candidates[0]))}
        memory.proven = candidates[0].info.id
        return Choice(candidates[0], live_map.ONLY)
    by_programs = live_map.newest_user(candidates, look.programs)
    if by_programs:
        memory.proven, memory.fingerprints = by_programs.info.id, {}  # should they be out of reach at the next look
        return Choice(by_programs, live_map.PROGRAMS)
    by_movement = live_map.choose_by_movement(candidates, look.dump, memory)
    if by_movement:
        return Choice(by_movement, live_map.MOVEMENT)
    existing = [link.ifindex for link in _links(look)]
    by_keys = live_map.choose_by_keys(candidates, lambda one: _indexes(look.dump(one)), existing)
    if by_keys is None or by_keys.info.id in memory.passed_over:
        return Choice(None, live_map.UNDECIDED)
    return Choice(by_keys, live_map.KEYS)


def _choose_newest(look: "Snapshot", candidates: Sequence[Candidate]) -> Choice:
    if len(candidates) == 1:
        return Choice(candidates[0], live_map.ONLY)
    by_programs = live_map.newest_user(candidates, look.programs)
    return Choice(by_programs, live_map.PROGRAMS if by_programs else live_map.UNDECIDED)


def _choose_by_names(look: "Snapshot", candidates: Sequence[Candidate]) -> Choice:
    choice = _choose_newest(look, candidates)
    if choice.live:
        return choice
    existing = {link.ifindex: link.name for link in _links(look)}
    best = live_map.ranked_by_names(candidates, lambda one: _names(look.dump(one)), existing)
    return Choice(best, live_map.KEYS)


def _links(look: "Snapshot") -> Sequence[Link]:
    try:
        return look.links
    except NodeError:
        return ()


def _indexes(dump: MapDump) -> set[int]:
    return set(dump.keys[:, :4].copy().view("<u4").ravel().tolist())


def _names(dump: MapDump) -> Mapping[int, str]:
    return {state.ifindex: state.name for state in decode_ifstate(dump.keys, dump.values)}
