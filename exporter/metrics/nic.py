"""Collector `nic`, off by default: the kernel's interface counters, from the endpoint's view.

They count at the host side of the interface (verified by tests/kernel/test_demo.py): packets from a pod before
Calico's program runs, dropped or not, but not packets to a pod that Calico drops or redirects straight into the pod's
namespace. The kernel's drop counters do not include Calico's drops.
"""

from collections.abc import Iterator

from exporter.metrics.collector import DEFAULTS, CollectorOptions
from exporter.metrics.family import COUNTER, Family, Samples
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.node.nic import Nic, NicCounters
from exporter.snapshot.snapshot import Snapshot

_LABELS = ("interface", "direction", "namespace", "pod")
_EXCLUDED = (
    "outbound includes what Calico then drops; inbound excludes what Calico drops or redirects straight into the pod."
)
PACKETS = Family(
    "calico_bpf_interface_packets_total",
    COUNTER,
    f"Packets that the kernel counted on the host side of an endpoint's interface; {_EXCLUDED}",
    _LABELS,
)
BYTES = Family(
    "calico_bpf_interface_bytes_total",
    COUNTER,
    f"Bytes that the kernel counted on the host side of an endpoint's interface; {_EXCLUDED}",
    _LABELS,
)
DROPS = Family(
    "calico_bpf_interface_drops_total",
    COUNTER,
    "Packets that the kernel itself dropped at an endpoint's interface; excluding drops by Calico.",
    _LABELS,
)
ERRORS = Family(
    "calico_bpf_interface_errors_total", COUNTER, "Errors that the kernel counted at an endpoint's interface.", _LABELS
)
FAMILIES = (PACKETS, BYTES, DROPS, ERRORS)


class NicCollector:
    """Calico's endpoints only: a node's other interfaces are node_exporter's."""

    name = "nic"
    about = "The kernel's interface counters."
    on_by_default = False
    parts = frozenset({"nics", "endpoints"})

    def __init__(self, options: CollectorOptions = DEFAULTS) -> None:
        del options

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file."""
        samples = [Samples(family) for family in FAMILIES]
        nics = snapshot.nics.get()
        for endpoint in snapshot.endpoints.get().by_index.values():
            nic = nics.get(endpoint.interface)
            if nic is None or not endpoint.belongs_to_calico:
                continue
            for direction, counted in _directions(endpoint, nic):
                labels = (endpoint.interface, direction, endpoint.namespace, endpoint.pod)
                values = (counted.packets, counted.bytes, counted.drops, counted.errors)
                for family, value in zip(samples, values, strict=True):
                    family.add(labels, value)
        return samples


def _directions(endpoint: Endpoint, nic: Nic) -> Iterator[tuple[str, NicCounters]]:
    inbound, outbound = (nic.sent, nic.received) if endpoint.kind == WORKLOAD else (nic.received, nic.sent)
    yield "inbound", inbound
    yield "outbound", outbound
