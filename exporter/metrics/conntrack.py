"""Collector `conntrack`, off by default: connection-tracking entries by state, and the pods that have most.

The entries are those of the last count in the background; before the first one there are no samples.
"""

from exporter.calico.protocols import protocol_name
from exporter.metrics.collector import DEFAULTS, CollectorOptions
from exporter.metrics.family import GAUGE, Family, Samples
from exporter.node.endpoints import workloads_by_address
from exporter.snapshot.snapshot import Snapshot

_TOP_PODS = 10
ENTRIES = Family(
    "calico_bpf_conntrack_entries",
    GAUGE,
    "Connection-tracking entries at the last count, two for a connection to a service; state denied is flows that a "
    "pod of this node denied.",
    ("ip_family", "protocol", "state"),
)
POD_ENTRIES = Family(
    "calico_bpf_conntrack_pod_entries",
    GAUGE,
    f"Connection-tracking entries of the {_TOP_PODS} pods of this node with most, at the last count; one between two "
    "pods counts for both.",
    ("namespace", "pod"),
)
COUNTED = Family(
    "calico_bpf_conntrack_counted_timestamp_seconds",
    GAUGE,
    "Unix time at which the connection-tracking entries were counted.",
    ("ip_family",),
)
FAMILIES = (ENTRIES, POD_ENTRIES, COUNTED)


class ConntrackCollector:
    """An entry between two pods of the node counts for both."""

    name = "conntrack"
    about = "Connection-tracking entries by state and by pod."
    on_by_default = False
    parts = frozenset({"conntrack_count", "endpoints"})

    def __init__(self, options: CollectorOptions = DEFAULTS) -> None:
        del options

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this module."""
        entries, pods, counted = (Samples(family) for family in FAMILIES)
        count = snapshot.conntrack_count.get()
        if count is None:
            return [entries, pods, counted]
        for (family, protocol, state), number in sorted(count.counts.items()):
            entries.add((str(family), protocol_name(protocol), state), number)
        owners, of_pod = workloads_by_address(snapshot.endpoints.get()), dict[tuple[str, str], int]()
        for address, number in count.of_address.items():
            owner = owners.get(address)
            if owner and owner.pod:
                name = owner.namespace, owner.pod
                of_pod[name] = of_pod.get(name, 0) + number
        for name, number in sorted(of_pod.items(), key=lambda one: (-one[1], one[0]))[:_TOP_PODS]:
            pods.add(name, number)
        for one, at in count.counted_at.items():
            counted.add((str(one),), at)
        return [entries, pods, counted]
