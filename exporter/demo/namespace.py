"""Enters network namespaces, for which Python has no call before 3.12, and writes their kernel settings."""

import ctypes
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from exporter.demo import DemoError

_CLONE_NEWNET = 0x40000000


def enter_namespace(name: str) -> None:
    """Moves the calling thread, and every thread it starts later, into the namespace that `ip netns` calls `name`."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(Path("/run/netns") / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if library.setns(descriptor, _CLONE_NEWNET):
            raise DemoError(f"the namespace {name} could not be entered: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def write_settings(name: str, settings: Mapping[str, int]) -> None:
    """Writes kernel settings, named as in /proc/sys, in the namespace that `ip netns` calls `name`."""

    def write() -> None:
        enter_namespace(name)
        for setting, value in settings.items():
            try:
                (Path("/proc/sys") / setting).write_text(str(value), encoding="ascii")
            except OSError as error:
                raise DemoError(f"/proc/sys/{setting} could not be written in {name}: {error.strerror}") from error

    # /proc/sys shows each thread its own namespace's; this thread ends in the namespace.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(write).result()
