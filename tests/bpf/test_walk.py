"""Walking over a map whose entries are deleted meanwhile, with the kernel's calls played by Python."""

import ctypes
import errno
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapInfo
from exporter.bpf.walk import Calls, read_map


def never(*_):
    raise AssertionError("this call is not needed")


def calls_of(batches, value_bytes):
    """The calls of a kernel that returns these batches, each a list of (key, counts); the last with ENOENT."""
    waiting = list(batches)

    def lookup_batch(_descriptor, _start, _cursor, keys, values, count):
        batch = waiting.pop(0)
        count._obj.value = len(batch)
        for number, (key, counts) in enumerate(batch):
            ctypes.memmove(keys + 8 * number, key.to_bytes(8, "little"), 8)
            ctypes.memmove(values + value_bytes * number, np.array(counts, np.uint64).tobytes(), value_bytes)
        if not waiting:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return 0

    return Calls(never, never, never, never, lookup_batch, never)


def read(batches, map_type, slots, copies, *, sum_cpus):
    info = MapInfo("/pin", 1, "m", map_type, 8, 8 * slots, 100, 0)
    calls = calls_of(batches, 8 * slots * copies)
    dump = read_map(calls, 3, info, copies, sum_cpus=sum_cpus)
    assert (1 if sum_cpus and map_type == "percpu_hash" else copies) == dump.copies
    return {int.from_bytes(key, "little"): value for key, value in dump.entries()}


SIZES = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@pytest.mark.parametrize(("map_type", "copies"), [("percpu_hash", 3), ("hash", 1)])
@pytest.mark.parametrize("sum_cpus", [True, False])
@given(sizes=SIZES)
def test_entries_are_whole_however_many_each_batch_still_has(map_type, copies, sum_cpus, sizes):
    # A map whose tail is deleted between two batches ends with an empty one.
    starts = np.cumsum([0, *sizes]).tolist()
    counts = {key: [[key + cpu, 2 * key + cpu] for cpu in range(copies)] for key in range(starts[-1])}
    batches = [[(key, counts[key]) for key in range(first, last)] for first, last in pairwise(starts)]
    summed = sum_cpus and map_type == "percpu_hash"
    expected = {
        key: np.array([np.sum(each, axis=0)] if summed else each, np.uint64).tobytes() for key, each in counts.items()
    }
    assert expected == read(batches, map_type, 2, copies, sum_cpus=sum_cpus)
