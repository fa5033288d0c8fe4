"""A large map, read in batches by each reader, is what was written."""

import errno
from dataclasses import replace

import pytest

from exporter.bpf import bpftool, walk
from exporter.bpf.maps import MapMissing, NotAMap
from tests.kernel.pinned import HASH, LPM_TRIE, NO_PREALLOC, u32, u64

pytestmark = pytest.mark.kernel
LRU_HASH = 9
FLOW = (16, 88)


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of some entries."""
    monkeypatch.setattr(walk, "_STREAM_BYTES", 1)
    monkeypatch.setattr(bpftool, "_ENTRIES_AT_ONCE", 100)


def rows_of(batches):
    """The entries of all batches; one that comes twice is an error."""
    found = {}
    for batch in batches:
        key, value = batch.info.key_size, batch.info.value_size
        assert len(batch.keys) // key == len(batch.values) // value
        for number in range(len(batch.keys) // key):
            name = batch.keys[number * key : (number + 1) * key]
            assert name not in found
            found[name] = batch.values[number * value : (number + 1) * value]
    return found


def filled(made, count):
    content = {u64(number, ~number & 0xFFFFFFFF): (u64(*([number] * 11)),) for number in range(count)}
    made.fill(content)
    return {key: values[0] for key, values in content.items()}


@pytest.mark.parametrize(("kind", "flags"), [(HASH, 0), (HASH, NO_PREALLOC), (LRU_HASH, 0)])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_all_entries_come_in_batches(reader, make_map, small_batches, kind, flags, count):
    made = make_map("cali_v4_ct4", kind, *FLOW, max_entries=4000, flags=flags)
    content = filled(made, count)
    batches = list(reader.batches(str(made.pin)))
    assert rows_of(batches) == content
    assert all(batch.info == reader.info(str(made.pin)) for batch in batches)
    assert len(batches) >= count / 500


def test_a_longest_prefix_map_comes_in_batches_too(reader, make_map, small_batches):
    made = make_map("cali_v4_routes", LPM_TRIE, 8, 8, max_entries=1000, flags=NO_PREALLOC)
    content = {u32(32, number): (u64(number),) for number in range(300)}
    made.fill(content)
    assert rows_of(reader.batches(str(made.pin))) == {key: values[0] for key, values in content.items()}


# Kernels before 5.6.
@pytest.mark.parametrize("number", [524, errno.EINVAL])
def test_without_batches_the_map_is_read_by_its_keys(readers, make_map, small_batches, number):
    made = make_map("cali_v4_ct4", HASH, *FLOW, max_entries=4000)
    content = filled(made, 300)

    def refused(*_):
        raise OSError(number, "no batches")

    for reader in readers:
        if reader.name != "bpftool":
            reader._calls = replace(reader._calls, lookup_batch=refused)
        batches = list(reader.batches(str(made.pin)))
        assert rows_of(batches) == content
        assert len(batches) > 2


def test_what_is_no_map_or_is_not_there_is_the_same_error_as_otherwise(reader, pins, make_map):
    with pytest.raises(MapMissing):
        list(reader.batches(str(pins / "cali_v4_ct4")))
    (pins / "folder").mkdir()
    with pytest.raises(NotAMap):
        list(reader.batches(str(pins / "folder")))
