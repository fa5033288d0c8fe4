"""The reader over BCC's Python bindings (the distribution's package python3-bpfcc).

Only its library handle and its C functions are used: the bindings' table classes treat every failed lookup as a
missing key, and importing them costs some 60 MiB, so `auto` never chooses this reader.
PyPI's package `bcc` is an unrelated lattice library; the error says so.
"""

import ctypes
import importlib
import sys
from types import ModuleType

from exporter.bpf.library import LibraryReader, bind, bind_open_pin
from exporter.bpf.maps import ReaderMissing
from exporter.bpf.walk import Calls

# Where Debian, Ubuntu, Fedora and RHEL install Python modules, for an interpreter that is not the distribution's.
DISTRIBUTION_FOLDERS = ("/usr/lib/python3/dist-packages", f"/usr/lib/python3.{sys.version_info.minor}/site-packages")


def bcc_reader() -> LibraryReader:
    """A reader over BCC's libbcc. Raises `ReaderMissing` when the bindings or their library are absent."""
    bindings = _import_bindings()
    return LibraryReader("bcc", _calls(bindings.lib))


def _import_bindings() -> ModuleType:
    for folder in DISTRIBUTION_FOLDERS:
        if folder not in sys.path:
            sys.path.append(folder)  # last: the distribution must not shadow this program's dependencies
    try:
        return importlib.import_module("bcc.libbcc")
    except ModuleNotFoundError as error:
        if "bcc" in sys.modules and error.name == "bcc.libbcc":
            raise ReaderMissing(
                "the Python module bcc is PyPI's lattice library, not BCC: uninstall it and install python3-bpfcc"
            ) from error
        raise ReaderMissing("BCC's Python bindings are not installed: install the package python3-bpfcc") from error
    except OSError as error:
        raise ReaderMissing(f"BCC's library could not be loaded: {error}") from error


def _calls(library: ctypes.CDLL) -> Calls:
    number, address = ctypes.c_int, ctypes.c_void_p
    return Calls(
        # BCC's bpf_obj_get cannot open read-only; libbpf's is linked into the same handle.
        open_pin=bind_open_pin(library),
        object_info=bind(library, "bpf_obj_get_info", number, address, address),
        next_key=bind(library, "bpf_get_next_key", number, address, address),
        lookup=bind(library, "bpf_lookup_elem", number, address, address),
        lookup_batch=bind(library, "bpf_lookup_batch", number, *[address] * 5),
        program_by_id=bind(library, "bpf_prog_get_fd_by_id", ctypes.c_uint32),
    )
