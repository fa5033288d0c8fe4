"""The join: from an interface index to the endpoint it belongs to, never a hole.

Pure: takes what the kernel, Calico's interface state and the pod sources said, and decides. The kernel's name for an
index wins over Calico's; an index that neither knows keeps its number as its name. An identity once known stays with
its index while no source names another, so that no series loses its name by a passing doubt.
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

# Interfaces that nothing knows get this many names at most: a map full of leftovers must not become 20000 series.
MAX_UNKNOWN = 100

# Who an interface was last known to belong to: (ifindex, name) -> (namespace, pod).
Identities = Mapping[tuple[int, str], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What an interface belongs to. `interface` is its name, or `ifindex:<n>` where no name is known.

    `kind` is `workload`, `host`, `unmanaged` or `unknown`; `namespace` and `pod` are empty for anything that is not
    an identified pod; `state` is what Calico's programs know of it, None when they do not know it.
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
        """How a person calls it: `namespace/pod`, or the interface where no pod is known."""
        return f"{self.namespace}/{self.pod}" if self.pod else self.interface

    @property
    def is_calicos(self) -> bool:
        """Whether it is an interface of Calico's: its programs know it, or it is a workload's."""
        return self.state is not None or self.kind == WORKLOAD

    def direction(self, hook: int) -> str:
        """`inbound` or `outbound`, what passes `hook` being that to the endpoint; empty where that is not known."""
        return "" if self.kind == UNKNOWN else direction(hook, workload=self.kind == WORKLOAD)

    def hook_title(self, hook: int) -> str:
        """How a sentence calls a hook of it: with the direction, if that is known."""
        way = self.direction(hook)
        return f"{hook_name(hook)} ({way})" if way else hook_name(hook)

    def hooks_without_entry(self, counters: CounterTable) -> tuple[int, ...]:
        """The tc hooks at which it has no entry in `counters` and so loses every packet uncounted (Calico v3.31 on)."""
        # Felix makes the entry before it attaches a program and calls the interface ready after; a bond's parts have
        # their tc programs on the bond.
        state = self.state
        attached = state is not None and state.managed and not state.bond_slave and (state.ready(4) or state.ready(6))
        if not attached or not counters.layout.entries_made_by_felix:
            return ()
        return tuple(hook for hook in TC_HOOKS if (self.ifindex, hook) not in counters.rows)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of a node by interface index, what to remember of them, and how often sources disagreed."""

    by_index: Mapping[int, Endpoint]
    identities: Identities = field(default_factory=dict)
    mismatches: int = 0

    def of(self, ifindex: int) -> Endpoint:
        """The endpoint behind `ifindex`; one that nothing knows is `unknown`."""
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
    """The endpoints of a node from all that is known of it. `prefixes` are those of workload interfaces.

    Three sources name the pod of an interface: Calico's file about it, its name, where that is the hash of a pod that
    the API server knows, and the route to such a pod's address. Two that agree are believed before one that does not.
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
    """What each source says about who lives behind an interface. `disputed` are the indexes where they disagree."""

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
            else:  # one of them is on its way out, and which is not said
                self.disputed.add(index)

    def pod_of(self, ifindex: int, *, workload: bool) -> tuple[str, str] | None:
        """The pod behind an interface, None where no source names one."""
        by_file, by_name = self._by_file.get(ifindex), self._by_name.get(ifindex)
        by_route = self._by_route.get(ifindex) if workload else None
        if len({by_file, by_name, by_route} - {None}) > 1:
            self.disputed.add(ifindex)
        if by_route in (by_file, by_name):
            return by_route or by_file or by_name
        # An address can have passed to another pod before the API server says so: where interfaces are named after
        # their pods, a route alone names nobody.
        return by_file or by_name or (None if self._by_name else by_route)

    def addresses_of(self, identity: tuple[str, str]) -> tuple[str, ...]:
        """The addresses of a pod as the sources have them."""
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
    # A dump is not atomic: an interface made anew while it runs can stand in it twice; the younger index is the one.
    index_of = {link.name: link.ifindex for link in sorted(links, key=lambda link: link.ifindex)}
    names = {ifindex: name for name, ifindex in index_of.items()}
    taken = set(index_of)
    # Calico's state outlives an interface for a moment: its name counts only where nobody else has it now, and of
    # two such the younger index wins.
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
