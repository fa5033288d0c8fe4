"""Self-metrics: build info, known pods, and the result of each collector in this scrape.

The process metrics (`process_*`, `python_*`) come from prometheus-client and belong to the web package.
"""

import os
import platform
from collections.abc import Iterable, Iterator

from exporter import __version__
from exporter.metrics.family import COUNTER, GAUGE, Family, Samples
from exporter.node.endpoint_status import LocalPods
from exporter.node.pods import ClusterPods
from exporter.snapshot.snapshot import Snapshot

BUILD_INFO = Family(
    "calico_bpf_exporter_build_info",
    GAUGE,
    "Always 1: the exporter's version, source revision, Python version and the reader of BPF maps in use.",
    ("version", "revision", "python", "reader"),
)
PODS = Family(
    "calico_bpf_exporter_pods",
    GAUGE,
    "Pods of this node that the exporter knows by name, without those in the host network and terminated ones.",
)
ENDPOINT_MISMATCHES = Family(
    "calico_bpf_exporter_endpoint_mismatches",
    GAUGE,
    "Interfaces whose pod differs between sources: Calico's file, the interface's name, the route to its address.",
)
PODS_SYNCED = Family(
    "calico_bpf_exporter_pods_last_sync_timestamp_seconds",
    GAUGE,
    "Unix time of the last pod list or watch event received from the API server; absent before its first response, and "
    "if it is not used.",
)
WATCH_ERRORS = Family(
    "calico_bpf_exporter_pod_watch_errors_total",
    COUNTER,
    "Failed requests for this node's pods, by reason; gone is normal and followed by a new list.",
    ("reason",),
)
DATAPLANE_PRESENT = Family(
    "calico_bpf_dataplane_present",
    GAUGE,
    "1 if Calico's maps are pinned on this node; 0 if not: then the collectors succeed without samples.",
)
SOURCE_AVAILABLE = Family(
    "calico_bpf_source_available",
    GAUGE,
    "1 if the source of names, zeros or rules could be read in this scrape; 0 if not, and what depends on it is "
    "missing. Absent for a source that is not used.",
    ("source",),
)
COLLECTOR_SUCCESS = Family(
    "calico_bpf_scrape_collector_success",
    GAUGE,
    "1 if the collector succeeded in this scrape; 0 if it failed or did not finish in time, and has no samples.",
    ("collector",),
)
COLLECTOR_SECONDS = Family(
    "calico_bpf_scrape_collector_duration_seconds",
    GAUGE,
    "Seconds the collector took in this scrape; includes reading the maps that no earlier collector read.",
    ("collector",),
)
FAMILIES = (
    BUILD_INFO,
    DATAPLANE_PRESENT,
    SOURCE_AVAILABLE,
    PODS,
    PODS_SYNCED,
    WATCH_ERRORS,
    ENDPOINT_MISMATCHES,
    COLLECTOR_SUCCESS,
    COLLECTOR_SECONDS,
)

# Set when the image is built; a source tree or a wheel has no revision.
REVISION_VARIABLE = "CALICO_BPF_EXPORTER_REVISION"


class ExporterCollector:
    """Self-metrics independent of other collectors; always enabled and not covered by `success`."""

    name = "exporter"
    about = "The exporter itself."
    on_by_default = True
    parts = frozenset({"pins", "pods", "cluster_pods", "endpoints", "run_dir", "policy_file_names"})

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this module that are not about collectors; unknown values are omitted."""
        labels = (__version__, os.environ.get(REVISION_VARIABLE, ""), platform.python_version(), snapshot.reader)
        samples = [Samples(BUILD_INFO, [(labels, 1)])]
        if snapshot.dataplane_present is not None:
            samples.append(Samples(DATAPLANE_PRESENT, [((), int(snapshot.dataplane_present))]))
        samples.append(Samples(SOURCE_AVAILABLE, [((name,), int(one)) for name, one in _sources(snapshot).items()]))
        if not (snapshot.cluster_pods.error or snapshot.pods.error):
            samples += _pods(snapshot.pods.get(), snapshot.cluster_pods.get())
        if snapshot.endpoints.error is None:
            samples.append(Samples(ENDPOINT_MISMATCHES, [((), snapshot.endpoints.get().mismatches)]))
        return samples


def _sources(snapshot: Snapshot) -> dict[str, bool]:
    """Whether each source that is used could be read."""
    cluster = snapshot.cluster_pods.or_else(None)
    endpoints, status, policies = snapshot.endpoints.get(), snapshot.pods.or_else(None), snapshot.policies.or_else(None)
    none_read = bool(policies and policies.unread and not policies.files)  # where a collector has read them
    sources = {
        "links": endpoints.links_known,
        "routes": snapshot.host_routes.error is None,
        "interface_state": endpoints.states_known,
        "endpoint_status": not snapshot.run_dir.error and bool(status and (status.pods or not status.problems)),
        "policy_files": not (snapshot.run_dir.error or snapshot.policy_file_names.error or none_read),
    }
    if not snapshot.dataplane_present:
        del sources["interface_state"]  # there is none
    if snapshot.cluster_pods.error or cluster:
        sources["api_server"] = bool(cluster and not cluster.problem)
    return sources


def _pods(local: LocalPods, cluster: ClusterPods | None) -> Iterator[Samples]:
    known = {(pod.namespace, pod.pod) for pod in local.pods if pod.pod}
    if cluster:
        known |= {(pod.namespace, pod.pod) for pod in cluster.pods}
    yield Samples(PODS, [((), len(known))])
    if cluster and cluster.synced is not None:
        yield Samples(PODS_SYNCED, [((), cluster.synced)])
    if cluster:
        yield Samples(WATCH_ERRORS, [((reason,), count) for reason, count in cluster.errors.items()])


def about_collectors(results: Iterable[tuple[str, bool, float]]) -> list[Samples]:
    """The two families about collectors, from (name, success, seconds) of each."""
    success, seconds = Samples(COLLECTOR_SUCCESS), Samples(COLLECTOR_SECONDS)
    for name, succeeded, duration in results:
        success.add((name,), int(succeeded))
        seconds.add((name,), duration)
    return [success, seconds]
