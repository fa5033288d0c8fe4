"""Tells the C library's allocator that this process is small and does the same thing again and again.

glibc gives each thread an arena of its own, which costs a daemon with three threads some 4 MiB for nothing. And it asks
the kernel for every large block anew: 2300 page faults for a scrape of 1000 interfaces, a third of its CPU. Other C
libraries have no such knobs and are left alone.
"""

import ctypes

# malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
# What a scrape leaves free is kept for the next one up to this, which holds the bodies of 1000 interfaces; what the
# start or a rare large body leaves goes back.
_TRIM_BYTES = 4 << 20
_MMAP_BYTES = 32 << 20  # the largest that glibc takes: a mapped block cannot be kept


def keep_memory_small() -> None:
    """To be called before the first thread starts."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
