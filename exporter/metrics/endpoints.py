"""Collector `endpoints`: the endpoints of this node and their problems.

The problem gauges are sparse: a series exists only while its problem does. `calico_bpf_endpoint_problems` always
exposes their number, which distinguishes "no problem" from "not checked".
"""

from collections.abc import Iterable, Iterator

from exporter.calico.counters import CounterTable
from exporter.calico.hooks import hook_name
from exporter.diagnosis.uncounted import Sent, sent_by_pods, uncounted
from exporter.metrics.collector import DEFAULTS, CollectorOptions
from exporter.metrics.counters import LEFTOVER_ENTRIES
from exporter.metrics.family import GAUGE, Family, Samples
from exporter.node import endpoints
from exporter.node.endpoints import Endpoint, Endpoints
from exporter.node.pods import ClusterPod
from exporter.snapshot.snapshot import Snapshot

INFO = Family(
    "calico_bpf_endpoint_info",
    GAUGE,
    "Always 1: an endpoint on this node, its interface, kind and index; interfaces that are not Calico's have none.",
    ("interface", "endpoint_kind", "namespace", "pod", "ifindex"),
)
ADDRESS_INFO = Family(
    "calico_bpf_endpoint_address_info",
    GAUGE,
    "Always 1: an address of a workload, as the node routes it to its interface, or else as Calico's file has it; host "
    "interfaces have none.",
    ("interface", "namespace", "pod", "ip", "ip_family"),
)
NOT_READY = Family(
    "calico_bpf_endpoint_not_ready",
    GAUGE,
    "1 while Calico's programs for this IP family are not in place on a managed interface; absent otherwise, and for a "
    "family that the node does not use.",
    ("interface", "namespace", "pod", "ip_family"),
)
COUNTERS_MISSING = Family(
    "calico_bpf_endpoint_counters_missing",
    GAUGE,
    "1 while a managed interface has no counter entry at this tc hook, where Calico v3.31 and later drop every packet "
    "uncounted; absent otherwise.",
    ("interface", "hook", "namespace", "pod"),
)
UNCOUNTED_DROPS = Family(
    "calico_bpf_endpoint_uncounted_drops",
    GAUGE,
    "1 while the kernel receives packets from a pod and Calico's program sees nearly none of them: they are dropped "
    "uncounted; absent otherwise. Packets to a pod are not checked.",
    ("interface", "namespace", "pod"),
)
PROBLEMS = Family(
    "calico_bpf_endpoint_problems",
    GAUGE,
    "Number of series of each problem gauge on this node; absent for a problem that could not be checked.",
    ("problem",),
)
WORKLOAD_INFO = Family(
    "calico_bpf_workload_info",
    GAUGE,
    "Always 1: the controlling owner of a pod of this node (a ReplicaSet, not its Deployment); absent for pods without "
    "one.",
    ("namespace", "pod", "workload_kind", "workload"),
)
FAMILIES = (INFO, ADDRESS_INFO, NOT_READY, COUNTERS_MISSING, UNCOUNTED_DROPS, PROBLEMS, WORKLOAD_INFO)


class EndpointsCollector:
    """Shows what the sources that could be read say. Problems need the kernel's links and the interface state: without
    them none is known, and nothing says how many there are.

    `workloads` adds the owners of pods with an interface on this node. Samples are cached while their inputs are
    unchanged.
    """

    name = "endpoints"
    about = "Endpoints and their problems."
    on_by_default = True
    parts = frozenset({"endpoints", "counters", "received", "policy_file_names"})

    def __init__(self, options: CollectorOptions = DEFAULTS) -> None:
        self._workloads = options.workloads
        self._made_from: tuple[Endpoints, tuple[object, ...]] | None = None
        self._made: list[Samples] = []
        # What each pod had sent in the last scrape, and the interfaces that were suspect then.
        self._sent: dict[tuple[int, str], Sent] | None = None
        self._suspects: frozenset[tuple[int, str]] = frozenset()

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this module."""
        known, counters = snapshot.endpoints.get(), snapshot.counters.or_else(None)
        files = snapshot.policy_file_names.or_else(())
        facts = (counters and list(counters.rows), counters and counters.layout, files)
        if self._made_from is None or facts != self._made_from[1] or known is not self._made_from[0]:
            # Endpoints change whenever the API server's pods and the interface state do.
            self._made_from = known, facts
            self._made = self._samples(snapshot, counters)
        return self._made + self._uncounted(snapshot)

    def _samples(self, snapshot: Snapshot, counters: CounterTable | None) -> list[Samples]:
        known = snapshot.endpoints.get()
        shown = _shown(known, counters)
        made = [_ones(INFO, _info(shown)), _ones(ADDRESS_INFO, _addresses(shown))]
        if known.links_known and known.states_known:
            made += _problems(known, counters, _ones(NOT_READY, _not_ready(shown, snapshot.ip_families())))
        owners = snapshot.cluster_pods.or_else(None)
        if self._workloads and owners:
            made.append(_ones(WORKLOAD_INFO, _owners(shown, owners.pods)))
        return made

    def _uncounted(self, snapshot: Snapshot) -> list[Samples]:
        """What holds in two successive scrapes: one alone may be a burst between reading the two counters."""
        known = snapshot.endpoints.get()
        before, self._sent = self._sent, None
        suspects_before, self._suspects = self._suspects, frozenset()
        if snapshot.counters.error or snapshot.received.error or not (known.links_known and known.states_known):
            return []
        self._sent = sent_by_pods(snapshot)
        if before is None:
            return []
        self._suspects = uncounted(before, self._sent)
        losing = [known.of(ifindex) for ifindex, _ in sorted(self._suspects & suspects_before)]
        drops = Samples(UNCOUNTED_DROPS, (((one.interface, one.namespace, one.pod), 1) for one in losing))
        return [drops, Samples(PROBLEMS, [(("uncounted",), len(losing))])]


def _ones(family: Family, rows: Iterable[tuple[str, ...]]) -> Samples:
    """A sample of 1 for each row of labels."""
    return Samples(family, ((labels, 1) for labels in rows))


def _shown(known: Endpoints, counters: CounterTable | None) -> list[Endpoint]:
    counted = {ifindex for ifindex, _ in counters.rows} if counters else set()
    shown = [one for one in known.by_index.values() if one.belongs_to_calico or one.ifindex in counted]
    unnamed = map(known.of, sorted(counted - known.by_index.keys()))
    return shown + [one for one in unnamed if one.kind == endpoints.UNKNOWN][: endpoints.MAX_UNKNOWN]


def _problems(known: Endpoints, counters: CounterTable | None, not_ready: Samples) -> list[Samples]:
    missing, problems = Samples(COUNTERS_MISSING), Samples(PROBLEMS)
    problems.add(("not_ready",), len(not_ready.values))
    if counters:  # without them, missing entries are unknown
        for one, hook in known.lose_packets(counters):
            missing.add((one.interface, hook_name(hook), one.namespace, one.pod), 1)
        problems.add(("counters_missing",), len(missing.values))
    return [not_ready, missing, problems, Samples(LEFTOVER_ENTRIES, [(("iface",), len(known.leftovers))])]


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
