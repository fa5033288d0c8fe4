"""Joins interface indexes with endpoints; each index gets one.

Pure functions of the kernel's links, Calico's interface state and the pod sources. The kernel's name for an index
overrides Calico's; an index without a name is named by its number. A known identity stays with its index until a
source names another, so that no series loses its labels when a source is briefly unavailable.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.calico.counters import CounterTable
from exporter.calico.hooks import TC_HOOKS, direction, hook_name
from exporter.calico.ifstate import InterfaceState
from exporter.calico.names import has_workload_prefix, workload_interface
from exporter.node.endpoint_status import LocalPod
from exporter.node.netlink import HostRoute, Link
from exporter.node.pods import ClusterPod

WORKLOAD, HOST, UNMANAGED, UNKNOWN = "workload", "host", "unmanaged", "unknown"

# At most this many unknown interfaces are exported: a map full of stale entries must not become 20000 series.
MAX_UNKNOWN = 100

# The pod that an interface was last known to belong to: (ifindex, name) -> (namespace, pod).
Identities = Mapping[tuple[int, str], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of an interface. `interface` is its name, or `ifindex:<n>` where no name is known.

    `kind` is `workload`, `host`, `unmanaged` or `unknown`; `namespace` and `pod` are empty for anything but an
    identified pod; `state` is its state in Calico's programs, None when they do not know it.
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
    def belongs_to_calico(self) -> bool:
        """Whether it is Calico's: its programs know the interface, or it is a workload's."""
        return self.state is not None or self.kind == WORKLOAD

    def direction(self, hook: int) -> str:
        """`inbound` or `outbound`: the direction of traffic through `hook`; empty where it is unknown."""
        return "" if self.kind == UNKNOWN else direction(hook, workload=self.kind == WORKLOAD)

    def hook_title(self, hook: int) -> str:
        """A hook's name for display, with the direction if it is known."""
        direction = self.direction(hook)
        return f"{hook_name(hook)} ({direction})" if direction else hook_name(hook)

    def hooks_without_entry(self, counters: CounterTable) -> tuple[int, ...]:
        """The tc hooks without an entry in `counters`, where all packets are dropped uncounted (from v3.31 on)."""
        # Felix creates the entry before it attaches a program and marks the interface ready after; the tc programs of
        # bond slaves are on the bond.
        state = self.state
        attached = state is not None and state.managed and not state.bond_slave and (state.ready(4) or state.ready(6))
        if not attached or not counters.layout.entries_made_by_felix:
            return ()
        return tuple(hook for hook in TC_HOOKS if (self.ifindex, hook) not in counters.rows)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of a node by interface index, the identities to remember, and the number of disagreements."""

    by_index: Mapping[int, Endpoint]
    identities: Identities = field(default_factory=dict)
    mismatches: int = 0

    def of(self, ifindex: int) -> Endpoint:
        """The endpoint of `ifindex`; one that no source knows is `unknown`."""
        return self.by_index.get(ifindex) or Endpoint(ifindex, f"ifindex:{ifindex}", UNKNOWN)


def join_endpoints(
    links: Sequence[Link],
    routes: Sequence[HostRoute],
    states: Sequence[InterfaceState],
    pods: Sequence[LocalPod],
    cluster: Sequence[ClusterPod],
    prefixes: Sequence[str],
    remembered: Identities,
) -> Endpoints:
    """Joins all sources into the endpoints of a node. `prefixes` are those of workload interfaces.

    Three sources name an interface's pod: Calico's endpoint-status file; its name, if that is the hash of a pod that
    the API server knows; and the route to such a pod's address. Two sources that agree override the third.
    """
    state_of = {state.ifindex: state for state in states}
    addresses = _addresses_by_index(routes)
    names = _names(links, states)
    claims = _Claims(names, pods, cluster, prefixes, routes)
    endpoints: dict[int, Endpoint] = {}
    identities: dict[tuple[int, str], tuple[str, str]] = {}
    for ifindex, name in names.items():
        state = state_of.get(ifindex)
        kind = _kind(name, state, prefixes)
        identity = claims.pod_of(ifindex, workload=kind == WORKLOAD) or remembered.get((ifindex, name), ("", ""))
        if identity[1]:
            identities[ifindex, name] = identity
        endpoints[ifindex] = Endpoint(
            ifindex=ifindex,
            interface=name,
            kind=kind,
            namespace=identity[0],
            pod=identity[1],
            addresses=addresses.get(ifindex) or claims.addresses_of(identity),
            state=state,
        )
    return Endpoints(endpoints, identities, len(claims.disputed))


class _Claims:
    """The pod of each interface according to each source. `disputed` are the indexes where they disagree."""

    def __init__(
        self,
        names: Mapping[int, str],
        pods: Sequence[LocalPod],
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
        for one in pods:
            self._claim(self._by_file, index_of.get(one.interface), one, leads_to)
        for pod in cluster:
            for prefix in prefixes:
                index = index_of.get(workload_interface(prefix, pod.namespace, pod.pod))
                self._claim(self._by_name, index, pod, leads_to)
        for address, claimants in _by_address(cluster).items():
            if (index := leads_to.get(address)) is None:
                continue
            if len(claimants) == 1:
                self._by_route[index] = claimants.pop()
            else:  # one of them is terminating, but which one is unknown
                self.disputed.add(index)

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

    def _claim(
        self,
        claims: dict[int, tuple[str, str]],
        ifindex: int | None,
        pod: LocalPod | ClusterPod,
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


def _names(links: Sequence[Link], states: Sequence[InterfaceState]) -> dict[int, str]:
    # A dump is not atomic: an interface recreated during it can appear twice; the newer index is the valid one.
    index_of = {link.name: link.ifindex for link in sorted(links, key=lambda link: link.ifindex)}
    names = {ifindex: name for name, ifindex in index_of.items()}
    taken = set(index_of)
    # Calico's state briefly outlives an interface: its name counts only where no link has it now, and the newer of
    # two indexes wins.
    for state in sorted(states, key=lambda state: state.ifindex, reverse=True):
        if state.ifindex not in names and state.name and state.name not in taken:
            names[state.ifindex] = state.name
            taken.add(state.name)
    return names


def _kind(name: str, state: InterfaceState | None, prefixes: Sequence[str]) -> str:
    if state is None:
        return WORKLOAD if has_workload_prefix(name, prefixes) else HOST
    if not state.managed:
        return UNMANAGED
    return WORKLOAD if state.workload else HOST


def _addresses_by_index(routes: Iterable[HostRoute]) -> dict[int, tuple[str, ...]]:
    found: dict[int, list[str]] = {}
    for route in routes:
        found.setdefault(route.ifindex, []).append(route.address)
    return {ifindex: tuple(dict.fromkeys(addresses)) for ifindex, addresses in found.items()}
