"""A snapshot: everything read from the node at one moment, as an immutable value.

Each part holds its value or an error. `reading.py` takes snapshots; metrics, pages and commands are functions of them.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from exporter.bpf.maps import MapInfo, MapMissing
from exporter.calico.counters import FIRST_COUNT_WITH_TIER_ENDS, CounterTable, Layout
from exporter.calico.failsafes import Failsafes
from exporter.calico.ifstate import InterfaceState
from exporter.calico.ip_sets import PrefixTrie
from exporter.calico.pins import COUNTERS, IFACE, RULES, Pin
from exporter.calico.rules import RuleHits
from exporter.errors import ExporterError
from exporter.node.endpoint_status import LocalPods
from exporter.node.endpoints import Endpoints
from exporter.node.files import Folder
from exporter.node.netlink import HostRoute, Link, NodeAddress
from exporter.node.nic import Nic
from exporter.node.pods import ClusterPods
from exporter.node.policies import Policies
from exporter.snapshot.live_map import Candidate, Choice
from exporter.snapshot.policy_tags import PolicyTags
from exporter.snapshot.rules import Rules

if TYPE_CHECKING:  # `serve` needs none of these
    from exporter.calico.routes import RouteTable
    from exporter.calico.services import Services
    from exporter.snapshot.conntrack import Conntrack
    from exporter.snapshot.conntrack_count import ConntrackCount
    from exporter.snapshot.map_fill import MapFill
    from exporter.snapshot.recorded_packets import RecordedPackets

IP_FAMILIES = (4, 6)

_T = TypeVar("_T")
_Default = TypeVar("_Default")


@dataclass(frozen=True, slots=True)
class Part(Generic[_T]):
    """A part of a snapshot: its value or its error."""

    value: _T | None = None
    error: ExporterError | None = None

    @classmethod
    def of(cls, read: Callable[[], _T]) -> "Part[_T]":
        """What `read` returns, or the error that it raises."""
        try:
            return cls(read())
        except ExporterError as error:
            return cls(error=copy(error))  # drop the traceback: its frames keep the read data alive

    def get(self) -> _T:
        """The value. Raises the error if there is one."""
        if self.error is not None:
            raise copy(self.error)  # a copy, or the error would keep the caller's frames alive
        return cast("_T", self.value)

    def or_else(self, default: _Default) -> _T | _Default:
        """The value, or `default` if there is an error."""
        return default if self.error is not None else cast("_T", self.value)


@dataclass(frozen=True, slots=True)
class MapVersions:
    """The pinned versions of one of Calico's maps.

    `candidates` may be live, `choice` is the decision, `stale` are the names of all other pins (including `_old`
    copies). `info` and `entries` are the live map's info and entry count when it was read, None while undecided.
    `layouts` are the slot layouts of counter maps by pin name.
    """

    candidates: tuple[Candidate, ...]
    choice: Choice
    stale: tuple[str, ...]
    info: MapInfo | None = None
    entries: int | None = None
    layouts: Mapping[str, Layout] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Snapshot:
    """One snapshot of the node `node` (empty if unknown), read by `reader`.

    `at` is when the maps were read, in seconds on a monotonic clock, None if unknown. A part that was not requested
    holds an error.
    """

    reader: str
    pins: Part[tuple[Pin, ...]]
    counter_map: Part[MapVersions]
    rule_map: Part[MapVersions]
    ifstate_map: Part[MapVersions]
    counters: Part[CounterTable]
    rule_hits: Part[RuleHits]
    ifstate: Part[tuple[InterfaceState, ...]]
    ip_sets_4: Part[Mapping[int, tuple[str, ...]]]
    ip_sets_6: Part[Mapping[int, tuple[str, ...]]]
    ip_set_trie_4: Part[PrefixTrie]
    ip_set_trie_6: Part[PrefixTrie]
    failsafes_4: Part[Failsafes]
    failsafes_6: Part[Failsafes]
    policy_tags: Part[PolicyTags]
    links: Part[tuple[Link, ...]]
    host_routes: Part[tuple[HostRoute, ...]]
    run_dir: Part[None]
    pods: Part[LocalPods]
    cluster_pods: Part[ClusterPods | None]
    endpoints: Part[Endpoints]
    nics: Part[Mapping[str, Nic]]
    received: Part[Mapping[str, tuple[int, int]]]
    queue_drops: Part[Mapping[int, int]]
    addresses: Part[tuple[NodeAddress, ...]]
    interfaces_to: Part[Mapping[str, int]]
    services_4: "Part[Services]"
    services_6: "Part[Services]"
    routes_4: "Part[RouteTable]"
    routes_6: "Part[RouteTable]"
    conntrack: "Part[Conntrack]"
    conntrack_count: "Part[ConntrackCount | None]"
    policy_file_names: Part[Sequence[str]]
    policies: Part[Policies]
    policy_files: Part[Folder[bytes]]
    rules: Part[Rules]
    map_fills: "Part[tuple[MapFill, ...]]"
    packets: "Part[RecordedPackets | None]"
    at: float | None = None
    node: str = ""

    @property
    def maps(self) -> dict[str, Part[MapVersions]]:
        """The maps with the counters, the rules' counters and the interface state, by datum."""
        return {COUNTERS: self.counter_map, RULES: self.rule_map, IFACE: self.ifstate_map}

    @property
    def dataplane_present(self) -> bool | None:
        """Whether Calico's maps are pinned on this node; None if that could not be read."""
        if isinstance(self.pins.error, MapMissing):
            return False
        return bool(self.pins.get()) if self.pins.error is None else None

    def ip_sets(self, family: int) -> Part[Mapping[int, tuple[str, ...]]]:
        """The members of each IP set of IP `family` by its number."""
        return self.ip_sets_4 if family == 4 else self.ip_sets_6

    def ip_set_trie(self, family: int) -> Part[PrefixTrie]:
        """The IP-set map of IP `family`, to look keys up."""
        return self.ip_set_trie_4 if family == 4 else self.ip_set_trie_6

    def failsafes(self, family: int) -> Part[Failsafes]:
        """The failsafe ports of IP `family`."""
        return self.failsafes_4 if family == 4 else self.failsafes_6

    def services(self, family: int) -> "Part[Services]":
        """The services of IP `family`, as Calico's NAT maps have them."""
        return self.services_4 if family == 4 else self.services_6

    def routes(self, family: int) -> "Part[RouteTable]":
        """What Calico's programs know about addresses of IP `family`; the kernel's routes are `host_routes`."""
        return self.routes_4 if family == 4 else self.routes_6

    def ip_families(self) -> tuple[int, ...]:
        """The IP families in use: an interface is ready for it, or a policy file exists for it.

        Raises the error of the interface state, if any.
        """
        ready = {family for state in self.ifstate.get() for family in IP_FAMILIES if state.ready(family)}
        names = self.policy_file_names.or_else(())
        return tuple(
            one for one in IP_FAMILIES if one in ready or any(name.endswith(f"_v{one}.json") for name in names)
        )

    def ends_have_ids(self) -> bool | None:
        """Whether tier ends have separate rule ids, and id 0 means "no profile matched"; None if unknown."""
        if self.counters.error is None:
            return len(self.counters.get().layout.slots) >= FIRST_COUNT_WITH_TIER_ENDS
        return self.rules.get().table.ends_have_ids

    def seconds_since(self, earlier: "Snapshot") -> float | None:
        """Seconds between two snapshots; None if unknown or not positive."""
        if self.at is None or earlier.at is None or self.at <= earlier.at:
            return None
        return self.at - earlier.at
