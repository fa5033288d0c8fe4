"""Collector `endpoints`: what lives on this node, and what is wrong with it.

The problem gauges are sparse: a series exists only while its problem does, and `calico_bpf_endpoint_problems` counts
them always, so that "no series" and "nothing was looked at" can be told apart.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.bpf.maps import MapError
from exporter.calico import LayoutError
from exporter.calico.hooks import TC_HOOKS, hook_name
from exporter.metrics.family import GAUGE, Family, Samples
from exporter.node import endpoints
from exporter.node.endpoints import Endpoint, Endpoints
from exporter.node.pods import ClusterPod, ClusterPods
from exporter.snapshot.take import Snapshot

IP_FAMILIES = (4, 6)

INFO = Family(
    "calico_bpf_endpoint_info",
    GAUGE,
    "Always 1: an endpoint on this node, its interface, kind and index.",
    ("interface", "endpoint_kind", "namespace", "pod", "ifindex"),
)
ADDRESS_INFO = Family(
    "calico_bpf_endpoint_address_info",
    GAUGE,
    "Always 1: an address that the node routes to an endpoint's interface.",
    ("interface", "namespace", "pod", "ip", "ip_family"),
)
NOT_READY = Family(
    "calico_bpf_endpoint_not_ready",
    GAUGE,
    "1 while Calico's programs for this IP family are not in place on a managed interface; absent otherwise.",
    ("interface", "namespace", "pod", "ip_family"),
)
COUNTERS_MISSING = Family(
    "calico_bpf_endpoint_counters_missing",
    GAUGE,
    "1 while a managed interface has no counter entry at this tc hook, where Calico v3.31 and later drop every packet "
    "uncounted; absent otherwise.",
    ("interface", "hook", "namespace", "pod"),
)
PROBLEMS = Family(
    "calico_bpf_endpoint_problems",
    GAUGE,
    "How many series of each problem gauge this node has now.",
    ("problem",),
)
WORKLOAD_INFO = Family(
    "calico_bpf_workload_info",
    GAUGE,
    "Always 1: what owns a pod of this node, as its controlling owner reference says; absent for pods without one.",
    ("namespace", "pod", "workload_kind", "workload"),
)
FAMILIES = (INFO, ADDRESS_INFO, NOT_READY, COUNTERS_MISSING, PROBLEMS, WORKLOAD_INFO)


@dataclass(frozen=True, slots=True, eq=False)
class _Facts:
    """All that the samples of this file are made from.

    `keys` are the indexes and hooks of the counter map's entries, row by row, None where it was not read; `needed` is
    whether an interface without its entry loses packets; `families` are the IP families in use.
    """

    known: Endpoints
    keys: tuple[NDArray[np.uint32], NDArray[np.uint32]] | None
    needed: bool
    families: Sequence[int]

    def same_as(self, other: "_Facts") -> bool:
        """Whether the same samples would be made from `other`."""
        if self.known is not other.known or (self.needed, self.families) != (other.needed, other.families):
            return False
        if self.keys is None or other.keys is None:
            return self.keys is other.keys
        return all(map(np.array_equal, self.keys, other.keys))


class EndpointsCollector:
    """Needs links, routes, pods, interface state and the names of policy files; does without the counter map.

    With `workloads` it writes the owners of pods too, of those that have an interface here. Samples are kept while what
    they are made from stays the same, as it nearly always does between two scrapes.
    """

    name = "endpoints"

    def __init__(self, *, workloads: bool = False) -> None:
        self._workloads = workloads
        self._made: tuple[_Facts, list[Samples]] | None = None

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file."""
        # Asked for here although the join can do without them: half a list of endpoints would be a false one.
        _ = (snapshot.links, snapshot.host_routes, snapshot.pods, snapshot.ifstate)
        facts = _facts(snapshot)
        if self._made is None or not facts.same_as(self._made[0]):
            # The pods of the API server are among what the endpoints are known by.
            self._made = facts, _samples(facts, snapshot.cluster_pods if self._workloads else None)
        return self._made[1]


def _facts(snapshot: Snapshot) -> _Facts:
    known, families = snapshot.endpoints, _families_in_use(snapshot)
    try:
        table, layout = snapshot.counters, snapshot.counter_layout
    except (MapError, LayoutError):
        return _Facts(known, None, needed=False, families=families)
    return _Facts(known, (table.ifindex, table.hook), layout.entries_made_by_felix, families)


def _samples(facts: _Facts, owners: ClusterPods | None) -> list[Samples]:
    known, keys = facts.known, None
    if facts.keys is not None:  # else nothing is known to be missing from a map that was not read
        keys = set(zip(*(column.tolist() for column in facts.keys), strict=True))
    counted = {ifindex for ifindex, _ in keys or ()}
    shown = [one for one in known.by_index.values() if _is_calicos(one) or one.ifindex in counted]
    unknown = sorted(counted - known.by_index.keys())
    shown += [known.of(ifindex) for ifindex in unknown[: endpoints.MOST_UNKNOWN]]
    not_ready = Samples(NOT_READY, ((labels, 1) for labels in _not_ready(shown, facts.families)))
    problems = Samples(PROBLEMS, [(("not_ready",), len(not_ready.values))])
    missing = Samples(COUNTERS_MISSING)
    if keys is not None:
        if facts.needed:
            missing = Samples(COUNTERS_MISSING, ((labels, 1) for labels in _missing(shown, keys)))
        problems.add(("counters_missing",), len(missing.values))
    info = Samples(INFO, ((labels, 1) for labels in _info(shown)))
    addresses = Samples(ADDRESS_INFO, ((labels, 1) for labels in _addresses(shown)))
    made = [info, addresses, not_ready, missing, problems]
    if owners:
        made.append(Samples(WORKLOAD_INFO, ((labels, 1) for labels in _owners(shown, owners.pods))))
    return made


def _is_calicos(endpoint: Endpoint) -> bool:
    return endpoint.state is not None or endpoint.kind == endpoints.WORKLOAD


def _info(shown: Iterable[Endpoint]) -> Iterator[tuple[str, ...]]:
    for one in shown:
        yield one.interface, one.kind, one.namespace, one.pod, str(one.ifindex)


def _addresses(shown: Iterable[Endpoint]) -> Iterator[tuple[str, ...]]:
    for one in shown:
        for address in one.addresses if one.kind == endpoints.WORKLOAD else ():
            yield one.interface, one.namespace, one.pod, address, "6" if ":" in address else "4"


def _owners(shown: Iterable[Endpoint], pods: Iterable[ClusterPod]) -> Iterator[tuple[str, ...]]:
    here = {(one.namespace, one.pod) for one in shown}
    # A pod made anew under its old name can be there twice for a moment; one of them says who owns it.
    owners = {(pod.namespace, pod.pod): (pod.owner_kind, pod.owner) for pod in pods if pod.owner}
    for name, owner in owners.items():
        if name in here:
            yield *name, *owner


def _families_in_use(snapshot: Snapshot) -> list[int]:
    ready = {family for state in snapshot.ifstate for family in IP_FAMILIES if state.ready(family)}
    names = snapshot.source.policy_file_names()
    return [one for one in IP_FAMILIES if one in ready or any(name.endswith(f"_v{one}.json") for name in names)]


def _not_ready(shown: Iterable[Endpoint], families: Iterable[int]) -> Iterator[tuple[str, ...]]:
    for one in shown:
        for family in families:
            if one.state and one.state.managed and not one.state.ready(family):
                yield one.interface, one.namespace, one.pod, str(family)


def _missing(shown: Iterable[Endpoint], keys: set[tuple[int, int]]) -> Iterator[tuple[str, ...]]:
    for one in shown:
        for hook in TC_HOOKS:
            if _counts_at_tc(one) and (one.ifindex, hook) not in keys:
                yield one.interface, hook_name(hook), one.namespace, one.pod


def _counts_at_tc(endpoint: Endpoint) -> bool:
    # Felix makes the entry before it attaches a program and calls the interface ready after; a bond's parts have
    # their tc programs on the bond.
    state = endpoint.state
    attached = state is not None and (state.ready(4) or state.ready(6))
    return attached and state is not None and state.managed and not state.bond_slave
