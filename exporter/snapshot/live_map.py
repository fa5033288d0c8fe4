"""Which of several pinned versions of a map is alive.

Calico never removes an older version's pin, and after a downgrade the highest version is the dead one, so the name
says nothing. Evidence, best first: `only` one is pinned; Calico's newest loaded `programs` use it; its values moved
between two looks (`movement`); it alone has `keys` of interfaces that exist. Without evidence the answer is
`undecided`: a guess corrected later would look like a burst of packets.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.bpf.maps import MapDump, MapInfo, ProgramInfo

ONLY, PROGRAMS, MOVEMENT, KEYS, UNDECIDED = "only", "programs", "movement", "keys", "undecided"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pinned version of a map: the name of the pin and the shape of the map."""

    name: str
    info: MapInfo


@dataclass(frozen=True, slots=True)
class Choice:
    """The live candidate, None when undecided, and the evidence: one of the five words above."""

    live: Candidate | None
    chosen_by: str


@dataclass(slots=True)
class LiveMapMemory:
    """What earlier looks saw of one datum's maps: the fingerprints of the last look, the one proven alive, and those
    that lay beside the live one.

    Keyed by kernel map id, so a map re-created under the same name starts afresh.
    """

    fingerprints: dict[int, int] = field(default_factory=dict)
    proven: int | None = None
    passed_over: frozenset[int] = frozenset()


def fingerprint(dump: MapDump) -> int:
    """A number that changes when any key comes or goes or any value changes."""
    return hash((dump.keys.tobytes(), dump.values.tobytes()))


def newest_user(candidates: Sequence[Candidate], programs: Sequence[ProgramInfo]) -> Candidate | None:
    """The candidate that the most recently loaded program uses.

    Arrays of an older release stay pinned and keep their programs, and a release may reuse an older one's array
    (`cali_progs_ing2` is shared by v3.31 and v3.32), but Felix loads its own programs anew at every start.
    """
    by_id = {candidate.info.id: candidate for candidate in candidates}
    # Ids only grow: they decide where a reader tells load times in whole seconds.
    for program in sorted(programs, key=lambda program: (program.load_time, program.id), reverse=True):
        used = [by_id[number] for number in program.map_ids if number in by_id]
        if used:
            return used[0] if len(used) == 1 else None
    return None


def choose_by_movement(
    candidates: Sequence[Candidate], dump: Callable[[Candidate], MapDump], memory: LiveMapMemory
) -> Candidate | None:
    """The candidate whose content changed since the last look, or the one proven before while none contradicts it.

    Updates `memory`. While the proven one moves, the others are not even read; when it stops, they are compared from
    the next look on, since one that moved long ago may be dead by now.
    """
    last_look, memory.fingerprints = memory.fingerprints, {}

    def moved(candidate: Candidate) -> bool:
        number = candidate.info.id
        memory.fingerprints[number] = fingerprint(dump(candidate))
        return last_look.get(number, memory.fingerprints[number]) != memory.fingerprints[number]

    proven = next((candidate for candidate in candidates if candidate.info.id == memory.proven), None)
    if proven and moved(proven):
        return proven
    movers = [candidate for candidate in candidates if candidate is not proven and moved(candidate)]
    live = movers[0] if len(movers) == 1 else proven if not movers else None
    memory.proven = live.info.id if live else None
    return live


def choose_by_keys(
    candidates: Sequence[Candidate], indexes_in: Callable[[Candidate], Collection[int]], existing: Collection[int]
) -> Candidate | None:
    """The only candidate that holds an entry of an interface that exists: one that holds none counts nothing."""
    current = [candidate for candidate in candidates if not set(existing).isdisjoint(indexes_in(candidate))]
    return current[0] if len(current) == 1 else None


def ranked_by_names(
    candidates: Sequence[Candidate], names_in: Callable[[Candidate], Mapping[int, str]], existing: Mapping[int, str]
) -> Candidate:
    """The candidate whose interface names agree best with the kernel's; of equals, the last."""
    return max(
        candidates,
        key=lambda candidate: (len(names_in(candidate).items() & existing.items()), candidates.index(candidate)),
    )
