"""The kernel's counters of each interface, through psutil.

psutil reads /proc/net/dev, which is the network namespace of this process, like everything else in this package.
"""

from dataclasses import dataclass

from exporter.node import NodeError


@dataclass(frozen=True, slots=True)
class NicCounters:
    """The kernel's counters of one direction of an interface since it was created."""

    packets: int
    bytes: int
    drops: int
    errors: int


@dataclass(frozen=True, slots=True)
class Nic:
    """Both directions, seen from the host: a workload's interface receives what its pod sent."""

    received: NicCounters
    sent: NicCounters


def read_nics() -> dict[str, Nic]:
    """The counters of every interface of this namespace, by name. Raises `NodeError`."""
    import psutil

    try:
        every = psutil.net_io_counters(pernic=True, nowrap=False)
    except (OSError, RuntimeError) as error:
        raise NodeError(f"the kernel's interface counters could not be read: {error}") from error
    return {
        name: Nic(
            NicCounters(one.packets_recv, one.bytes_recv, one.dropin, one.errin),
            NicCounters(one.packets_sent, one.bytes_sent, one.dropout, one.errout),
        )
        for name, one in every.items()
    }
