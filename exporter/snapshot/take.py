"""One look at the node, part by part.

A `Snapshot` reads, decodes and joins a part when it is first asked for and keeps the result, or the failure, for its
life: two collectors that need the counter map cost one read, and a broken part says the same sentence twice. What must
outlive a look (which map is alive, who an interface belonged to) is in `Memory`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from exporter.bpf.maps import MapDump, MapError, MapInfo, ProgramInfo
from exporter.calico import LayoutError
from exporter.calico.counters import (
    FIRST_COUNT_WITH_TIER_ENDS,
    CounterTable,
    Layout,
    decode_counters,
    layout_of,
    slot_count,
)
from exporter.calico.ifstate import InterfaceState, decode_ifstate
from exporter.calico.ip_sets import decode_ip_sets
from exporter.calico.layout_file import LayoutFile
from exporter.calico.names import DEFAULT_PREFIXES
from exporter.calico.pins import PROGRAMS, Pin, parse_pins
from exporter.calico.rules import RuleHits, decode_rule_hits
from exporter.node import NodeError
from exporter.node.endpoint_status import LocalPods, pods_of
from exporter.node.endpoints import Endpoints, Identities, join_endpoints
from exporter.node.netlink import HostRoute, Link
from exporter.node.nic import Nic
from exporter.node.pods import ClusterPods
from exporter.node.policies import Policies
from exporter.snapshot.live_map import Candidate, LiveMapMemory
from exporter.snapshot.map_choice import MapVersions, counter_versions, ifstate_versions, ip_set_versions, rule_versions
from exporter.snapshot.rules import Rules, join_rules
from exporter.snapshot.source import NodeSource

_T = TypeVar("_T")
_Default = TypeVar("_Default")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user can say about the node: prefixes of workload interfaces, and names for slots of an odd build."""

    prefixes: Sequence[str] = DEFAULT_PREFIXES
    layout_file: LayoutFile | None = None


@dataclass(slots=True)
class Memory:
    """What one look leaves to the next: how the counter maps looked, who an interface was known to belong to, and what
    was made from facts that have not changed since.
    """

    counters: LiveMapMemory = field(default_factory=LiveMapMemory)
    identities: Identities = field(default_factory=dict)
    pods: LocalPods | None = None
    ifstate: tuple[MapDump, tuple[InterfaceState, ...]] | None = None
    joined: tuple[tuple[object, ...], Endpoints] | None = None
    rules: Rules | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    kind: type[Exception]
    sentence: str


class part(Generic[_T]):  # noqa: N801  used as a decorator, like property
    """A property computed once for the life of its object, which keeps an exception as well as a value."""

    def __init__(self, compute: Callable[["Snapshot"], _T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, snapshot: "Snapshot", owner: type) -> _T:
        """The kept value, or the kept exception raised again."""
        if self not in snapshot.kept:
            try:
                snapshot.kept[self] = self._compute(snapshot)
            except (MapError, LayoutError, NodeError) as error:
                # Kept without its traceback, whose frames hold this very look: nothing may keep a look alive.
                snapshot.kept[self] = _Failure(type(error), str(error))
        kept = snapshot.kept[self]
        if isinstance(kept, _Failure):
            raise kept.kind(kept.sentence)
        return cast("_T", kept)


class Snapshot:
    """One look. Every part raises `MapError`, `LayoutError` or `NodeError`, or is whole."""

    def __init__(self, source: NodeSource, settings: Settings, memory: Memory) -> None:
        self.source = source
        self.settings = settings
        self.memory = memory
        self.kept: dict[object, object] = {}
        self._infos: dict[str, MapInfo] = {}
        self._dumps: dict[str, MapDump] = {}

    @part
    def pins(self) -> tuple[Pin, ...]:
        """The pins that hold something of Calico's."""
        return parse_pins(self.source.pin_names())

    @part
    def links(self) -> tuple[Link, ...]:
        """The links of the node."""
        return self.source.links()

    @part
    def host_routes(self) -> tuple[HostRoute, ...]:
        """The routes to single addresses."""
        return self.source.host_routes()

    @part
    def pods(self) -> LocalPods:
        """The pods of this node."""
        self.memory.pods = pods_of(self.source.endpoint_status(), self.memory.pods)
        return self.memory.pods

    @part
    def cluster_pods(self) -> ClusterPods | None:
        """The pods of this node as the API server knows them, None where it is not asked."""
        return self.source.cluster_pods()

    @part
    def nics(self) -> dict[str, Nic]:
        """The kernel's own counters of each interface, by name."""
        return self.source.nics()

    @part
    def counter_versions(self) -> MapVersions:
        """Which pinned counter map is alive."""
        return counter_versions(self)

    @part
    def counters(self) -> CounterTable:
        """The live counter map, decoded."""
        return decode_counters(*self._columns(self.live(self.counter_versions)), self.counter_layout)

    @part
    def counter_layout(self) -> Layout:
        """What the slots of the live counter map mean."""
        # Of the dump, not of the candidate: the map may have been replaced between the two.
        return self.layout_of(self.dump(self.live(self.counter_versions)).info)

    @part
    def ifstate_versions(self) -> MapVersions:
        """Which pinned interface state map is alive."""
        return ifstate_versions(self)

    @part
    def ifstate(self) -> tuple[InterfaceState, ...]:
        """The live interface state map, decoded."""
        dump, before = self.dump(self.live(self.ifstate_versions)), self.memory.ifstate
        same = before and np.array_equal(before[0].keys, dump.keys) and np.array_equal(before[0].values, dump.values)
        states = before[1] if before and same else decode_ifstate(dump.keys, dump.values)
        self.memory.ifstate = dump, states
        return states

    @part
    def rule_versions(self) -> MapVersions:
        """Which pinned rule counter map is alive."""
        return rule_versions(self)

    @part
    def rule_hits(self) -> RuleHits:
        """The live rule counter map, decoded."""
        return decode_rule_hits(*self._columns(self.live(self.rule_versions)))

    @part
    def policies(self) -> Policies:
        """The policy programs of this node."""
        return self.source.policies()

    @part
    def rules(self) -> Rules:
        """Every rule of this node by name, and whose policy is not in place."""
        self.memory.rules = join_rules(self.policies, self.endpoints, self.settings.prefixes, self.memory.rules)
        return self.memory.rules

    @part
    def ends_have_ids(self) -> bool | None:
        """Whether tier ends have rule ids of their own, and 0 means "no profile matched"; None where nothing tells."""
        try:
            return len(self.counter_layout.slots) >= FIRST_COUNT_WITH_TIER_ENDS
        except (MapError, LayoutError):
            return self.rules.table.ends_have_ids

    @part
    def endpoints(self) -> Endpoints:
        """Who lives behind each interface. Does without links or interface state, but not without both."""
        links, no_links = _whole_or(lambda: self.links, ())
        states, no_states = _whole_or(lambda: self.ifstate, ())
        if no_links and no_states:
            raise no_states
        routes, _ = _whole_or(lambda: self.host_routes, ())
        pods, _ = _whole_or(lambda: self.pods, _NO_PODS)
        cluster, _ = _whole_or(lambda: self.cluster_pods, None)
        known = cluster.pods if cluster else ()
        facts = (links, routes, states, pods, known)
        if self.memory.joined and all(map(is_, self.memory.joined[0], facts)):
            return self.memory.joined[1]
        prefixes = self.settings.prefixes
        joined = join_endpoints(links, routes, states, pods.pods, known, prefixes, self.memory.identities)
        self.memory.identities, self.memory.joined = joined.identities, (facts, joined)
        return joined

    def ip_sets(self, family: int) -> dict[int, tuple[str, ...]]:
        """The members of each IP set of IP `family` by its number: large, for a person who asks."""
        return decode_ip_sets(self.dump(self.live(ip_set_versions(self, family))).keys)

    def layout_of(self, info: MapInfo) -> Layout:
        """What the slots of a counter map of this shape mean. Raises `LayoutError` when it can be none."""
        count = slot_count(info.key_size, info.value_size)
        named = self.settings.layout_file.named_for(count) if self.settings.layout_file else None
        return layout_of(count, named)

    def live(self, versions: MapVersions) -> Candidate:
        """The live candidate. Raises `MapError` while it is undecided."""
        if versions.choice.live is None:
            names = ", ".join(candidate.name for candidate in versions.candidates)
            raise MapError(
                f"undecided which of {names} Calico uses now: none has moved since the last look; "
                "send traffic, or run with CAP_SYS_ADMIN so that Calico's programs can be asked"
            )
        return versions.choice.live

    def is_undecided(self) -> bool:
        """Whether several counter maps are pinned and none is proven alive, which a second look may settle."""
        versions, _ = _whole_or(lambda: self.counter_versions, None)
        return versions is not None and versions.choice.live is None

    def dump(self, candidate: Candidate) -> MapDump:
        """The content of a candidate, read once in this look, its CPUs added up."""
        if candidate.name not in self._dumps:
            self._dumps[candidate.name] = self.source.map_dump(candidate.name, add_cpus=True)
        return self._dumps[candidate.name]

    def forget_dumps(self) -> None:
        """Lets go of the raw content of the maps: what was made of it stays."""
        self._dumps.clear()

    def info(self, name: str) -> MapInfo:
        """The shape of the map pinned as `name`, asked once in this look."""
        if name not in self._infos:
            self._infos[name] = self.source.map_info(name)
        return self._infos[name]

    def _columns(self, candidate: Candidate) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        dump = self.dump(candidate)
        return dump.keys, dump.values

    @part
    def programs(self) -> list[ProgramInfo]:
        """The programs in Calico's program arrays; none where they may not be asked."""
        # Needs CAP_SYS_ADMIN; without it there is other evidence, so a refusal is no failure.
        arrays = [pin.name for pin in self.pins if pin.datum == PROGRAMS]
        try:
            dumps = [self.source.map_dump(name) for name in arrays]
            return self.source.programs(program_ids(dumps))
        except MapError:
            return []


_NO_PODS = LocalPods((), ())


def program_ids(arrays: Iterable[MapDump]) -> list[int]:
    """The ids of the programs in these program arrays, whose values are one u32 each."""
    values = [dump.values for dump in arrays if dump.info.value_size == 4]
    return sorted({int(number) for value in values for number in np.ascontiguousarray(value).view("<u4").ravel()})


def _whole_or(ask: Callable[[], _T], default: _Default) -> tuple[_T | _Default, Exception | None]:
    try:
        return ask(), None
    except (MapError, NodeError, LayoutError) as error:
        return default, error.with_traceback(None)
