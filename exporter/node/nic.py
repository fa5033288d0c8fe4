"""The kernel's counters of each interface: all of them through psutil, those of received packets directly.

Both read /proc/net/dev, which is the network namespace of this process, like everything else in this package.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.node import NodeError
from exporter.privileges import remedy_of_limit

_PROC_NET_DEV = Path("/proc/net/dev")
_BUFFER = 1 << 18


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


def read_received() -> Mapping[str, tuple[int, int]]:
    """The packets and bytes that every interface of this namespace received, by name. Raises `NodeError`.

    Every scrape needs it, so it costs a quarter of `read_nics`.
    """
    try:
        with _PROC_NET_DEV.open("rb", buffering=_BUFFER) as file:
            text = file.read()
    except OSError as error:
        sentence = f"the kernel's interface counters could not be read: {error.strerror}"
        raise NodeError(sentence, remedy_of_limit(error.errno)) from error
    # Split as bytes: a name can have blanks of Unicode in it, and none of ASCII. Names are decoded as in `Link`.
    rows = [line.split(maxsplit=3) for line in text.split(b"\n")[2:-1]]
    names = b"".join([row[0] for row in rows]).decode("utf-8", "backslashreplace").split(":")
    return {name: (int(packets), int(size)) for name, (_, size, packets, _) in zip(names, rows, strict=False)}


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
