"""Joins interface indexes with endpoints; each index gets one.

Pure functions of the kernel's links, Calico's interface state and the pod sources, each of which may be missing. The
kernel's name for an index overrides Calico's; an index without a name is named by its number; one that the kernel does
not have is a leftover. What was known of an index stays with it until a source says otherwise, so that no series
changes its labels when a source is briefly unavailable.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.calico.counters import CounterTable
from exporter.calico.endpoint_status import EndpointStatus
from exporter.calico.hooks import TC_HOOKS, direction, hook_name
from exporter.calico.ifstate import LOOPBACK, InterfaceState
from exporter.calico.names import PLUGIN_PREFIXES, is_workload_name, workload_hash
from exporter.node.netlink import HostRoute, Link
from exporter.node.pods import ClusterPod

WORKLOAD, HOST, UNMANAGED, UNKNOWN = "workload", "host", "unmanaged", "unknown"
LEFTOVER = "leftover"  # of an interface that the kernel does not have

# At most this many unknown interfaces are exported: a map full of stale entries must not become 20000 series.
MAX_UNKNOWN = 100


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of an interface. `interface` is its name, or `ifindex:<n>` where no name is known.

    `kind` is `workload`, `host`, `unmanaged`, `unknown` or `leftover`; `namespace` and `pod` are empty for anything but
    an identified pod; `state` is its state in Calico's programs, None when they do not know it.
    """

    ifindex: int
    interface: str
    kind: str
    namespace: str = ""
    pod: str = ""
    addresses: tuple[str, ...] = ()
    state: InterfaceState | None = None

    @property
    def title(self) -> str:
        """Its name for display: `namespace/pod`, or the interface where no pod is known."""
        return f"{self.namespace}/{self.pod}" if self.pod else self.interface

    @property
    def key(self) -> tuple[int, str]:
        """Its identity across snapshots: the kernel may reuse an index for another interface."""
        return self.ifindex, self.interface

    @property
    def belongs_to_calico(self) -> bool:
        """Whether it is Calico's: its programs know the interface, or it is a workload's."""
        return self.state is not None or self.kind == WORKLOAD

    def direction(self, hook: int) -> str:
        """`inbound` or `outbound`: the direction of traffic through `hook`; empty where it is unknown."""
        return "" if self.kind in (UNKNOWN, LEFTOVER) else direction(hook, workload=self.kind == WORKLOAD)

    def hook_title(self, hook: int) -> str:
        """A hook's name for display, with the direction if it is known."""
        direction = self.direction(hook)
        return f"{hook_name(hook)} ({direction})" if direction else hook_name(hook)

    def hooks_without_entry(self, counters: CounterTable) -> tuple[int, ...]:
        """The tc hooks without an entry in `counters`, where all packets are dropped uncounted (from v3.31 on)."""
        # Felix creates the entry before it attaches a program and marks the interface ready after; the tc programs of
        # bond slaves are on the bond.
        state = self.state
        attached = state is not None and state.has_programs and not state.bond_slave
        if not attached or not counters.layout.entries_made_by_felix:
            return ()
        return tuple(hook for hook in TC_HOOKS if (self.ifindex, hook) not in counters.rows)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of a node by interface index, and the number of disagreements between the sources of pods.

    `links_known` is whether the kernel's links of the node were read: then every index that is not here is a leftover.
    `states_known` is whether the interface state was read; `leftovers` are its entries of interfaces that the kernel
    does not have. `gone` are the indexes that are leftovers although the links are not known.
    """

    by_index: Mapping[int, Endpoint] = field(default_factory=dict)
    mismatches: int = 0
    links_known: bool = False
    states_known: bool = False
    leftovers: tuple[InterfaceState, ...] = ()
    gone: frozenset[int] = frozenset()

    def of(self, ifindex: int) -> Endpoint:
        """The endpoint of `ifindex`; one that no source knows is `leftover` or `unknown`."""
        kind = LEFTOVER if self.links_known or ifindex in self.gone else UNKNOWN
        return self.by_index.get(ifindex) or Endpoint(ifindex, f"ifindex:{ifindex}", kind)

    def leftover_entries(self, counters: CounterTable) -> list[int]:
        """The index of each counter entry of an interface that the kernel does not have."""
        return [ifindex for ifindex, _ in counters.rows if self.of(ifindex).kind == LEFTOVER]

    def lose_packets(self, counters: CounterTable) -> list[tuple[Endpoint, int]]:
        """The endpoints and hooks that lose every packet for want of a counter entry."""
        every = self.by_index.values() if self.links_known else ()
        return [(one, hook) for one in every for hook in one.hooks_without_entry(counters)]


def workloads_by_address(endpoints: Endpoints) -> Mapping[str, Endpoint]:
    """The pods of this node by their addresses."""
    workloads = [one for one in endpoints.by_index.values() if one.kind == WORKLOAD]
    return {address: one for one in workloads for address in one.addresses}


def join_endpoints(
    links: Sequence[Link] | None,
    routes: Sequence[HostRoute],
    states: Sequence[InterfaceState] | None,
    pods: Sequence[EndpointStatus],
    cluster: Sequence[ClusterPod],
    prefixes: Sequence[str],
    before: Endpoints,
) -> Endpoints:
    """Joins all sources into the endpoints of a node. `prefixes` are those of workload interfaces.

    `links` and `states` are None where they could not be read. Three sources name an interface's pod: Calico's
    endpoint-status file; its name, if that is the hash of a pod that the API server knows; and the route to such a
    pod's address. Two sources that agree override the third. `before` is the last join.
    """
    if not links:
        links = None  # every network namespace has a loopback interface
    elif _is_foreign(links, states or ()):
        links, routes = None, ()
    state_of = {state.ifindex: state for state in states or ()}
    names, gone = _names(links, None if states is None else state_of, before)
    addresses = _addresses_by_index(routes)
    claims = _Claims(names, pods, cluster, prefixes, routes)
    endpoints: dict[int, Endpoint] = {}
    for ifindex, name in names.items():
        state, known = state_of.get(ifindex), before.by_index.get(ifindex)
        known = known if known and known.interface == name else None
        kind = _kind(name, state, prefixes, claims.workloads)
        if state is None and states is None and known:
            kind = known.kind
        identity = claims.pod_of(ifindex, workload=kind == WORKLOAD)
        if identity is None:
            identity = (known.namespace, known.pod) if known else ("", "")
        endpoints[ifindex] = Endpoint(
            ifindex=ifindex,
            interface=name,
            kind=kind,
            namespace=identity[0],
            pod=identity[1],
            addresses=addresses.get(ifindex) or claims.addresses_of(identity),
            state=None if state is None or _is_another(state, name) else state,
        )
    left = () if links is None else tuple(one for one in states or () if _is_another(one, names.get(one.ifindex)))
    return Endpoints(endpoints, len(claims.disputed), links is not None, states is not None, left, gone)


class _Claims:
    """The pod of each interface according to each source. `disputed` are the indexes where they disagree."""

    def __init__(
        self,
        names: Mapping[int, str],
        pods: Sequence[EndpointStatus],
        cluster: Sequence[ClusterPod],
        prefixes: Sequence[str],
        routes: Sequence[HostRoute],
    ) -> None:
        index_of = {name: ifindex for ifindex, name in names.items()}
        leads_to = {route.address: route.ifindex for route in routes}
        self.disputed: set[int] = set()
        self._addresses: dict[tuple[str, str], tuple[str, ...]] = {}
        self._by_file: dict[int, tuple[str, str]] = {}
        self._by_name: dict[int, tuple[str, str]] = {}
        self._by_route: dict[int, tuple[str, str]] = {}
        for one in self._undisputed(pods, index_of):
            self._claim(self._by_file, index_of.get(one.interface), one, leads_to)
        every = dict.fromkeys((*prefixes, *PLUGIN_PREFIXES))
        for pod in cluster:
            digits = workload_hash(pod.namespace, pod.pod)
            for name in [name for prefix in every if (name := prefix + digits) in index_of] or [""]:
                self._claim(self._by_name, index_of.get(name), pod, leads_to)
        for address, claimants in _by_address(cluster).items():
            if (index := leads_to.get(address)) is None:
                continue
            if len(claimants) == 1:
                self._by_route[index] = claimants.pop()
            else:  # one of them is terminating, but which one is unknown
                self.disputed.add(index)
        # Interfaces of workloads, whatever their prefix.
        self.workloads = {one.interface for one in pods} | {names[one] for one in self._by_name}

    def pod_of(self, ifindex: int, *, workload: bool) -> tuple[str, str] | None:
        """The pod of an interface, None where no source names one."""
        by_file, by_name = self._by_file.get(ifindex), self._by_name.get(ifindex)
        by_route = self._by_route.get(ifindex) if workload else None
        if len({by_file, by_name, by_route} - {None}) > 1:
            self.disputed.add(ifindex)
        if by_route in (by_file, by_name):
            return by_route or by_file or by_name
        # An address can be reassigned before the API server reports it: where interfaces are named after their pods,
        # a route alone names no pod.
        return by_file or by_name or (None if self._by_name else by_route)

    def addresses_of(self, identity: tuple[str, str]) -> tuple[str, ...]:
        """The addresses of a pod from the pod sources."""
        return self._addresses.get(identity, ())

    def _undisputed(self, pods: Sequence[EndpointStatus], index_of: Mapping[str, int]) -> Iterator[EndpointStatus]:
        """The files that are alone about their interface; of several, the one whose pod it is named after."""
        about: dict[str, list[EndpointStatus]] = {}
        for one in pods:
            about.setdefault(one.interface, []).append(one)
        for interface, files in about.items():
            named_after = [one for one in files if interface.endswith(workload_hash(one.namespace, one.pod))]
            if len(files) > 1 and interface in index_of:
                self.disputed.add(index_of[interface])
            yield from files if len(files) == 1 else named_after[:1]

    def _claim(
        self,
        claims: dict[int, tuple[str, str]],
        ifindex: int | None,
        pod: EndpointStatus | ClusterPod,
        leads_to: Mapping[str, int],
    ) -> None:
        identity = (pod.namespace, pod.pod)
        self._addresses.setdefault(identity, tuple(dict.fromkeys(pod.addresses)))
        if ifindex is None:
            return
        claims[ifindex] = identity
        if any(leads_to.get(address, ifindex) != ifindex for address in pod.addresses):
            self.disputed.add(ifindex)


def _by_address(pods: Iterable[ClusterPod]) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for pod in pods:
        for address in pod.addresses:
            found.setdefault(address, set()).add((pod.namespace, pod.pod))
    return found


def _is_foreign(links: Sequence[Link], states: Sequence[InterfaceState]) -> bool:
    """Whether the links are not the node's, but of another network namespace: none of Calico's is among them."""
    here, every = calicos_here(links, states)
    return every > 1 and not here  # a single one may be gone, or renamed just now


def calicos_here(links: Iterable[Link], states: Iterable[InterfaceState]) -> tuple[int, int]:
    """How many of the interfaces that Calico knows are among the links, and how many it knows."""
    here = {(link.ifindex, link.name) for link in links}
    calicos = {(state.ifindex, state.name) for state in states if state.ifindex != LOOPBACK}
    return len(calicos & here), len(calicos)


def _names(
    links: Sequence[Link] | None, states: Mapping[int, InterfaceState] | None, before: Endpoints
) -> tuple[dict[int, str], frozenset[int]]:
    """The name of each index, and the indexes that are known to be gone although the links are not."""
    if links is not None:
        # A dump is not atomic: an interface recreated during it can appear twice; the newer index is the valid one.
        return _newest((link.ifindex, link.name) for link in links), frozenset()
    rows = {ifindex: state.name for ifindex, state in (states or {}).items() if state.name}
    rows |= {ifindex: one.interface for ifindex, one in before.by_index.items()}
    gone = before.gone | {state.ifindex for state in before.leftovers}
    if states is not None:
        gone |= {one.ifindex for one in before.by_index.values() if one.state and one.ifindex not in states}
    # Calico's state can outlive an interface: the newer of two indexes with one name wins.
    names = _newest((ifindex, name) for ifindex, name in rows.items() if ifindex not in gone)
    return names, gone | (rows.keys() - names.keys())


def _is_another(state: InterfaceState, name: str | None) -> bool:
    """Whether the state is that of an earlier interface: the index has another name now, or none."""
    return name is None or state.name not in (name, "")


def _newest(rows: Iterable[tuple[int, str]]) -> dict[int, str]:
    index_of = {name: ifindex for ifindex, name in sorted(rows)}
    return {ifindex: name for name, ifindex in index_of.items()}


def _kind(name: str, state: InterfaceState | None, prefixes: Sequence[str], workloads: Container[str]) -> str:
    if state is None:
        return WORKLOAD if name in workloads or is_workload_name(name, prefixes) else HOST
    if not state.managed:
        return UNMANAGED
    return WORKLOAD if state.workload else HOST


def _addresses_by_index(routes: Iterable[HostRoute]) -> dict[int, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for route in routes:
        found.setdefault(route.ifindex, []).append(route.address)
    return {ifindex: tuple(dict.fromkeys(addresses)) for ifindex, addresses in found.items()}
