"""Takes a snapshot of a node or a bundle: reads each part once, the maps first and back to back.

Reads only the requested parts; an error in one part affects only the parts derived from it. `Memory` holds the state
kept between snapshots (the live map, the known owner of an interface).
"""

import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from operator import is_
from typing import Any

import numpy as np

from exporter.bpf.maps import MapDump, MapError
from exporter.calico.counters import CounterTable, decode_counters
from exporter.calico.ifstate import InterfaceState, decode_ifstate
from exporter.calico.ip_sets import decode_ip_sets
from exporter.calico.layout_file import LayoutFile
from exporter.calico.names import DEFAULT_PREFIXES
from exporter.calico.pins import COUNTERS, IFACE, IP_SETS, RULES, Pin, parse_pins
from exporter.calico.rules import RuleHits, decode_rule_hits
from exporter.errors import ExporterError
from exporter.node.endpoint_status import LocalPods, pods_of
from exporter.node.endpoints import Endpoints, Identities, join_endpoints
from exporter.snapshot.live_map import LiveMapMemory
from exporter.snapshot.pinned_maps import PinnedMaps
from exporter.snapshot.rules import Rules, join_rules
from exporter.snapshot.snapshot import MapVersions, Part, Snapshot
from exporter.snapshot.source import NodeSource

# The parts in read order; large ones that only commands need are separate.
_READ_ALWAYS = (
    "pins",
    "counter_map",
    "rule_map",
    "ifstate_map",
    "counters",
    "rule_hits",
    "ifstate",
    "links",
    "host_routes",
    "pods",
    "cluster_pods",
    "endpoints",
    "nics",
    "policy_file_names",
    "policies",
    "rules",
)
_READ_IF_NAMED = ("ip_sets_4", "ip_sets_6", "policy_files")
EVERY_PART = frozenset(_READ_ALWAYS)
MAP_PARTS = frozenset({"counter_map", "rule_map", "ifstate_map"})
# The parts that a part is derived from; all others are read directly from the node.
_MADE_FROM = {
    "counters": ("counter_map",),
    "rule_hits": ("rule_map",),
    "ifstate": ("ifstate_map",),
    "endpoints": ("links", "host_routes", "ifstate", "pods", "cluster_pods"),
    "rules": ("policies", "endpoints"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """User settings for the node: workload interface prefixes, and slot names for a custom build of Calico."""

    prefixes: tuple[str, ...] = DEFAULT_PREFIXES
    layout_file: LayoutFile | None = None


@dataclass(slots=True)
class Memory:
    """State kept between snapshots: counter map fingerprints, the known owner of each interface, and results cached
    while their inputs are unchanged.
    """

    counters: LiveMapMemory = field(default_factory=LiveMapMemory)
    identities: Identities = field(default_factory=dict)
    pods: LocalPods | None = None
    ifstate: tuple[MapDump, tuple[InterfaceState, ...]] | None = None
    joined: tuple[tuple[object, ...], Endpoints] | None = None
    rules: Rules | None = None


class Reading:
    """Reads one snapshot, possibly in several steps: no part is read twice."""

    def __init__(self, source: NodeSource, settings: Settings, memory: Memory) -> None:
        self._source = source
        self._settings = settings
        self._memory = memory
        self._parts: dict[str, Part[Any]] = {}
        self._dumps: dict[str, MapDump | None] = {}
        self._maps: PinnedMaps | None = None
        self._at: float | None = None

    def read(self, parts: Collection[str]) -> Snapshot:
        """The snapshot with these parts, the parts they are derived from, and all parts read before."""
        wanted = with_sources(parts)
        for name in (*_READ_ALWAYS, *_READ_IF_NAMED):
            if name in wanted:
                self._part(name)
        absent: Part[Any] = Part(error=ExporterError("this part was not requested when the snapshot was taken"))
        read: dict[str, Any] = {name: self._parts.get(name, absent) for name in (*_READ_ALWAYS, *_READ_IF_NAMED)}
        return Snapshot(reader=self._source.reader_name, at=self._at, **read)

    def _part(self, name: str) -> Part[Any]:
        if name not in self._parts:
            source = self._source
            readers: dict[str, Callable[[], object]] = {
                "pins": self._pins,
                "counter_map": partial(self._map, COUNTERS),
                "rule_map": partial(self._map, RULES),
                "ifstate_map": partial(self._map, IFACE),
                "counters": self._counters,
                "rule_hits": self._rule_hits,
                "ifstate": self._ifstate,
                "ip_sets_4": partial(self._ip_sets, IP_SETS[4]),
                "ip_sets_6": partial(self._ip_sets, IP_SETS[6]),
                "links": source.links,
                "host_routes": source.host_routes,
                "pods": self._pods,
                "cluster_pods": source.cluster_pods,
                "endpoints": self._endpoints,
                "nics": source.nics,
                "policy_file_names": source.policy_file_names,
                "policies": source.policies,
                "policy_files": source.policy_files,
                "rules": self._rules,
            }
            self._parts[name] = Part.of(readers[name])
        return self._parts[name]

    def _pins(self) -> tuple[Pin, ...]:
        return parse_pins(self._source.pin_names())

    def _pinned_maps(self) -> PinnedMaps:
        if self._maps is None:
            pins = self._part("pins")
            # Links are evidence only if several versions of a map are pinned.
            versions = Counter(pin.datum for pin in pins.or_else(()) if pin.datum in (COUNTERS, IFACE))
            links = self._part("links").or_else(()) if max(versions.values(), default=0) > 1 else ()
            self._at = time.monotonic()
            self._maps = PinnedMaps(self._source, pins, links, self._memory.counters, self._settings.layout_file)
        return self._maps

    def _map(self, datum: str) -> MapVersions:
        versions, self._dumps[datum] = self._pinned_maps().read(datum)
        return versions

    def _dump(self, datum: str, versions: MapVersions) -> MapDump:
        dump = self._dumps.pop(datum)
        if dump is None:
            names = ", ".join(candidate.name for candidate in versions.candidates)
            raise MapError(
                f"undecided which of {names} Calico uses now: none has changed since the last snapshot; "
                "send traffic, or run with CAP_SYS_ADMIN so that Calico's programs can be read"
            )
        return dump

    def _counters(self) -> CounterTable:
        dump = self._dump(COUNTERS, self._part("counter_map").get())
        return decode_counters(dump.keys, dump.values, self._pinned_maps().layout_of(dump.info))

    def _rule_hits(self) -> RuleHits:
        dump = self._dump(RULES, self._part("rule_map").get())
        return decode_rule_hits(dump.keys, dump.values)

    def _ifstate(self) -> tuple[InterfaceState, ...]:
        dump, before = self._dump(IFACE, self._part("ifstate_map").get()), self._memory.ifstate
        same = before and np.array_equal(before[0].keys, dump.keys) and np.array_equal(before[0].values, dump.values)
        states = before[1] if before and same else decode_ifstate(dump.keys, dump.values)
        self._memory.ifstate = dump, states
        return states

    def _ip_sets(self, datum: str) -> dict[int, tuple[str, ...]]:
        return decode_ip_sets(self._dump(datum, self._map(datum)).keys)

    def _pods(self) -> LocalPods:
        self._memory.pods = pods_of(self._source.endpoint_status(), self._memory.pods)
        return self._memory.pods

    def _endpoints(self) -> Endpoints:
        """The endpoint behind each interface. Needs links or interface state."""
        if self._parts["links"].error and self._parts["ifstate"].error:
            self._parts["ifstate"].get()
        links, routes, states = (self._parts[name].or_else(()) for name in ("links", "host_routes", "ifstate"))
        pods, cluster = self._parts["pods"].or_else(_NO_PODS), self._parts["cluster_pods"].or_else(None)
        known = cluster.pods if cluster else ()
        facts = (links, routes, states, pods, known)
        if self._memory.joined and all(map(is_, self._memory.joined[0], facts)):
            return self._memory.joined[1]
        prefixes = self._settings.prefixes
        joined = join_endpoints(links, routes, states, pods.pods, known, prefixes, self._memory.identities)
        self._memory.identities, self._memory.joined = joined.identities, (facts, joined)
        return joined

    def _rules(self) -> Rules:
        policies, endpoints = self._parts["policies"].get(), self._parts["endpoints"].get()
        self._memory.rules = join_rules(policies, endpoints, self._settings.prefixes, self._memory.rules)
        return self._memory.rules


_NO_PODS = LocalPods((), ())


def with_sources(parts: Collection[str]) -> frozenset[str]:
    """These parts and all parts they are derived from."""
    wanted = set(parts)
    for name in parts:
        wanted |= with_sources(_MADE_FROM.get(name, ()))
    return frozenset(wanted)


def take_snapshot(
    source: NodeSource, settings: Settings, memory: Memory, parts: Collection[str] = EVERY_PART
) -> Snapshot:
    """A snapshot with these parts and the parts they are derived from."""
    return Reading(source, settings, memory).read(parts)
