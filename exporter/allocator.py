"""Tells the C library's allocator that this process is small: one arena, and free pages go back.

glibc gives each thread an arena of its own, which costs a daemon with three threads some 4 MiB for nothing (`make
bench` shows it). Other C libraries have no such knobs and are left alone.
"""

import ctypes

# malloc.h: M_ARENA_MAX and M_TRIM_THRESHOLD.
_ARENA_MAX, _TRIM_THRESHOLD = -8, -1
_TRIM_BYTES = 64 << 10


def keep_memory_small() -> None:
    """To be called before the first thread starts."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)
