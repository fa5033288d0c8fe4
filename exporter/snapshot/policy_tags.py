"""The tags of the attached policy programs: the kernel's hash of what runs, to compare with a policy debug file.

The interface state has the index of each policy program; the program is in the array of its hook, its further parts at
fixed distances behind it (`SubProgramJumpIdx` in felix/bpf/polprog, felix/bpf/jump). The arrays have places for 10,000
interfaces, so only the places in use are read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from exporter.bpf.maps import ProgramInfo
from exporter.calico.hooks import TC_EGRESS, TC_INGRESS, XDP
from exporter.calico.ifstate import InterfaceState
from exporter.calico.pins import POLICY_PROGRAMS, Pin
from exporter.snapshot.source import NodeSource

# The tags of a program's parts by interface index, hook and IP family; none where no program is attached.
PolicyTags = Mapping[tuple[int, int, int], tuple[str, ...]]
# The values of an array by key.
Entries = dict[bytes, bytes]
States = Sequence[InterfaceState]

# In the order of the indexes in the interface state: the hook, its arrays, and the distance of a program's parts.
_HOOKS = (
    (XDP, (POLICY_PROGRAMS["xdp"],), 100),
    (TC_INGRESS, (POLICY_PROGRAMS["ingress"], POLICY_PROGRAMS["tc"]), 10_000),
    (TC_EGRESS, (POLICY_PROGRAMS["egress"], POLICY_PROGRAMS["tc"]), 10_000),
)
_MAX_PARTS = 24


def read_policy_entries(source: NodeSource, pins: Sequence[Pin], states: States) -> dict[str, Entries]:
    """The places in use of each array of policy programs, by pin. Raises `MapError`."""
    found: dict[str, Entries] = {}
    for number, (_, data, distance) in enumerate(_HOOKS):
        indexes = {index for state in states for index in state.policies[number::3] if index >= 0}
        for pin in pins:
            if pin.datum in data and not pin.old and indexes:
                found.setdefault(pin.name, {}).update(_entries(source, pin.name, indexes, distance))
    return found


def ids_in(entries: Mapping[str, Entries]) -> list[int]:
    """The ids of all programs in these arrays."""
    return sorted({_number(value) for found in entries.values() for value in found.values()})


def read_policy_tags(source: NodeSource, pins: Sequence[Pin], states: States) -> PolicyTags:
    """The tags of all attached policy programs. Raises `MapError`."""
    entries = read_policy_entries(source, pins, states)
    ids = ids_in(entries)
    programs = {program.id: program for program in (source.programs(ids) if ids else ())}
    tags: dict[tuple[int, int, int], tuple[str, ...]] = {}
    for number, (hook, data, distance) in enumerate(_HOOKS):
        arrays = [entries[pin.name] for pin in pins if pin.datum in data and pin.name in entries]
        for state in states if arrays else ():
            for family, index in zip((4, 6), state.policies[number::3], strict=False):
                chains = [list(_chain(found, programs, index, distance)) for found in arrays if index >= 0]
                # An array of an older release keeps its programs, but Felix loads all again when it starts.
                newest = max(chains, key=lambda chain: chain[0].load_time if chain else -1, default=[])
                tags[state.ifindex, hook, family] = tuple(program.tag for program in newest)
    return tags


def _entries(source: NodeSource, pin: str, indexes: Iterable[int], distance: int) -> Entries:
    found: Entries = {}
    wanted = sorted(indexes)
    for _ in range(_MAX_PARTS):
        keys = [index.to_bytes(4, "little") for index in wanted]
        present = {key: value for key, value in zip(keys, source.map_values(pin, keys), strict=True) if value}
        found |= present
        wanted = [_number(key) + distance for key in present]
        if not wanted:
            break
    return found


def _chain(entries: Entries, programs: Mapping[int, ProgramInfo], index: int, distance: int) -> Iterator[ProgramInfo]:
    for part in range(_MAX_PARTS):
        value = entries.get((index + part * distance).to_bytes(4, "little"))
        program = programs.get(_number(value)) if value else None
        if program is None:
            return
        yield program


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")
