"""Maps and programs of a test, made with bpf(2) itself: no pin, no library; they are gone with their descriptors."""

import ctypes
import os
import struct
from contextlib import suppress

from tests.kernel.intruder import BPF, LIBC

ARRAY, PROG_ARRAY, LPM_TRIE = 2, 3, 11
SCHED_CLS, XDP = 3, 6
_MAP_CREATE, _LOOKUP, _UPDATE, _PROG_LOAD, _TEST_RUN = 0, 1, 2, 5, 10
_NO_PREALLOC = 1
_FRAME = bytes(12) + b"\x08\x00" + bytes(50)
_CB = 48  # in struct __sk_buff
_SKB_SIZE = 192


class Refused(Exception):
    """The kernel's verifier refused a program; the text is its log's end."""


def _bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    result = LIBC.syscall(ctypes.c_long(BPF), ctypes.c_long(command), buffer, ctypes.c_long(len(buffer)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result, buffer.raw


class Maker:
    """Makes maps and programs, and closes all of them at its end."""

    def __init__(self):
        self._descriptors = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self._descriptors:
            os.close(one)

    def map(self, kind, key_size, value_size, entries):
        flags = _NO_PREALLOC if kind == LPM_TRIE else 0
        return self._kept(_bpf(_MAP_CREATE, struct.pack("=5I", kind, key_size, value_size, entries, flags))[0])

    def load(self, code, kind=SCHED_CLS):
        """Loads these instructions. Raises `Refused` where the verifier does not accept them."""
        licence, raw = ctypes.create_string_buffer(b"Apache-2.0"), ctypes.create_string_buffer(code, len(code))
        head = struct.pack("=IIQQ", kind, len(code) // 8, ctypes.addressof(raw), ctypes.addressof(licence))
        try:
            return self._kept(_bpf(_PROG_LOAD, head)[0])
        except OSError as error:
            log = ctypes.create_string_buffer(1 << 20)
            with suppress(OSError):
                _bpf(_PROG_LOAD, head + struct.pack("=IIQ", 1, len(log), ctypes.addressof(log)))
            raise Refused(log.value.decode(errors="replace")[-600:] or str(error)) from error

    def _kept(self, descriptor):
        self._descriptors.append(descriptor)
        return descriptor


def put(descriptor, key, value):
    key, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    _bpf(_UPDATE, struct.pack("=IxxxxQQQ", descriptor, ctypes.addressof(key), ctypes.addressof(value), 0))


def get(descriptor, key, size):
    key, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    _bpf(_LOOKUP, struct.pack("=IxxxxQQQ", descriptor, ctypes.addressof(key), ctypes.addressof(value), 0))
    return value.raw


def execute(program, *indexes, xdp=False):
    """Runs a program once and returns its result; `indexes` are the first words of `skb->cb`."""
    data, out = ctypes.create_string_buffer(_FRAME, len(_FRAME)), ctypes.create_string_buffer(len(_FRAME) + 256)
    context = bytearray(_SKB_SIZE)
    struct.pack_into(f"={len(indexes)}I", context, _CB, *indexes)
    context = ctypes.create_string_buffer(bytes(context), _SKB_SIZE)
    sizes = (0, 0) if xdp else (_SKB_SIZE, 0)
    pointers = (0, 0) if xdp else (ctypes.addressof(context), 0)
    head = struct.pack("=IIIIQQ", program, 0, len(data), len(out), ctypes.addressof(data), ctypes.addressof(out))
    _, answer = _bpf(_TEST_RUN, head + struct.pack("=IIIIQQ", 1, 0, *sizes, *pointers))
    return struct.unpack_from("=I", answer, 4)[0]
