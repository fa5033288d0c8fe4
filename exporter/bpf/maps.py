"""A pinned BPF map: its shape, its content, and the errors of reading it.

This is the contract of every reader in this package (`libbpf.py`, `bcc.py`, `bpftool.py`): each returns the same
`MapInfo` and an equal `MapDump` for a pin. Nothing here knows what the bytes mean.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Protocol

from exporter.bpf.sums import CpuSums
from exporter.errors import ExporterError
from exporter.privileges import remedy_of_limit, remedy_of_refusal

if TYPE_CHECKING:
    from exporter.bpf.accounting import MapUsage

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


def map_type(number: int) -> str:
    """The name of a map type."""
    return MAP_TYPES[number] if number < len(MAP_TYPES) else f"type_{number}"


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

    @property
    def counts_per_cpu(self) -> bool:
        """Whether the values can be summed over CPUs: they are u64 counts, or the words of larger ones."""
        return self.per_cpu and self.value_size > 0 and self.value_size % 8 == 0


@dataclass(frozen=True, slots=True)
class MapDump:
    """The content of a map in columns, all of it or a part, the entries in no particular order.

    `keys` are the keys, one after the other; `values` are `copies` values for each of them, in the same order. That is
    the number of possible CPUs for a per-CPU map, unless they were summed, and 1 for any other. The padding that the
    kernel puts after each CPU's value is removed.
    """

    info: MapInfo
    keys: bytes
    values: bytes
    copies: int = 1

    @property
    def count(self) -> int:
        """The number of entries."""
        return len(self.keys) // self.info.key_size if self.info.key_size else 0

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """The key and the values of each entry."""
        size = self.info.value_size * self.copies
        values = _pieces(self.values, size) if size else repeat(b"", self.count)
        return zip(_pieces(self.keys, self.info.key_size), values, strict=True)


def _pieces(column: bytes, size: int) -> Iterator[bytes]:
    return chain.from_iterable(struct.iter_unpack(f"{size}s", column)) if column else iter(())


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A loaded BPF program: its id, when it was loaded (nanoseconds since boot) and the ids of the maps it uses.

    `tag` is the kernel's hash of its instructions in hexadecimal, empty where it is not known.
    """

    id: int
    load_time: int
    map_ids: tuple[int, ...]
    tag: str = ""


ShapeCheck = Callable[[MapInfo], object]


def unchecked(_: MapInfo) -> None:
    """The check of a read that takes a map of any shape."""


class Reader(Protocol):
    """Reads pinned maps. Every call opens the pin again, read-only, and raises only `MapError`."""

    @property
    def name(self) -> str:
        """The name that selects this reader on the command line."""

    def info(self, pin: str) -> MapInfo:
        """The shape of the map pinned at `pin`."""

    def usage(self, pin: str) -> "MapUsage":
        """The shape of the map pinned at `pin`, and the memory that tells its entries."""

    def read(self, pin: str, *, sum_cpus: bool = False, check: ShapeCheck = unchecked) -> MapDump:
        """The shape and content of the map pinned at `pin`; with `sum_cpus`, values are summed as `sum_over_cpus` does:
        a node with 256 possible CPUs holds 105 MiB of the counters of 1000 interfaces.

        `check` gets the shape before the content is read; what it raises ends the read.
        """

    def lookup(self, pin: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys in a map that is not per-CPU, None where there is no entry; for maps too large to
        read whole.
        """

    def batches(self, pin: str) -> Iterator[MapDump]:
        """The entries of a large map that is not per-CPU, in batches that need not be held together.

        On kernels without batches (before Linux 5.6) an entry can come twice.
        """

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        """The loaded programs of these ids; one that is gone is left out. Needs CAP_SYS_ADMIN."""


def sum_over_cpus(dump: MapDump) -> MapDump:
    """A per-CPU map of u64 counts with its values summed over CPUs, as one copy; any other map unchanged."""
    info = dump.info
    if not info.counts_per_cpu or not dump.copies:
        return dump
    return MapDump(info, dump.keys, CpuSums(dump.copies, info.value_size).rows(dump.values, dump.count))


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
    return MapError(f"{doing} {pin} failed: {reason}", remedy_of_limit(number))
