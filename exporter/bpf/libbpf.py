"""The default reader: libbpf through ctypes, loaded by soname on first use.

Chosen because distributions ship it (0.2 MiB), it reads in batches and can open a pin read-only.
Knows only the names of libbpf's functions.
"""

import ctypes

from exporter.bpf.library import LibraryReader, bind, bind_open_pin
from exporter.bpf.maps import ReaderMissing
from exporter.bpf.walk import Calls

# By soname, never by ctypes.util.find_library: that needs ldconfig or a compiler, which small images do not have.
SONAMES = ("libbpf.so.1", "libbpf.so.0")


def libbpf_reader() -> LibraryReader:
    """A reader over the machine's libbpf. Raises `ReaderMissing` when there is none or it is too old."""
    return LibraryReader("libbpf", _calls(_load()))


def _load() -> ctypes.CDLL:
    for soname in SONAMES:
        try:
            return ctypes.CDLL(soname, use_errno=True)
        except OSError:
            continue
    raise ReaderMissing("libbpf is not installed: install the package libbpf1 (or libbpf0)")


def _calls(library: ctypes.CDLL) -> Calls:
    number, address = ctypes.c_int, ctypes.c_void_p
    batch = bind(library, "bpf_map_lookup_batch", number, *[address] * 6)
    return Calls(
        open_pin=bind_open_pin(library),
        object_info=bind(library, "bpf_obj_get_info_by_fd", number, address, address),
        next_key=bind(library, "bpf_map_get_next_key", number, address, address),
        lookup=bind(library, "bpf_map_lookup_elem", number, address, address),
        lookup_batch=lambda *arguments: batch(*arguments, None),
        program_by_id=bind(library, "bpf_prog_get_fd_by_id", ctypes.c_uint32),
    )
