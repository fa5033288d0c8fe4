"""What was written into a map is what each reader reads, per CPU and byte for byte."""

import random
from dataclasses import replace

import pytest

from exporter.bpf import walk
from exporter.bpf.maps import MapMissing
from tests.kernel.conftest import READERS
from tests.kernel.machine import bpftool, load_programs
from tests.kernel.pinned import (
    HASH,
    LPM_TRIE,
    NO_PREALLOC,
    PERCPU_ARRAY,
    PERCPU_HASH,
    PROG_ARRAY,
    content_of,
    cpus,
    put_program,
    sorted_rows,
    u32,
    u64,
)

pytestmark = pytest.mark.kernel

SLOTS = (14, 15, 17, 23, 25, 26, 27)
# map type, key size, value size
COUNTERS = [pytest.param(PERCPU_HASH, 8, 8 * slots, id=f"counters of {slots} slots") for slots in SLOTS]
STATES = [pytest.param(HASH, 4, size, id=f"interface state of {size} bytes") for size in (20, 40, 52)]
OTHERS = [
    pytest.param(PERCPU_HASH, 8, 8, id="rule counters"),
    pytest.param(PERCPU_HASH, 8, 12, id="per-CPU values of 12 bytes"),
    pytest.param(PERCPU_HASH, 4, 20, id="per-CPU values of 20 bytes"),
    pytest.param(PERCPU_HASH, 12, 1, id="per-CPU values of 1 byte"),
    pytest.param(HASH, 3, 5, id="keys of 3 and values of 5 bytes"),
    pytest.param(HASH, 64, 300, id="keys of 64 and values of 300 bytes"),
]
SHAPES = [*COUNTERS, *STATES, *OTHERS]


def fill(made, entries: int) -> dict[bytes, tuple[bytes, ...]]:
    """Puts random values under random keys, and says which."""
    chance = random.Random(made.value_size)  # the same at every run
    content = {
        chance.randbytes(made.key_size): tuple(chance.randbytes(made.value_size) for _ in range(made.copies))
        for _ in range(entries)
    }
    made.fill(content)
    return content


@pytest.mark.parametrize(("kind", "key_size", "value_size"), SHAPES)
def test_what_was_written_is_read(reader, make_map, kind, key_size, value_size):
    made = make_map("written", kind, key_size, value_size)
    written = fill(made, 60)
    assert written == content_of(reader.read(str(made.pin)))


@pytest.mark.parametrize(("kind", "key_size", "value_size"), SHAPES)
def test_all_readers_see_the_same_shape_and_content(readers, make_map, kind, key_size, value_size):
    made = make_map("cali_counters6", kind, key_size, value_size, flags=NO_PREALLOC)
    fill(made, 40)
    infos = [reader.info(str(made.pin)) for reader in readers]
    dumps = [reader.read(str(made.pin)) for reader in readers]
    assert [infos[0]] * 3 == infos
    assert infos == [dump.info for dump in dumps]
    assert [sorted_rows(dumps[0])] * 3 == [sorted_rows(dump) for dump in dumps]
    assert [dumps[0].copies] * 3 == [dump.copies for dump in dumps]


def test_single_entries_are_looked_up_and_absent_ones_are_none(reader, make_map):
    made = make_map("cali_jump_ing2", HASH, 4, 4)
    written = fill(made, 20)
    keys = [*written, b"none"]
    assert [*(copies[0] for copies in written.values()), None] == reader.lookup(str(made.pin), keys)
    assert [] == reader.lookup(str(made.pin), [])
    with pytest.raises(MapMissing):
        reader.lookup(f"{made.pin}9", keys)


def test_the_shape_is_what_the_map_was_made_with(reader, make_map):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216, max_entries=20000, flags=NO_PREALLOC)
    info = reader.info(str(made.pin))
    seen = (info.pin, info.name, info.type, info.key_size, info.value_size, info.max_entries, info.flags, info.per_cpu)
    assert (str(made.pin), "cali_counters6", "percpu_hash", 8, 216, 20000, NO_PREALLOC, True) == seen


def test_the_id_tells_two_maps_under_one_name_apart(reader, make_map):
    first = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    before = reader.info(str(first.pin)).id
    first.unpin()
    second = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    assert before != reader.info(str(second.pin)).id


def test_a_long_name_is_read_as_the_kernel_keeps_it(reader, make_map):
    made = make_map("a_name_of_more_than_fifteen", HASH, 4, 4)
    assert "a_name_of_more_" == reader.info(str(made.pin)).name


@pytest.mark.parametrize("flags", [0, NO_PREALLOC])
def test_five_thousand_entries_are_read_whole(reader, make_map, flags):
    made = make_map("many", PERCPU_HASH, 8, 216, max_entries=20000, flags=flags)
    written = fill(made, 5000)
    assert written == content_of(reader.read(str(made.pin)))


def test_a_full_map_is_read_whole(reader, make_map):
    made = make_map("full", HASH, 4, 52, max_entries=1000)
    written = fill(made, 1000)
    assert written == content_of(reader.read(str(made.pin)))


@pytest.mark.parametrize("value", [0, 2**32 - 1, 2**32, 2**53 + 1, 2**64 - 1])
def test_all_64_bits_of_a_value_are_read(reader, make_map, value):
    made = make_map("wide", PERCPU_HASH, 8, 8)
    made.put(u64(7), *[u64(value)] * cpus())
    assert u64(*[value] * cpus()) == reader.read(str(made.pin)).values


def test_each_cpu_keeps_its_own_value(reader, make_map):
    made = make_map("mine", PERCPU_HASH, 8, 16)
    made.put(u32(3, 1), *[u64(10 + cpu, 2**40 + cpu) for cpu in range(cpus())])
    expected = {u32(3, 1): tuple(u64(10 + cpu, 2**40 + cpu) for cpu in range(cpus()))}
    assert expected == content_of(reader.read(str(made.pin)))


@pytest.mark.parametrize("batch", [1 << 20, 1])
def test_cpus_are_added_up_word_by_word_and_wrap_as_counters_do(reader, make_map, monkeypatch, batch):
    monkeypatch.setattr(walk, "_BATCH_BYTES", batch)
    made = make_map("sums", PERCPU_HASH, 8, 16, max_entries=200)
    for number in range(200):
        made.put(u64(number), *[u64(2**63 + number, cpu) for cpu in range(cpus())])
    dump = reader.read(str(made.pin), sum_cpus=True)
    first, second = (2**63 * cpus()) % 2**64, sum(range(cpus()))
    expected = {u64(number): (u64(first + number * cpus(), second),) for number in range(200)}
    assert expected == content_of(dump)


@pytest.mark.parametrize(("kind", "size"), [(PERCPU_HASH, 12), (HASH, 16)])
def test_values_that_are_no_counts_of_cpus_are_not_added_up(reader, make_map, kind, size):
    made = make_map("odd", kind, 8, size)
    made.put(u64(1), *[bytes([cpu + 1]) * size for cpu in range(made.copies)])
    plain, added = (reader.read(str(made.pin), sum_cpus=add) for add in (False, True))
    assert (1, made.copies, made.copies * size) == (added.count, added.copies, len(added.values))
    assert plain == added


@pytest.mark.parametrize(("kind", "copies"), [(HASH, 1), (PERCPU_HASH, None), (LPM_TRIE, 1)])
def test_an_empty_map_is_a_dump_without_rows_in_its_shape(reader, make_map, kind, copies):
    made = make_map("empty", kind, 8, 24, flags=NO_PREALLOC)
    dump = reader.read(str(made.pin))
    assert (b"", b"", copies or cpus()) == (dump.keys, dump.values, dump.copies)


def test_a_per_cpu_array_is_read_with_every_index(reader, make_map):
    made = make_map("array", PERCPU_ARRAY, 4, 12, max_entries=5)
    made.put(u32(2), *[bytes([cpu + 1]) * 12 for cpu in range(cpus())])
    expected = {u32(index): (bytes(12),) * cpus() for index in range(5)}
    expected[u32(2)] = tuple(bytes([cpu + 1]) * 12 for cpu in range(cpus()))
    assert expected == content_of(reader.read(str(made.pin)))


def test_a_longest_prefix_trie_is_read_whole(reader, make_map):
    made = make_map("cali_v4_ip_sets", LPM_TRIE, 8, 4, max_entries=1000, flags=NO_PREALLOC)
    written = {u32(length) + bytes([10, length, 0, 0]): (u32(length * 7),) for length in range(16, 33)}
    made.fill(written)
    assert written == content_of(reader.read(str(made.pin)))


@pytest.mark.parametrize("slots", [(0,), (3, 250, 499), ()])
def test_a_program_array_is_read_as_the_ids_of_its_programs(reader, make_map, bpf_fs, counting, slots):
    load_programs(counting, bpf_fs / "loaded", make_map("cali_counters6", PERCPU_HASH, 8, 216).pin)
    array = make_map("cali_progs_ing2", PROG_ARRAY, 4, 4, max_entries=500)
    for slot in slots:
        put_program(array, slot, bpf_fs / "loaded/from_pod")
    number = bpftool("prog", "show", "pinned", bpf_fs / "loaded/from_pod")["id"]
    assert {u32(slot): (u32(number),) for slot in slots} == content_of(reader.read(str(array.pin)))


@pytest.mark.parametrize("name", READERS)
def test_two_reads_of_a_quiet_map_are_equal(name, make_map, readers):
    reader = readers[READERS.index(name)]
    made = make_map("quiet", PERCPU_HASH, 8, 216)
    fill(made, 50)
    first, second = reader.read(str(made.pin)), reader.read(str(made.pin))
    assert replace(first.info) == second.info
    assert sorted_rows(first) == sorted_rows(second)
