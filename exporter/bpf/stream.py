"""Reads a map through an open descriptor in batches, so that a large one is never held whole.

Yields the bytes of keys and values. The rules of a walk are those of `walk.py`: a missing key in its middle was deleted
concurrently, and any other error raises OSError. Where the kernel has no batches, the walk goes key by key, and may
restart when its key is deleted, so that an entry can come twice.
"""

import ctypes
import errno
from collections.abc import Iterator

from exporter.bpf.maps import MapInfo, ReadAborted
from exporter.bpf.walk import NO_BATCHES, Calls, key_found

_BATCH_BYTES = 1 << 20
_MIN_BATCH = 64


def stream(calls: Calls, descriptor: int, info: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values, batch by batch, of a map with one value for each key."""
    started = False
    try:
        for batch in _batches(calls, descriptor, info):
            started = True
            yield batch
    except OSError as error:
        if started or error.errno not in NO_BATCHES:
            raise
        yield from _by_key(calls, descriptor, info)


def _batches(calls: Calls, descriptor: int, info: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    size = min(max(_BATCH_BYTES // (info.key_size + info.value_size), _MIN_BATCH), max(info.max_entries, 1))
    # The kernel's cursor is a u32 for hash maps and a key for others.
    cursor = ctypes.create_string_buffer(max(info.key_size, 4))
    start, total, at_end = None, 0, False
    while not at_end:
        keys, values = (ctypes.create_string_buffer(size * one) for one in (info.key_size, info.value_size))
        count = ctypes.c_uint32(size)
        out, key_place, value_place = (ctypes.addressof(one) for one in (cursor, keys, values))
        try:
            calls.lookup_batch(descriptor, start, out, key_place, value_place, ctypes.byref(count))
        except OSError as error:
            if error.errno == errno.ENOSPC and size < 2 * info.max_entries:
                size *= 2  # one bucket holds more entries than the batch
                continue
            if error.errno != errno.ENOENT:
                raise
            at_end = True
        start, total = ctypes.addressof(cursor), total + count.value
        if total > 2 * info.max_entries:
            raise ReadAborted(f"{info.pin} kept growing while it was read; try again")
        yield (
            ctypes.string_at(key_place, count.value * info.key_size),
            ctypes.string_at(value_place, count.value * info.value_size),
        )


def _by_key(calls: Calls, descriptor: int, info: MapInfo) -> Iterator[tuple[bytes, bytes]]:
    at_once = max(_BATCH_BYTES // (info.key_size + info.value_size), _MIN_BATCH)
    key, following = (ctypes.create_string_buffer(info.key_size) for _ in range(2))
    value = ctypes.create_string_buffer(info.value_size)
    start: int | None = None
    rows: list[tuple[bytes, bytes]] = []
    for _ in range(4 * info.max_entries + 1):
        if not key_found(calls.next_key, descriptor, start, ctypes.addressof(following)):
            break
        key.raw, start = following.raw, ctypes.addressof(key)
        if key_found(calls.lookup, descriptor, start, ctypes.addressof(value)):
            rows.append((key.raw, value.raw))
        if len(rows) == at_once:
            yield _joined(rows)
            rows = []
    else:
        raise ReadAborted(f"{info.pin} kept changing while it was read; try again")
    yield _joined(rows)


def _joined(rows: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    return b"".join(key for key, _ in rows), b"".join(value for _, value in rows)
