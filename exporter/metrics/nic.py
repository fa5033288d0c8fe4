"""Collector `nic`, off by default: the kernel's own interface counters beside Calico's, from the endpoint's own view.

They count what crosses the host side of the interface (measured on the demo node, see tests/kernel/test_demo.py): what
a pod sends counts before Calico's program sees it, dropped or not; what Calico drops on its way to a pod, and what it
redirects straight into the pod's namespace, counts nowhere here. Drops of Calico are in no drop counter of the kernel.
"""

from collections.abc import Iterator
from typing import ClassVar

from exporter.metrics.collector import CollectorOptions
from exporter.metrics.family import COUNTER, Family, Samples
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.node.nic import Nic, NicCounters
from exporter.snapshot.snapshot import Snapshot

_LABELS = ("interface", "direction", "namespace", "pod")
_LEFT_OUT = (
    "outbound includes what Calico then drops; inbound leaves out what Calico drops or redirects straight into the pod."
)
PACKETS = Family(
    "calico_bpf_interface_packets_total",
    COUNTER,
    f"Packets that the kernel counted on the host side of an endpoint's interface; {_LEFT_OUT}",
    _LABELS,
)
BYTES = Family(
    "calico_bpf_interface_bytes_total",
    COUNTER,
    f"Bytes that the kernel counted on the host side of an endpoint's interface; {_LEFT_OUT}",
    _LABELS,
)
DROPS = Family(
    "calico_bpf_interface_drops_total",
    COUNTER,
    "Packets that the kernel itself dropped at an endpoint's interface; Calico's drops are not among them.",
    _LABELS,
)
ERRORS = Family(
    "calico_bpf_interface_errors_total", COUNTER, "Errors that the kernel counted at an endpoint's interface.", _LABELS
)
FAMILIES = (PACKETS, BYTES, DROPS, ERRORS)


class NicCollector:
    """Calico's endpoints only: a node's other interfaces are node_exporter's."""

    name: ClassVar[str] = "nic"
    about: ClassVar[str] = "The kernel's interface counters (off)."
    on_by_default: ClassVar[bool] = False
    parts: ClassVar[frozenset[str]] = frozenset({"nics", "ifstate", "endpoints"})

    def __init__(self, options: CollectorOptions | None = None) -> None:
        del options

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file."""
        samples = [Samples(family) for family in FAMILIES]
        nics, _ = snapshot.nics.get(), snapshot.ifstate.get()  # which tells whose interfaces are Calico's
        for endpoint in snapshot.endpoints.get().by_index.values():
            nic = nics.get(endpoint.interface)
            if nic is None or not endpoint.is_calicos:
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
