"""A pinned BPF map: its shape, its content, and the errors of reading it.

This is the contract of every reader in this package (`libbpf.py`, `bcc.py`, `bpftool.py`): each returns the same
`MapInfo` and an equal `MapDump` for a pin. Nothing here knows what the bytes mean.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from exporter.errors import ExporterError
from exporter.privileges import remedy_of_refusal

# Names of enum bpf_map_type (include/uapi/linux/bpf.h), by number; as bpftool prints them.
MAP_TYPES = (
    "unspec",
    "hash",
    "array",
    "prog_array",
    "perf_event_array",
    "percpu_hash",
    "percpu_array",
    "stack_trace",
    "cgroup_array",
    "lru_hash",
    "lru_percpu_hash",
    "lpm_trie",
)
_PER_CPU = frozenset({"percpu_hash", "percpu_array", "lru_percpu_hash"})


class MapError(ExporterError):
    """A pinned map could not be read. The message is one sentence for an operator."""


class MapMissing(MapError):
    """There is no such pin: eBPF mode is off or not yet on, or the pin has just been replaced."""


class MapDenied(MapError):
    """The kernel refused: the process lacks a capability or the right to open the pin."""


class NotAMap(MapError):
    """The path exists and is not a pinned BPF map."""


class ReadAborted(MapError):
    """The map kept changing, or the reader's tool did not finish in time."""


class ReaderMissing(MapError):
    """The library or the program that a reader needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The shape of a pinned map, as the kernel reports it.

    `pin` is the path it was opened by, `id` the kernel's id of the map (a recreated map has another),
    sizes are bytes, `max_entries` is the capacity in entries.
    """

    pin: str
    id: int
    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int

    @property
    def per_cpu(self) -> bool:
        """Whether every entry holds one value for each possible CPU."""
        return self.type in _PER_CPU


@dataclass(frozen=True, slots=True)
class MapDump:
    """The whole content of a map in columns; row i of both arrays is one entry, in no particular order.

    `keys` is uint8 of shape (entries, key_size); `values` is uint8 of shape (entries, copies, value_size), where
    copies is the number of possible CPUs for a per-CPU map, unless they were summed, and 1 for any other. The padding
    that the kernel puts after each CPU's value is removed.
    """

    info: MapInfo
    keys: NDArray[np.uint8]
    values: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A loaded BPF program: its id, when it was loaded (nanoseconds since boot) and the ids of the maps it uses."""

    id: int
    load_time: int
    map_ids: tuple[int, ...]


class Reader(Protocol):
    """Reads pinned maps. Every call opens the pin again, read-only, and raises only `MapError`."""

    @property
    def name(self) -> str:
        """The name that selects this reader on the command line."""

    def info(self, pin: str) -> MapInfo:
        """The shape of the map pinned at `pin`."""

    def read(self, pin: str, *, add_cpus: bool = False) -> MapDump:
        """The shape and content of the map pinned at `pin`; with `add_cpus`, values are summed as `sum_over_cpus` does:
        a node with 256 possible CPUs holds 105 MiB of the counters of 1000 interfaces.
        """

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        """The loaded programs of these ids; one that is gone is left out. Needs CAP_SYS_ADMIN."""


def sum_over_cpus(info: MapInfo, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The values of a per-CPU map of u64 counts summed over CPUs, as one copy; any other values unchanged."""
    if not info.per_cpu or info.value_size % 8 or not values.size:
        return values
    sums: NDArray[np.uint64] = np.ascontiguousarray(values).view(np.uint64).sum(axis=1, dtype=np.uint64, keepdims=True)
    return sums.view(np.uint8)


def map_error(pin: str, number: int, doing: str) -> MapError:
    """The `MapError` for the kernel's errno `number`, returned while `doing` something with `pin`."""
    reason = os.strerror(number)
    if number == errno.ENOENT:
        return MapMissing(f"{pin} does not exist")
    if number == errno.EACCES and os.access(pin, os.R_OK):
        # The kernel returns EACCES both for a forbidding file mode and for a file that is no BPF object.
        return NotAMap(f"{pin} is not a pinned BPF map")
    if number in (errno.EPERM, errno.EACCES):
        return MapDenied(f"{doing} {pin} was refused ({reason})", remedy_of_refusal())
    return MapError(f"{doing} {pin} failed: {reason}")
