"""Moves this process into a network namespace, for which Python has no call before 3.12."""

import ctypes
import os
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
