"""Reads a map through an open descriptor: whole, or in parts that need not be held together.

Knows how the kernel walks a map and how concurrent changes affect it. A missing key in the middle of a walk was
deleted concurrently and is skipped; any other error raises OSError, so a partial map is never taken for a whole one.
Where the kernel has no batches, a walk goes key by key and restarts when its key is deleted: an entry can come twice.
Only this module knows the stride of per-CPU values (value size rounded up to 8).
"""

import ctypes
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from exporter.bpf.maps import MapDump, MapError, MapInfo, ReadAborted
from exporter.bpf.sums import CpuSums
from exporter.privileges import remedy_of_limit

# The kernel writes one value per possible CPU (`for_each_possible_cpu` in kernel/bpf/hashtab.c), so their number is
# read here and never from `os.cpu_count()`.
POSSIBLE = Path("/sys/devices/system/cpu/possible")
_BATCH_BYTES, _STREAM_BYTES = 1 << 18, 1 << 20
_MIN_BATCH = 64
# ENOTSUPP is internal to the kernel and has no name in errno.h; map types without batches return it. Kernels before 5.6
# (commit aa2e93b8e58e, "bpf: Add generic support for update and delete batch ops") return EINVAL.
NO_BATCHES = frozenset({524, errno.EOPNOTSUPP, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class Calls:
    """The commands of bpf(2) that reading needs, as C functions; each raises OSError with the kernel's errno.

    Addresses are plain integers; `None` as an address is NULL.
    """

    open_pin: Callable[[bytes], int]
    object_info: Callable[[int, int, object], int]
    next_key: Callable[[int, int | None, int], int]
    lookup: Callable[[int, int, int], int]
    lookup_batch: Callable[[int, int | None, int, int, int, object], int]
    program_by_id: Callable[[int], int]


def read_map(calls: Calls, descriptor: int, info: MapInfo, copies: int, *, sum_cpus: bool) -> MapDump:
    """The content of the map behind `descriptor`, with `copies` values for each key; with `sum_cpus`, each batch is
    summed over CPUs.
    """
    rows = _Rows(info, copies, sum_cpus=sum_cpus)
    found: dict[bytes, bytes] = {}
    try:
        batches = list(_kept_batches(calls, descriptor, info, rows))
    except OSError as error:
        if error.errno not in NO_BATCHES:
            raise
        for key, value in _by_key(calls, descriptor, info, rows.size):
            found.setdefault(key, rows.kept(value, 1))
        batches = list(found.items())
    return MapDump(info, b"".join([one for one, _ in batches]), b"".join([one for _, one in batches]), rows.copies)


def stream(calls: Calls, descriptor: int, info: MapInfo) -> Iterator[MapDump]:
    """The content, part by part, of a large map with one value for each key."""
    started, size = False, info.value_size
    try:
        for keys, values, count in _batches(calls, descriptor, info, size, _STREAM_BYTES):
            started = True
            yield MapDump(info, keys, bytes(values[: count * size]))
    except OSError as error:
        if started or error.errno not in NO_BATCHES:
            raise
        entries = ((key, bytes(value)) for key, value in _by_key(calls, descriptor, info, size))
        while part := list(islice(entries, max(_STREAM_BYTES // (info.key_size + size), _MIN_BATCH))):
            yield MapDump(info, b"".join([key for key, _ in part]), b"".join([value for _, value in part]))


class _Rows:
    """The values of an entry as the kernel writes them: `size` bytes, of which `kept` makes what a dump has."""

    def __init__(self, info: MapInfo, copies: int, *, sum_cpus: bool) -> None:
        self._value_size = info.value_size
        self._stride = (info.value_size + 7) // 8 * 8 if info.per_cpu else info.value_size
        self._sums = CpuSums(copies, info.value_size) if sum_cpus and info.counts_per_cpu else None
        self.size = copies * self._stride
        self.copies = 1 if self._sums else copies

    def kept(self, values: bytearray, count: int) -> bytes:
        """The values of `count` entries, summed over CPUs or without padding."""
        if self._sums:
            return self._sums.rows(values, count)
        whole = bytes(values[: count * self.size])
        if self._stride == self._value_size:
            return whole
        starts = range(0, len(whole), self._stride)
        return b"".join([whole[start : start + self._value_size] for start in starts])


def _kept_batches(calls: Calls, descriptor: int, info: MapInfo, rows: _Rows) -> Iterator[tuple[bytes, bytes]]:
    for keys, values, count in _batches(calls, descriptor, info, rows.size, _BATCH_BYTES):
        yield keys, rows.kept(values, count)


def _batches(
    calls: Calls, descriptor: int, info: MapInfo, value_size: int, batch_bytes: int
) -> Iterator[tuple[bytes, bytearray, int]]:
    """The keys of each batch, a buffer with their values, which the next one overwrites, and their number."""
    size = min(max(batch_bytes // (info.key_size + value_size), _MIN_BATCH), max(info.max_entries, 1))
    # The kernel's cursor is a u32 for hash maps and a key for others: allocate the larger of the two.
    cursor = bytearray(max(info.key_size, 4))
    keys, values = bytearray(size * info.key_size), bytearray(size * value_size)
    start: int | None = None
    total, at_end = 0, False
    while not at_end:
        count = ctypes.c_uint32(size)
        try:
            calls.lookup_batch(
                descriptor, start, _address(cursor), _address(keys), _address(values), ctypes.byref(count)
            )
        except OSError as error:
            if error.errno == errno.ENOSPC and size < 2 * info.max_entries:
                size *= 2  # one bucket holds more entries than the batch: retry at the same cursor
                keys, values = bytearray(size * info.key_size), bytearray(size * value_size)
                continue
            if error.errno != errno.ENOENT:
                raise
            at_end = True  # the end of the map; the last entries have been returned
        start, total = _address(cursor), total + count.value
        yield bytes(keys[: count.value * info.key_size]), values, count.value
        if total > 2 * info.max_entries and not at_end:
            raise ReadAborted(f"{info.pin} kept growing while it was read; the next time it may not")


def _by_key(calls: Calls, descriptor: int, info: MapInfo, value_size: int) -> Iterator[tuple[bytes, bytearray]]:
    """The key of each entry, and a buffer with its value, which the next one overwrites."""
    key, following = bytearray(info.key_size), bytearray(info.key_size)
    value = bytearray(value_size)
    start: int | None = None  # NULL: get the first key
    # When the current key is deleted, the kernel restarts at the first one. Reading known keys again is harmless, an
    # endless loop is not.
    for _ in range(4 * info.max_entries + 1):
        if not _key_found(calls.next_key, descriptor, start, _address(following)):
            return
        key[:] = following
        start = _address(key)
        if _key_found(calls.lookup, descriptor, start, _address(value)):
            yield bytes(key), value
    raise ReadAborted(f"{info.pin} kept changing while it was read; the next time it may not")


def _address(buffer: bytearray) -> int:
    # Of a buffer that is never resized, so that it stays where it is.
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if buffer else 0


def _key_found(call: Callable[..., int], *arguments: int | None) -> bool:
    """Calls and returns whether the key was there."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def parse_cpu_list(text: str) -> int:
    """The number of CPUs in a kernel CPU list such as `0-3,8-11`. Raises ValueError for any other text."""
    count = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        span = int(last if dash else first) - int(first) + 1
        if span < 1:
            raise ValueError(part)
        count += span
    return count


def possible_cpus() -> int:
    """The number of possible CPUs of this kernel."""
    return _possible_cpus(POSSIBLE)


@cache  # it stays as it was when the kernel started
def _possible_cpus(path: Path) -> int:
    try:
        return parse_cpu_list(path.read_bytes().decode())
    except OSError as error:
        sentence = f"the number of possible CPUs could not be read from {path}: {error.strerror}"
        raise MapError(sentence, remedy_of_limit(error.errno)) from error
    except ValueError as error:
        raise MapError(f"the number of possible CPUs could not be read from {path}: {error}") from error
