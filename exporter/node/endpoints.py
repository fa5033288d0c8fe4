"""The join: from an interface index to the endpoint it belongs to, never a hole.

Pure: takes what the kernel, Calico's interface state and the pod sources said, and decides. The kernel's name for an
index wins over Calico's; an index that neither knows keeps its number as its name. An identity once known stays with
its index until the index goes, so that no series is renamed by a passing doubt.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.calico.ifstate import InterfaceState
from exporter.calico.names import has_workload_prefix
from exporter.node.endpoint_status import LocalPod
from exporter.node.netlink import HostRoute, Link

WORKLOAD, HOST, UNMANAGED, UNKNOWN = "workload", "host", "unmanaged", "unknown"

# Interfaces that nothing knows get this many names at most: a map full of leftovers must not become 20000 series.
MOST_UNKNOWN = 100

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
    prefixes: Sequence[str],
    remembered: Identities,
) -> Endpoints:
    """The endpoints of a node from all that is known of it. `prefixes` are those of workload interfaces."""
    state_of = {state.ifindex: state for state in states}
    pod_of = {pod.interface: pod for pod in pods}
    addresses = _addresses_by_index(routes)
    endpoints: dict[int, Endpoint] = {}
    identities: dict[tuple[int, str], tuple[str, str]] = {}
    for ifindex, name in _names(links, states).items():
        state = state_of.get(ifindex)
        pod = pod_of.get(name)
        identity = (pod.namespace, pod.pod) if pod else remembered.get((ifindex, name), ("", ""))
        if identity[1]:
            identities[ifindex, name] = identity
        endpoints[ifindex] = Endpoint(
            ifindex=ifindex,
            interface=name,
            kind=_kind(name, state, prefixes),
            namespace=identity[0],
            pod=identity[1],
            addresses=addresses.get(ifindex) or (tuple(dict.fromkeys(pod.addresses)) if pod else ()),
            state=state,
        )
    return Endpoints(endpoints, identities, _mismatches(endpoints.values(), pod_of, routes))


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


def _mismatches(endpoints: Iterable[Endpoint], pod_of: Mapping[str, LocalPod], routes: Iterable[HostRoute]) -> int:
    # A pod's address that the kernel routes to another interface than the one Calico names for the pod.
    index_of = {route.address: route.ifindex for route in routes}
    claimed = ((endpoint.ifindex, pod_of[endpoint.interface]) for endpoint in endpoints if endpoint.interface in pod_of)
    return sum(any(index_of.get(address, ifindex) != ifindex for address in pod.addresses) for ifindex, pod in claimed)
