"""Collector `endpoints`: the endpoints of this node and their problems.

The problem gauges are sparse: a series exists only while its problem does. `calico_bpf_endpoint_problems` always
exposes their number, which distinguishes "no problem" from "not checked".
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

from exporter.calico.hooks import hook_name
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.family import GAUGE, Family, Samples
from exporter.node import endpoints
from exporter.node.endpoints import Endpoint, Endpoints
from exporter.node.pods import ClusterPod, ClusterPods
from exporter.snapshot.snapshot import Snapshot

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
    "Number of series of each problem gauge on this node.",
    ("problem",),
)
WORKLOAD_INFO = Family(
    "calico_bpf_workload_info",
    GAUGE,
    "Always 1: the owner of a pod of this node by its controller owner reference; absent for pods without one.",
    ("namespace", "pod", "workload_kind", "workload"),
)
FAMILIES = (INFO, ADDRESS_INFO, NOT_READY, COUNTERS_MISSING, PROBLEMS, WORKLOAD_INFO)


# The inputs of all samples: the endpoints, the keys of the counter map (None if it was not read), the endpoints and
# hooks whose missing entry makes them lose packets, and the IP families in use.
_Facts = tuple[Endpoints, frozenset[tuple[int, int]] | None, tuple[tuple[Endpoint, int], ...], tuple[int, ...]]


class EndpointsCollector:
    """Requires links, routes, pods, interface state and the names of policy files; the counter map is optional.

    `workloads` adds the owners of pods with an interface on this node. Samples are cached while their inputs are
    unchanged.
    """

    name: ClassVar[str] = "endpoints"
    about: ClassVar[str] = "Endpoints and their problems."
    on_by_default: ClassVar[bool] = True
    parts: ClassVar[frozenset[str]] = frozenset({"endpoints", "counters", "policy_file_names"})

    def __init__(self, options: CollectorOptions | None = None) -> None:
        self._workloads = (options or CollectorOptions()).workloads
        self._made: tuple[_Facts, list[Samples]] | None = None

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this module."""
        # Required here although the join does without them: an incomplete list of endpoints would be wrong.
        for part in (snapshot.links, snapshot.host_routes, snapshot.pods, snapshot.ifstate, snapshot.policy_file_names):
            part.get()
        known, counters = snapshot.endpoints.get(), snapshot.counters.or_else(None)
        keys = frozenset(counters.rows) if counters else None  # without counters, missing entries are unknown
        missing = tuple(
            (one, hook)
            for one in known.by_index.values()
            for hook in (one.hooks_without_entry(counters) if counters else ())
        )
        facts = (known, keys, missing, snapshot.ip_families())
        if self._made is None or facts[1:] != self._made[0][1:] or known is not self._made[0][0]:
            # Endpoints change whenever the API server's pods do.
            self._made = facts, _samples(facts, snapshot.cluster_pods.get() if self._workloads else None)
        return self._made[1]


def _samples(facts: _Facts, owners: ClusterPods | None) -> list[Samples]:
    known, keys, losing, families = facts
    counted = {ifindex for ifindex, _ in keys or ()}
    shown = [one for one in known.by_index.values() if one.belongs_to_calico or one.ifindex in counted]
    unknown = sorted(counted - known.by_index.keys())
    shown += [known.of(ifindex) for ifindex in unknown[: endpoints.MAX_UNKNOWN]]
    not_ready = Samples(NOT_READY, ((labels, 1) for labels in _not_ready(shown, families)))
    missing = Samples(
        COUNTERS_MISSING, (((one.interface, hook_name(hook), one.namespace, one.pod), 1) for one, hook in losing)
    )
    problems = Samples(PROBLEMS, [(("not_ready",), len(not_ready.values))])
    if keys is not None:
        problems.add(("counters_missing",), len(missing.values))
    info = Samples(INFO, ((labels, 1) for labels in _info(shown)))
    addresses = Samples(ADDRESS_INFO, ((labels, 1) for labels in _addresses(shown)))
    made = [info, addresses, not_ready, missing, problems]
    if owners:
        made.append(Samples(WORKLOAD_INFO, ((labels, 1) for labels in _owners(shown, owners.pods))))
    return made


def _info(shown: Iterable[Endpoint]) -> Iterator[tuple[str, ...]]:
    for one in shown:
        yield one.interface, one.kind, one.namespace, one.pod, str(one.ifindex)


def _addresses(shown: Iterable[Endpoint]) -> Iterator[tuple[str, ...]]:
    for one in shown:
        for address in one.addresses if one.kind == endpoints.WORKLOAD else ():
            yield one.interface, one.namespace, one.pod, address, "6" if ":" in address else "4"


def _owners(shown: Iterable[Endpoint], pods: Iterable[ClusterPod]) -> Iterator[tuple[str, ...]]:
    here = {(one.namespace, one.pod) for one in shown}
    # A pod recreated under its name can be listed twice for a moment; either one has the owner.
    owners = {(pod.namespace, pod.pod): (pod.owner_kind, pod.owner) for pod in pods if pod.owner}
    for name, owner in owners.items():
        if name in here:
            yield *name, *owner


def _not_ready(shown: Iterable[Endpoint], families: Iterable[int]) -> Iterator[tuple[str, ...]]:
    for one in shown:
        for family in families:
            if one.state and one.state.managed and not one.state.ready(family):
                yield one.interface, one.namespace, one.pod, str(family)
