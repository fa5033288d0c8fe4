"""The exporter about itself: what it is, which pods it knows, and how each collector did in this scrape.

The families about its own process (`process_*`, `python_*`) are prometheus-client's and belong to the web room.
"""

import os
import platform
from collections.abc import Iterable, Iterator
from typing import ClassVar

from exporter import __version__
from exporter.metrics.collector import CollectorOptions
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
PODS = Family("calico_bpf_exporter_pods", GAUGE, "Pods of this node that the exporter knows by name.")
ENDPOINT_MISMATCHES = Family(
    "calico_bpf_exporter_endpoint_mismatches",
    GAUGE,
    "Interfaces about whose pod the sources disagree: Calico's file, the interface's name, the route to its address.",
)
PODS_SYNCED = Family(
    "calico_bpf_exporter_pods_last_sync_timestamp_seconds",
    GAUGE,
    "Unix time at which the API server last said anything about this node's pods; absent where it is not asked.",
)
WATCH_ERRORS = Family(
    "calico_bpf_exporter_pod_watch_errors_total",
    COUNTER,
    "Failed requests for this node's pods, by reason; gone is ordinary and is followed by a new list.",
    ("reason",),
)
COLLECTOR_SUCCESS = Family(
    "calico_bpf_scrape_collector_success",
    GAUGE,
    "1 if the collector read everything it needs in this scrape; 0 if it failed and wrote no sample.",
    ("collector",),
)
COLLECTOR_SECONDS = Family(
    "calico_bpf_scrape_collector_duration_seconds",
    GAUGE,
    "Seconds the collector took in this scrape; the first one that needs a map pays for reading it.",
    ("collector",),
)
FAMILIES = (BUILD_INFO, PODS, PODS_SYNCED, WATCH_ERRORS, ENDPOINT_MISMATCHES, COLLECTOR_SUCCESS, COLLECTOR_SECONDS)

# Set by the image at build time; a tree or a wheel does not know its commit.
REVISION_VARIABLE = "CALICO_BPF_EXPORTER_REVISION"


class ExporterCollector:
    """Makes what depends on no other collector; it is always on and not among those that `success` tells of."""

    name: ClassVar[str] = "exporter"
    about: ClassVar[str] = "The exporter itself."
    on_by_default: ClassVar[bool] = True
    parts: ClassVar[frozenset[str]] = frozenset({"pods", "cluster_pods", "endpoints"})

    def __init__(self, options: CollectorOptions | None = None) -> None:
        del options

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file that are not about collectors; what is not known is left out."""
        labels = (__version__, os.environ.get(REVISION_VARIABLE, ""), platform.python_version(), snapshot.reader)
        samples = [Samples(BUILD_INFO, [(labels, 1)])]
        if not (snapshot.cluster_pods.error or snapshot.pods.error):
            samples += _pods(snapshot.pods.get(), snapshot.cluster_pods.get())
        if snapshot.endpoints.error is None:
            samples.append(Samples(ENDPOINT_MISMATCHES, [((), snapshot.endpoints.get().mismatches)]))
        return samples


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
    for name, well, duration in results:
        success.add((name,), int(well))
        seconds.add((name,), duration)
    return [success, seconds]
