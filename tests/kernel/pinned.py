"""Makes, pins and fills BPF maps through libbpf, so that what a reader reads is known from another side.

Independent of the readers under test on purpose: it shares no line with them.
"""

import ctypes
import errno
import os
import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

HASH, PROG_ARRAY, PERCPU_HASH, PERCPU_ARRAY, LPM_TRIE = 1, 3, 5, 6, 11
NO_PREALLOC = 1
READ_ONLY = 1 << 3
# What lies between one CPU's value and the next: never zero here, so that a reader that keeps it is found out.
PADDING = b"\xee"

# The content of a map: key -> one value for each copy (each possible CPU, or one).
Content = Mapping[bytes, tuple[bytes, ...]]


class _CreateOpts(ctypes.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 4),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class _GetOpts(ctypes.Structure):
    """struct bpf_obj_get_opts."""

    _fields_ = (("size", ctypes.c_size_t), ("file_flags", ctypes.c_uint32), ("padding", ctypes.c_uint32))


@cache
def library() -> ctypes.CDLL:
    return ctypes.CDLL("libbpf.so.1", use_errno=True)


def cpus() -> int:
    """How many CPUs this kernel could bring up, by libbpf's own count."""
    return library().libbpf_num_possible_cpus()


def call(name, *arguments):
    """The C function; a negative result is an OSError with errno."""
    result = getattr(library(), name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def open_pin(pin: Path, flags: int = 0) -> int:
    options = _GetOpts(ctypes.sizeof(_GetOpts), flags, 0)
    return call("bpf_obj_get_opts", os.fsencode(pin), ctypes.byref(options))


class PinnedMap:
    """A map of our own, pinned at `pin`; gone when it is unpinned and closed."""

    def __init__(self, pin: Path, kind: int, key_size: int, value_size: int, max_entries: int = 100, flags: int = 0):
        self.pin, self.kind, self.key_size, self.value_size = pin, kind, key_size, value_size
        self.max_entries, self.flags = max_entries, flags
        self.copies = cpus() if kind in (PERCPU_HASH, PERCPU_ARRAY) else 1
        options = _CreateOpts(size=ctypes.sizeof(_CreateOpts), map_flags=flags)
        name = pin.name.encode()[:15]
        self.descriptor = call("bpf_map_create", kind, name, key_size, value_size, max_entries, ctypes.byref(options))
        try:
            call("bpf_obj_pin", self.descriptor, os.fsencode(pin))
        except OSError:
            self.close()
            raise

    def put(self, key: bytes, *values: bytes) -> None:
        """Sets the value of each CPU; padding up to 8 bytes is not zero."""
        assert len(key) == self.key_size
        assert [self.value_size] * self.copies == [len(value) for value in values]
        stride = (self.value_size + 7) // 8 * 8 if self.kind in (PERCPU_HASH, PERCPU_ARRAY) else self.value_size
        put(self.descriptor, key, b"".join(value.ljust(stride, PADDING) for value in values))

    def fill(self, content: Content) -> None:
        for key, values in content.items():
            self.put(key, *values)

    def delete(self, key: bytes) -> None:
        delete(self.descriptor, key)

    def unpin(self) -> None:
        self.pin.unlink()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def put(descriptor: int, key: bytes, value: bytes) -> None:
    # Per-CPU entries that are not preallocated come from a small stock that the kernel fills up a moment later.
    for pause in (0, 0.001, 0.01, 0.1, None):
        try:
            call("bpf_map_update_elem", descriptor, key, value, ctypes.c_uint64(0))
        except OSError as error:
            if error.errno != errno.ENOMEM or pause is None:
                raise
            time.sleep(pause)
        else:
            return


def delete(descriptor: int, key: bytes) -> None:
    call("bpf_map_delete_elem", descriptor, key)


def put_program(array: PinnedMap, slot: int, program_pin: Path) -> None:
    """Puts the program pinned at `program_pin` into a slot of a program array."""
    program = open_pin(program_pin)
    try:
        put(array.descriptor, struct.pack("=I", slot), struct.pack("=I", program))
    finally:
        os.close(program)


def u32(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}Q", *numbers)


def on_each_cpu(slots: int, values: Mapping[int, int]) -> list[bytes]:
    """A counter entry whose sums over the CPUs are `values`, split unevenly among them; other slots are zero."""
    first = [0] * slots
    others = [0] * slots
    for slot, value in values.items():
        others[slot] = value // (2 * cpus())
        first[slot] = value - others[slot] * (cpus() - 1)
    return [u64(*first), *[u64(*others)] * (cpus() - 1)]


def interface_state(flags: int, name: str, size: int) -> bytes:
    """An entry of Calico's interface state map."""
    return (u32(flags) + name.encode().ljust(16, b"\0")).ljust(size, b"\0")


def content_of(dump) -> Content:
    """What a reader read, as a mapping; a key that appears twice is an error of its own."""
    found = {key: copies_of(dump, values) for key, values in dump.entries()}
    assert len(found) == dump.count, "a key was read twice"
    return found


def copies_of(dump, values: bytes) -> tuple[bytes, ...]:
    """An entry's value for each CPU, or the one that it has."""
    size = dump.info.value_size
    return tuple(values[start : start + size] for start in range(0, len(values), size))


def sorted_rows(dump) -> list[tuple[bytes, bytes]]:
    """The rows of a dump in the order of their keys."""
    return sorted(dump.entries())
