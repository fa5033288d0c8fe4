"""Reads a whole map through an open descriptor: in batches, or key by key where the kernel has no batches.

Knows how the kernel walks a map and how concurrent changes affect it. A missing key in the middle of a walk was
deleted concurrently and is skipped; any other error raises OSError, so a partial map is never taken for a whole one.
Only this module knows the stride of per-CPU values (value size rounded up to 8).
"""

import ctypes
import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.bpf.maps import MapError, MapInfo, ReadAborted, sum_over_cpus

Bytes = NDArray[np.uint8]
Columns = tuple[Bytes, Bytes]

# The kernel writes one value per possible CPU (`for_each_possible_cpu` in kernel/bpf/hashtab.c), so their number is
# read here and never from `os.cpu_count()`.
POSSIBLE = Path("/sys/devices/system/cpu/possible")
_BATCH_BYTES = 1 << 20
_MIN_BATCH = 64
# ENOTSUPP is internal to the kernel and has no name in errno.h; map types without batches return it. Kernels before 5.6
# (commit aa2e93b8e58e, "bpf: Add generic support for update and delete batch ops") return EINVAL.
_NO_BATCHES = frozenset({524, errno.EOPNOTSUPP, errno.EINVAL})


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


def read_columns(calls: Calls, descriptor: int, info: MapInfo, copies: int, *, add_cpus: bool = False) -> Columns:
    """All keys, shape (n, key_size), and values, shape (n, copies, value_size), of the map behind `descriptor`; with
    `add_cpus`, each batch is summed over CPUs.
    """
    stride = (info.value_size + 7) // 8 * 8 if info.per_cpu else info.value_size
    shape = (copies, stride)

    def kept(values: Bytes) -> Bytes:
        values = values[:, :, : info.value_size]
        return sum_over_cpus(info, values) if add_cpus else values

    try:
        return _read_batches(calls, descriptor, info, shape, kept)
    except OSError as error:
        if error.errno not in _NO_BATCHES:
            raise
        keys, values = _read_keys(calls, descriptor, info, shape)
        return keys, kept(values)


def _read_batches(
    calls: Calls, descriptor: int, info: MapInfo, shape: tuple[int, int], kept: Callable[[Bytes], Bytes]
) -> Columns:
    size = min(max(_BATCH_BYTES // (info.key_size + shape[0] * shape[1]), _MIN_BATCH), max(info.max_entries, 1))
    # The kernel's cursor is a u32 for hash maps and a key for others: allocate the larger of the two.
    cursor = np.zeros(max(info.key_size, 4), np.uint8)
    chunks: list[Columns] = []
    started = False
    total = 0
    while True:
        keys, values = np.empty((size, info.key_size), np.uint8), np.empty((size, *shape), np.uint8)
        count = ctypes.c_uint32(size)
        at_end = False
        start = cursor.ctypes.data if started else None
        try:
            calls.lookup_batch(
                descriptor, start, cursor.ctypes.data, keys.ctypes.data, values.ctypes.data, ctypes.byref(count)
            )
        except OSError as error:
            if error.errno == errno.ENOSPC and size < 2 * info.max_entries:
                size *= 2  # one bucket holds more entries than the batch: retry at the same cursor
                continue
            if error.errno != errno.ENOENT:
                raise
            at_end = True  # the end of the map; the last entries have been returned
        started = True
        chunks.append((keys[: count.value], kept(values[: count.value])))
        total += count.value
        if at_end:
            return _join(chunks)
        if total > 2 * info.max_entries:
            raise ReadAborted(f"{info.pin} kept growing while it was read; the next scrape reads it again")


def _join(chunks: list[Columns]) -> Columns:
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate([keys for keys, _ in chunks]), np.concatenate([values for _, values in chunks])


def _read_keys(calls: Calls, descriptor: int, info: MapInfo, shape: tuple[int, int]) -> Columns:
    found: dict[bytes, bytes] = {}
    key, following = np.zeros(info.key_size, np.uint8), np.zeros(info.key_size, np.uint8)
    value = np.zeros(shape, np.uint8)
    start: int | None = None  # NULL: get the first key
    # When the current key is deleted, the kernel restarts at the first one. Reading known keys again is harmless, an
    # endless loop is not.
    for _ in range(4 * info.max_entries + 1):
        if not _found(calls.next_key, descriptor, start, following.ctypes.data):
            break
        key[:] = following
        start = key.ctypes.data
        name = key.tobytes()
        if name not in found and _found(calls.lookup, descriptor, key.ctypes.data, value.ctypes.data):
            found[name] = value.tobytes()
    else:
        raise ReadAborted(f"{info.pin} kept changing while it was read; the next scrape reads it again")
    keys = np.frombuffer(b"".join(found), np.uint8).reshape(len(found), info.key_size)
    values = np.frombuffer(b"".join(found.values()), np.uint8).reshape(len(found), *shape)
    return keys, values


def _found(call: Callable[..., int], *arguments: int | None) -> bool:
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
    try:
        return parse_cpu_list(POSSIBLE.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise MapError(f"the number of possible CPUs could not be read from {POSSIBLE}: {error}") from error
