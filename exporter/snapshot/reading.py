"""Takes a snapshot of a node or a bundle: reads each part once, the maps first and back to back.

Reads only the requested parts; an error in one part affects only the parts derived from it.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from copy import copy
from functools import cache, partial
from operator import is_
from typing import TYPE_CHECKING, Any, ClassVar

from exporter.bpf.maps import MapDump, MapError, MapMissing
from exporter.calico import LayoutError
from exporter.calico.counters import CounterTable, decode_counters
from exporter.calico.failsafes import Failsafes, decode_failsafes
from exporter.calico.ifstate import InterfaceState, check_ifstate_fits, decode_ifstate
from exporter.calico.ip_sets import PrefixTrie, decode_ip_sets, ip_set_trie
from exporter.calico.pins import (
    COUNTERS,
    FAILSAFES,
    IFACE,
    IP_SETS,
    NAT_AFFINITY,
    NAT_BACKENDS,
    NAT_FRONTENDS,
    ROUTES,
    RULES,
    Pin,
    parse_pins,
)
from exporter.calico.rules import RuleHits, decode_rule_hits
from exporter.calico.tables import Columns
from exporter.errors import ExporterError
from exporter.node.endpoint_status import LocalPods, pods_of
from exporter.node.endpoints import Endpoints, join_endpoints
from exporter.snapshot.map_fill import MapFill
from exporter.snapshot.memory import Memory
from exporter.snapshot.parts import with_sources
from exporter.snapshot.pinned_maps import PinnedMaps, columns_of
from exporter.snapshot.policy_tags import PolicyTags, read_policy_tags
from exporter.snapshot.rules import Rules, join_rules
from exporter.snapshot.settings import Settings, all_addresses
from exporter.snapshot.snapshot import MapVersions, Part, Snapshot
from exporter.snapshot.source import NodeSource

if TYPE_CHECKING:  # `serve` needs none of these
    from exporter.calico.routes import RouteTable
    from exporter.calico.services import Services
    from exporter.snapshot.conntrack import Conntrack
    from exporter.snapshot.conntrack_count import ConntrackCount

_ABSENT: Part[Any] = Part(error=ExporterError("this part was not requested when the snapshot was taken"))


class Reading:
    """Reads one snapshot, possibly in several steps: no part is read twice."""

    def __init__(self, source: NodeSource, settings: Settings, memory: Memory) -> None:
        self._source = source
        self._settings = settings
        self._memory = memory
        self._parts: dict[str, Part[Any]] = {}
        self._dumps: dict[str, MapDump | LayoutError | None] = {}
        self._kept: dict[str, MapDump] = {}
        self._maps: PinnedMaps | None = None
        self._pin_names: list[str] = []
        self._at: float | None = None

    def read(self, parts: Collection[str]) -> Snapshot:
        """The snapshot with these parts, the parts they are derived from, and all parts read before."""
        for name in self._in_order(frozenset(parts)):
            self._part(name)
        return Snapshot(reader=self._source.reader_name, at=self._at, **(self._NOT_REQUESTED | self._parts))

    def read_policy_files(self, interfaces: Collection[str]) -> Snapshot:
        """The snapshot with all parts read before, and the policy files of these interfaces alone."""
        self._parts["policy_files"] = Part.of(lambda: self._source.policy_files(interfaces))
        return self.read(())

    def read_flows(self, family: int, keys: Collection[bytes]) -> Snapshot:
        """The snapshot with all parts read before, and the connection-tracking entries with these keys alone."""
        from exporter.snapshot.pinned_conntrack import read_flows

        self._parts["conntrack"] = Part.of(lambda: read_flows(self._source, self._pinned_maps(), family, keys))
        return self.read(())

    @staticmethod
    @cache  # asked for the same few sets at every scrape
    def _in_order(parts: frozenset[str]) -> tuple[str, ...]:
        wanted = with_sources(parts)
        return tuple(name for name in Reading._READERS if name in wanted)

    def _part(self, name: str) -> Part[Any]:
        if name not in self._parts:
            self._parts[name] = Part.of(partial(self._READERS[name], self))
        return self._parts[name]

    def _pins(self) -> tuple[Pin, ...]:
        self._pin_names = self._source.pin_names()
        return parse_pins(self._pin_names)

    def _map_fills(self) -> tuple[MapFill, ...]:
        if self._source.reader_name == "bundle":  # it has a part of some of these maps, and none of others
            return ()
        self._part("pins").get()
        return self._memory.map_counts.fills(self._source, self._pin_names)

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
        if isinstance(dump, LayoutError):
            raise copy(dump)  # or its traceback, which has this frame, would keep what was read
        if dump is None:
            names = ", ".join(candidate.name for candidate in versions.candidates)
            raise MapError(
                f"undecided which of {names} Calico uses now: none has changed since the last snapshot; "
                "send traffic, or run with CAP_SYS_ADMIN so that Calico's programs can be read"
            )
        return dump

    def _counters(self) -> CounterTable:
        dump = self._dump(COUNTERS, self._part("counter_map").get())
        return decode_counters(columns_of(dump), self._pinned_maps().layout_of(dump.info))

    def _rule_hits(self) -> RuleHits:
        dump = self._dump(RULES, self._part("rule_map").get())
        return decode_rule_hits(columns_of(dump))

    def _ifstate(self) -> tuple[InterfaceState, ...]:
        dump, before = self._dump(IFACE, self._part("ifstate_map").get()), self._memory.ifstate
        same = before and (before[0].keys, before[0].values) == (dump.keys, dump.values)
        states = before[1] if before and same else decode_ifstate(columns_of(dump))
        links, fits = self._part("links").or_else(()), self._memory.ifstate_fits
        if not fits or fits[0] is not states or fits[1] is not links:
            check_ifstate_fits(states, {link.ifindex: link.name for link in links}, self._settings.prefixes)
            self._memory.ifstate_fits = states, links
        self._memory.ifstate = dump, states
        return states

    def _ip_sets(self, datum: str) -> dict[int, tuple[str, ...]]:
        dump = self._kept_dump(datum)
        return decode_ip_sets(dump.keys, dump.info.key_size)

    def _ip_set_trie(self, datum: str) -> PrefixTrie:
        return ip_set_trie(key for key, _ in self._kept_dump(datum).entries())

    def _kept_dump(self, datum: str) -> MapDump:
        """The dump of a map from which several parts are made."""
        if datum not in self._kept:
            self._kept[datum] = self._dump(datum, self._map(datum))
        return self._kept[datum]

    def _failsafes(self, datum: str) -> Failsafes:
        dump = self._dump(datum, self._map(datum))
        return decode_failsafes(key for key, _ in dump.entries())

    def _policy_tags(self) -> PolicyTags:
        return read_policy_tags(self._source, self._part("pins").get(), self._part("ifstate").get())

    def _columns(self, datum: str) -> Columns:
        return columns_of(self._kept_dump(datum))

    def _services(self, family: int) -> "Services":
        from exporter.calico.nat import Affinity, decode_affinity, decode_backends, decode_frontends
        from exporter.calico.services import Services

        frontends = decode_frontends(self._columns(NAT_FRONTENDS[family]))
        backends = decode_backends(self._columns(NAT_BACKENDS[family]))
        affinity: tuple[Affinity, ...] = ()
        with suppress(MapMissing):
            affinity = decode_affinity(self._columns(NAT_AFFINITY[family]))
        return Services(frontends, backends, affinity)

    def _routes(self, family: int) -> "RouteTable":
        from exporter.calico.routes import RouteTable, decode_routes

        return RouteTable(decode_routes(self._columns(ROUTES[family])))

    def _interfaces_to(self) -> Mapping[str, int]:
        return self._source.interfaces_to(self._settings.flows_of(self._parts["endpoints"].or_else(Endpoints({}))))

    def _conntrack(self) -> "Conntrack":
        from exporter.snapshot.conntrack import Wanted
        from exporter.snapshot.pinned_conntrack import read_conntrack

        endpoints = self._parts["endpoints"].or_else(Endpoints({}))
        wanted = Wanted.of(all_addresses(endpoints), self._settings.flows_of(endpoints))
        return read_conntrack(self._source, self._pinned_maps(), wanted)

    def count_conntrack(self) -> Iterator[None]:
        """Counts the connection-tracking maps for later snapshots; yields after each slice."""
        from exporter.snapshot.conntrack_count import count_conntrack

        addresses = all_addresses(self.read({"endpoints"}).endpoints.or_else(Endpoints({})))
        read = partial(self._memory.map_counts.batches, self._source)
        try:
            count = yield from count_conntrack(self._pinned_maps(), frozenset(addresses), read)
        except ExporterError as error:
            self._memory.conntrack_count = Part(error=copy(error))
        else:
            self._memory.conntrack_count = Part(count)

    def _conntrack_count(self) -> "ConntrackCount | None":
        if not self._memory.map_counts.background and self._source.reader_name != "bundle":
            for _ in self.count_conntrack():
                pass
        return self._memory.conntrack_count.get()

    def _pods(self) -> LocalPods:
        folder, before = self._source.endpoint_status(), self._memory.pods
        if before is None or folder is not self._memory.status:
            before = pods_of(folder, before)
        self._memory.status, self._memory.pods = folder, before
        return before

    def _endpoints(self) -> Endpoints:
        """The endpoint behind each interface, from the sources that could be read."""
        links, states = (self._parts[name].or_else(None) for name in ("links", "ifstate"))
        routes = self._parts["host_routes"].or_else(())
        pods, cluster = self._parts["pods"].or_else(LocalPods((), ())), self._parts["cluster_pods"].or_else(None)
        known, before = cluster.pods if cluster else (), self._memory.joined
        facts = (links, routes, states, pods, known)
        if before and all(map(is_, before[0], facts)):
            return before[1]
        last = before[1] if before else Endpoints()
        joined = join_endpoints(links, routes, states, pods.pods, known, self._settings.prefixes, last)
        self._memory.joined = facts, joined
        return joined

    def _rules(self) -> Rules:
        policies, endpoints = self._parts["policies"].get(), self._parts["endpoints"].get()
        prefixes, before = self._settings.prefixes, self._memory.rules
        self._memory.rules = join_rules(policies, endpoints, prefixes, before, time.monotonic())
        return self._memory.rules

    # What reads each part, in the order in which they are read: maps back to back, what the kernel received and dropped
    # right after them; large parts, which only commands need, come last.
    _READERS: ClassVar[Mapping[str, Callable[["Reading"], object]]] = {
        "pins": _pins,
        "counter_map": lambda self: self._map(COUNTERS),
        "rule_map": lambda self: self._map(RULES),
        "ifstate_map": lambda self: self._map(IFACE),
        "received": lambda self: self._source.received(),
        "queue_drops": lambda self: self._source.queue_drops(),
        "counters": _counters,
        "rule_hits": _rule_hits,
        "links": lambda self: self._source.links(),
        "ifstate": _ifstate,
        "host_routes": lambda self: self._source.host_routes(),
        "pods": _pods,
        "run_dir": lambda self: self._source.check_run_dir(),
        "cluster_pods": lambda self: self._source.cluster_pods(),
        "endpoints": _endpoints,
        "nics": lambda self: self._source.nics(),
        "policy_file_names": lambda self: self._source.policy_file_names(),
        "policies": lambda self: self._source.policies(),
        "rules": _rules,
        "ip_sets_4": lambda self: self._ip_sets(IP_SETS[4]),
        "ip_sets_6": lambda self: self._ip_sets(IP_SETS[6]),
        "ip_set_trie_4": lambda self: self._ip_set_trie(IP_SETS[4]),
        "ip_set_trie_6": lambda self: self._ip_set_trie(IP_SETS[6]),
        "failsafes_4": lambda self: self._failsafes(FAILSAFES[4]),
        "failsafes_6": lambda self: self._failsafes(FAILSAFES[6]),
        "services_4": lambda self: self._services(4),
        "services_6": lambda self: self._services(6),
        "routes_4": lambda self: self._routes(4),
        "routes_6": lambda self: self._routes(6),
        "addresses": lambda self: self._source.addresses(),
        "interfaces_to": _interfaces_to,
        "conntrack": _conntrack,
        "conntrack_count": _conntrack_count,
        "policy_tags": _policy_tags,
        "policy_files": lambda self: self._source.policy_files(),
        "map_fills": _map_fills,
        "packets": lambda self: self._source.packets(),
    }
    _NOT_REQUESTED: ClassVar[dict[str, Any]] = dict.fromkeys(_READERS, _ABSENT)


def take_snapshot(source: NodeSource, settings: Settings, memory: Memory, parts: Collection[str]) -> Snapshot:
    """A snapshot with these parts and the parts they are derived from."""
    return Reading(source, settings, memory).read(parts)
