"""A reader over any C library that has the commands of bpf(2): what `libbpf.py` and `bcc.py` share.

Opens a pin read-only, gets the map's shape, reads it, closes it. Knows the kernel's info structures
(include/uapi/linux/bpf.h: struct bpf_map_info, struct bpf_prog_info), but not which library it uses.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from exporter.bpf.accounting import MapUsage, usage_of
from exporter.bpf.maps import (
    MapDump,
    MapError,
    MapInfo,
    NotAMap,
    ProgramInfo,
    ReaderMissing,
    ShapeCheck,
    map_error,
    map_type,
    unchecked,
)
from exporter.bpf.walk import Calls, possible_cpus, read_map, stream

_BPF_F_RDONLY = 1 << 3
# type, id, key_size, value_size, max_entries, map_flags, name[16]: the start of struct bpf_map_info since Linux 4.15.
_MAP_INFO = struct.Struct("=6I16s")
# struct bpf_prog_info: tag (8 bytes) at 8, load_time (u64) at 40, nr_map_ids (u32) at 52, map_ids (u64, an address)
# at 56.
_PROGRAM_INFO_SIZE = 64
_MAX_MAP_IDS = 256


class ObjGetOpts(ctypes.Structure):
    """struct bpf_obj_get_opts of libbpf 0.8 and later."""

    _fields_ = (("size", ctypes.c_size_t), ("file_flags", ctypes.c_uint32), ("padding", ctypes.c_uint32))


_strerror = lru_cache(maxsize=16)(os.strerror)  # the end of each map is an error


def bind(library: ctypes.CDLL, name: str, *arguments: type) -> Callable[..., int]:
    """The C function `int name(arguments)` as one that raises OSError with its errno; `ReaderMissing` if absent."""
    try:
        function = ctypes.CFUNCTYPE(ctypes.c_int, *arguments, use_errno=True)((name, library))
    except AttributeError as error:
        raise ReaderMissing(f"the library has no function {name}: it is older than libbpf 0.8") from error

    def call(*values: object) -> int:
        result = function(*values)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, _strerror(number))
        return int(result)

    return call


def bind_open_pin(library: ctypes.CDLL) -> Callable[[bytes], int]:
    """Opens a pin read-only (BPF_F_RDONLY): the kernel then refuses updates and deletes through the descriptor."""
    obj_get = bind(library, "bpf_obj_get_opts", ctypes.c_char_p, ctypes.c_void_p)
    options = ObjGetOpts(ctypes.sizeof(ObjGetOpts), _BPF_F_RDONLY, 0)
    return lambda pin: obj_get(pin, ctypes.addressof(options))


def _fdinfo(descriptor: int) -> bytes:
    # Without a file object, as every scrape asks for many maps.
    file = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)


@lru_cache(maxsize=64)  # the same maps at each scrape
def _info_of(pin: str, raw: bytes) -> MapInfo:
    kind, number, key_size, value_size, max_entries, flags, name = _MAP_INFO.unpack(raw)
    return MapInfo(
        pin=pin,
        id=number,
        name=name.partition(b"\0")[0].decode("utf-8", "backslashreplace"),
        type=map_type(kind),
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        flags=flags,
    )


class LibraryReader:
    """A `maps.Reader` over the C functions in `calls`."""

    def __init__(self, name: str, calls: Calls) -> None:
        self.name = name
        self._calls = calls

    def info(self, pin: str) -> MapInfo:
        with self._opened(pin) as (_, info):
            return info

    def usage(self, pin: str) -> MapUsage:
        descriptor = self._descriptor(pin)
        try:
            return usage_of(pin, _fdinfo(descriptor))
        except OSError as error:
            raise map_error(pin, error.errno or 0, "asking the memory of") from error
        finally:
            os.close(descriptor)

    def read(self, pin: str, *, sum_cpus: bool = False, check: ShapeCheck = unchecked) -> MapDump:
        with self._opened(pin) as (descriptor, info):
            check(info)
            if not info.key_size:
                raise MapError(f"{pin} is a map of type {info.type}, whose entries have no keys to read them by")
            copies = possible_cpus() if info.per_cpu else 1
            try:
                return read_map(self._calls, descriptor, info, copies, sum_cpus=sum_cpus)
            except OSError as error:
                raise map_error(pin, error.errno or 0, "reading") from error

    def lookup(self, pin: str, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._opened(pin) as (descriptor, info):
            value = ctypes.create_string_buffer(info.value_size)
            return [value.raw if self._has(pin, descriptor, key, value) else None for key in keys]

    def _has(self, pin: str, descriptor: int, key: bytes, value: ctypes.Array[ctypes.c_char]) -> bool:
        wanted = ctypes.create_string_buffer(key, len(key))
        try:
            self._calls.lookup(descriptor, ctypes.addressof(wanted), ctypes.addressof(value))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise map_error(pin, error.errno or 0, "reading") from error
        return True

    def batches(self, pin: str) -> Iterator[MapDump]:
        with self._opened(pin) as (descriptor, info):
            try:
                yield from stream(self._calls, descriptor, info)
            except OSError as error:
                raise map_error(pin, error.errno or 0, "reading") from error

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        found = (self._program(program) for program in ids)
        return [program for program in found if program is not None]

    @contextmanager
    def _opened(self, pin: str) -> Iterator[tuple[int, MapInfo]]:
        descriptor = self._descriptor(pin)
        try:
            yield descriptor, self._map_info(pin, descriptor)
        finally:
            os.close(descriptor)

    def _descriptor(self, pin: str) -> int:
        try:
            return self._calls.open_pin(os.fsencode(pin))
        except OSError as error:
            if error.errno == errno.EINVAL:  # the kernel's errno for a pinned link opened read-only
                raise NotAMap(f"{pin} is not a pinned BPF map") from error
            raise map_error(pin, error.errno or 0, "opening") from error

    def _map_info(self, pin: str, descriptor: int) -> MapInfo:
        # Programs and links can be pinned too, and their info structures pass for a map's.
        if os.readlink(f"/proc/self/fd/{descriptor}") != "anon_inode:bpf-map":  # noqa: PTH115  a third of the time
            raise NotAMap(f"{pin} is not a pinned BPF map")
        buffer = ctypes.create_string_buffer(_MAP_INFO.size)
        try:
            self._object_info(descriptor, buffer)
        except OSError as error:
            raise map_error(pin, error.errno or 0, "asking the shape of") from error
        return _info_of(pin, buffer.raw)

    def _object_info(self, descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
        length = ctypes.c_uint32(len(buffer))
        self._calls.object_info(descriptor, ctypes.addressof(buffer), ctypes.byref(length))

    def _program(self, number: int) -> ProgramInfo | None:
        try:
            descriptor = self._calls.program_by_id(number)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise map_error(f"program {number}", error.errno or 0, "opening") from error
        try:
            return self._program_info(number, descriptor)
        except OSError as error:
            raise map_error(f"program {number}", error.errno or 0, "asking the maps of") from error
        finally:
            os.close(descriptor)

    def _program_info(self, number: int, descriptor: int) -> ProgramInfo:
        map_ids = (ctypes.c_uint32 * _MAX_MAP_IDS)()
        buffer = ctypes.create_string_buffer(_PROGRAM_INFO_SIZE)
        struct.pack_into("=I", buffer, 52, _MAX_MAP_IDS)
        struct.pack_into("=Q", buffer, 56, ctypes.addressof(map_ids))
        self._object_info(descriptor, buffer)
        (load_time,) = struct.unpack_from("=Q", buffer, 40)
        (count,) = struct.unpack_from("=I", buffer, 52)
        return ProgramInfo(number, load_time, tuple(map_ids[: min(count, _MAX_MAP_IDS)]), buffer.raw[8:16].hex())
