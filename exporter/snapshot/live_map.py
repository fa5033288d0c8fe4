"""Determines the live map among several pinned versions.

Calico never removes an older version's pin, and after a downgrade the highest version is stale, so the name is no
evidence. Evidence, best first: `only` one is pinned; Calico's newest loaded `programs` use it; its values changed
between two snapshots (`movement`); it alone has `keys` of existing interfaces. Without evidence the result is
`undecided`: correcting a wrong guess later would appear as a burst of packets.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.bpf.maps import MapDump, MapInfo, ProgramInfo

ONLY, PROGRAMS, MOVEMENT, KEYS, UNDECIDED = "only", "programs", "movement", "keys", "undecided"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pinned version of a map: its pin name and map info."""

    name: str
    info: MapInfo


@dataclass(frozen=True, slots=True)
class Choice:
    """The live candidate (None if undecided) and the evidence, one of the five constants above."""

    live: Candidate | None
    chosen_by: str


@dataclass(slots=True)
class LiveMapMemory:
    """State kept between snapshots for one kind of map: the fingerprints of the last snapshot, the map proven live,
    and the stale maps pinned beside it.

    Keyed by kernel map id, so that a map recreated under the same name starts without history.
    """

    fingerprints: dict[int, int] = field(default_factory=dict)
    proven: int | None = None
    stale: frozenset[int] = frozenset()


def fingerprint(dump: MapDump) -> int:
    """A hash of all keys and values, whatever the order of the entries."""
    # The kernel's order is that of its hash table, which changes when a map is copied into a larger one.
    return hash(frozenset(dump.entries()))


def newest_user(candidates: Sequence[Candidate], programs: Sequence[ProgramInfo]) -> Candidate | None:
    """The candidate used by the most recently loaded program.

    Arrays of an older release stay pinned and keep their programs, and a release may reuse an older one's array
    (`cali_progs_ing2` is shared by v3.31 and v3.32), but Felix reloads its programs at every start.
    """
    by_id = {candidate.info.id: candidate for candidate in candidates}
    # Ids only grow: they break ties, since some readers report load times in whole seconds.
    for program in sorted(programs, key=lambda program: (program.load_time, program.id), reverse=True):
        used = [by_id[number] for number in program.map_ids if number in by_id]
        if used:
            return used[0] if len(used) == 1 else None
    return None


def choose_by_movement(
    candidates: Sequence[Candidate], dump: Callable[[Candidate], MapDump], memory: LiveMapMemory
) -> Candidate | None:
    """The candidate whose content changed since the last snapshot, or the proven one unless another contradicts it.

    Updates `memory`. While the proven map changes, the others are not read. Once it stops, they are compared from the
    next snapshot on, since a map that changed long ago may be stale by now.
    """
    previous, memory.fingerprints = memory.fingerprints, {}

    def changed(candidate: Candidate) -> bool:
        number = candidate.info.id
        memory.fingerprints[number] = fingerprint(dump(candidate))
        return previous.get(number, memory.fingerprints[number]) != memory.fingerprints[number]

    proven = next((candidate for candidate in candidates if candidate.info.id == memory.proven), None)
    if proven and changed(proven):
        return proven
    changing = [candidate for candidate in candidates if candidate is not proven and changed(candidate)]
    live = changing[0] if len(changing) == 1 else proven if not changing else None
    memory.proven = live.info.id if live else None
    return live


def choose_by_keys(
    candidates: Sequence[Candidate], indexes_in: Callable[[Candidate], Collection[int]], existing: Collection[int]
) -> Candidate | None:
    """The only candidate with an entry of an existing interface; a map without any counts nothing."""
    current = [candidate for candidate in candidates if not set(existing).isdisjoint(indexes_in(candidate))]
    return current[0] if len(current) == 1 else None


def ranked_by_names(
    candidates: Sequence[Candidate], names_in: Callable[[Candidate], Mapping[int, str]], existing: Mapping[int, str]
) -> Candidate:
    """The candidate whose interface names match the kernel's best; the last one on a tie."""
    return max(
        candidates,
        key=lambda candidate: (len(names_in(candidate).items() & existing.items()), candidates.index(candidate)),
    )
