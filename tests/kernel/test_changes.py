"""Maps that change, vanish and are replaced while they are read."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from exporter.bpf import walk
from exporter.bpf.bpftool import BpftoolReader
from exporter.bpf.library import LibraryReader
from exporter.bpf.maps import MapError, MapMissing, ReadAborted
from tests.kernel.churn import FIRST_CHURNING, value_of
from tests.kernel.conftest import reader_called
from tests.kernel.machine import ROOT, load_programs, open_descriptors
from tests.kernel.pinned import HASH, NO_PREALLOC, PERCPU_HASH, PinnedMap, content_of, cpus, u32, u64

pytestmark = pytest.mark.kernel

SLOTS = 27


def without_batches(reader: LibraryReader) -> LibraryReader:
    """The same reader on a kernel whose maps have no batches: it goes key by key."""

    def no_batches(*_: object) -> int:
        raise OSError(524, "ENOTSUPP")

    return LibraryReader(f"{reader.name}, key by key", replace(reader._calls, lookup_batch=no_batches))


def way_called(name: str):
    """A way to walk over a map: `libbpf`, `libbpf key by key`, ..."""
    name, _, keys = name.partition(" ")
    reader = reader_called(name)
    return without_batches(reader) if keys else reader


@pytest.fixture(params=["libbpf", "libbpf key by key", "bcc", "bcc key by key", "bpftool"])
def way(request, bpf_mount):
    """Each way there is to walk over a map."""
    return way_called(request.param)


def stable_content(entries: int, slots: int = SLOTS) -> dict[bytes, tuple[bytes, ...]]:
    return {u64(key): (value_of(key, slots),) * cpus() for key in range(entries)}


def test_a_map_that_is_deleted_between_reads_is_missing(way, make_map):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    way.read(str(made.pin))
    made.unpin()
    with pytest.raises(MapMissing, match="does not exist"):
        way.read(str(made.pin))


def test_a_map_replaced_under_its_pin_is_read_again(way, make_map):
    old = make_map("cali_counters6", PERCPU_HASH, 8, 8 * 27)
    old.put(u64(1), *[u64(*range(27))] * cpus())
    dump = way.read(str(old.pin))
    assert (1, cpus(), 216) == (dump.count, dump.copies, dump.info.value_size)
    old.unpin()
    new = make_map("cali_counters6", PERCPU_HASH, 8, 8 * 25)
    new.put(u64(2), *[u64(*range(25))] * cpus())
    dump = way.read(str(new.pin))
    assert ({u64(2): (u64(*range(25)),) * cpus()}, 200) == (content_of(dump), dump.info.value_size)


def test_a_map_replaced_by_one_of_another_type_is_read_again(way, make_map):
    old = make_map("cali_iface4", PERCPU_HASH, 8, 216)
    way.read(str(old.pin))
    old.unpin()
    new = make_map("cali_iface4", HASH, 4, 52)
    new.put(u32(7), b"x" * 52)
    assert {u32(7): (b"x" * 52,)} == content_of(way.read(str(new.pin)))


@contextmanager
def churning(made: PinnedMap, keys: int, slots: int) -> Iterator[None]:
    """Another process changes the map's keys as fast as it can while this lasts."""
    words = [sys.executable, "-m", "tests.kernel.churn", str(made.pin), str(keys), str(slots)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        try:
            assert b"started\n" == writer.stdout.readline()
            yield
            assert writer.poll() is None, "the writer stopped by itself"
        finally:
            writer.kill()


def read_while_churning(way, made: PinnedMap, times: int, keys: int) -> None:
    """Every read is whole where nothing changes, and has no key twice; or it says that it gave up."""
    stable = stable_content(300)
    made.fill(stable)
    seen_churning: set[frozenset[bytes]] = set()
    with churning(made, keys, SLOTS):
        for _ in range(times):
            with suppress(ReadAborted):
                content = content_of(way.read(str(made.pin)))
                assert stable == {key: content.get(key) for key in stable}
                seen_churning.add(frozenset(content.keys() - stable.keys()))
    assert len(seen_churning) > times // 10  # else nothing came or went, or it always gave up


@pytest.mark.parametrize("flags", [0, NO_PREALLOC], ids=["preallocated", "not preallocated"])
@pytest.mark.parametrize("name", ["libbpf", "libbpf key by key", "bcc", "bcc key by key"])
def test_stable_keys_are_read_right_and_none_twice_while_others_come_and_go(name, make_map, flags):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 8 * SLOTS, max_entries=1000, flags=flags)
    read_while_churning(way_called(name), made, times=100, keys=400)


@pytest.mark.parametrize("flags", [0, NO_PREALLOC], ids=["preallocated", "not preallocated"])
def test_bpftool_reads_stable_keys_right_and_none_twice_while_others_come_and_go(make_map, flags):
    # When the key it stands on is deleted, bpftool starts from the beginning and prints again what it meets again.
    made = make_map("cali_counters6", PERCPU_HASH, 8, 8 * SLOTS, max_entries=1000, flags=flags)
    read_while_churning(BpftoolReader(shutil.which("bpftool"), timeout=1), made, times=20, keys=8)


@pytest.mark.parametrize("name", ["libbpf", "bcc"])
def test_no_entry_is_read_half_in_a_batch_even_while_it_comes_and_goes(name, make_map, bpf_mount):
    reader = reader_called(name)
    made = make_map("cali_counters6", PERCPU_HASH, 8, 8 * SLOTS, max_entries=1000)
    with churning(made, keys=400, slots=SLOTS):
        for _ in range(100):
            content = content_of(reader.read(str(made.pin)))
            numbers = [int.from_bytes(key, sys.byteorder) for key in content]
            assert all(number >= FIRST_CHURNING for number in numbers)
            assert [(value_of(number, SLOTS),) * cpus() for number in numbers] == list(content.values())


@pytest.mark.parametrize("sum_cpus", [True, False])
@pytest.mark.parametrize("name", ["libbpf", "bcc"])
def test_a_map_whose_tail_is_deleted_between_two_batches_is_read(name, make_map, monkeypatch, sum_cpus):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216, max_entries=1000)
    made.fill(stable_content(300))
    reader = reader_called(name)
    monkeypatch.setattr(walk, "_BATCH_BYTES", 1)
    batches = []

    def deletes_the_rest(descriptor, start, cursor, keys, values, count):
        try:
            return reader._calls.lookup_batch(descriptor, start, cursor, keys, values, count)
        finally:
            batches.append(count._obj.value)
            for key in stable_content(300) if len(batches) == 1 else ():
                made.delete(key)

    racing = LibraryReader(name, replace(reader._calls, lookup_batch=deletes_the_rest))
    dump = racing.read(str(made.pin), sum_cpus=sum_cpus)
    assert batches[-1] == 0 < batches[0] == dump.count
    assert batches[0] * (1 if sum_cpus else cpus()) * 216 == len(dump.values)


@pytest.mark.parametrize("name", ["libbpf", "bcc"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_batch_too_small_for_a_bucket_grows_and_loses_nothing(name, make_map, monkeypatch, batch):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216, max_entries=5000)
    written = stable_content(4500)
    made.fill(written)
    reader = reader_called(name)
    monkeypatch.setattr(walk, "_BATCH_BYTES", batch)
    monkeypatch.setattr(walk, "_MIN_BATCH", batch)
    refused = []

    def counted(*arguments: object) -> int:
        try:
            return reader._calls.lookup_batch(*arguments)
        except OSError as error:
            refused.append(error.errno)
            raise

    watched = LibraryReader(name, replace(reader._calls, lookup_batch=counted))
    assert written == content_of(watched.read(str(made.pin)))
    assert {errno.ENOSPC, errno.ENOENT} == set(refused)
    assert errno.ENOENT == refused[-1]


def test_an_interruption_by_the_kernel_in_the_middle_is_an_error_and_no_half_map(make_map, bpf_mount):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216, max_entries=5000)
    made.fill(stable_content(4500))
    reader = reader_called("libbpf")
    calls = []

    def fails_later(*arguments: object) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOMEM, "ENOMEM")
        return reader._calls.lookup_batch(*arguments)

    broken = LibraryReader("libbpf", replace(reader._calls, lookup_batch=fails_later))
    with pytest.raises(MapError, match=os.strerror(errno.ENOMEM)):
        broken.read(str(made.pin))
    assert len(calls) == 2


def test_no_descriptor_is_left_open_by_reads_or_refusals(way, make_map, bpf_fs, pins, counting, tmp_path):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    made.fill(stable_content(20))
    load_programs(counting, bpf_fs / "loaded", made.pin)
    file = tmp_path / "file"
    file.touch()
    subjects = [made.pin, pins / "missing", file, pins, bpf_fs / "loaded/from_pod"]
    way.read(str(made.pin))
    before = open_descriptors()
    for _ in range(40 if way.name != "bpftool" else 4):
        for subject in subjects:
            with suppress(MapError):
                way.read(str(subject))
    way.programs(range(100))
    assert before == open_descriptors()


def test_no_descriptor_is_left_open_when_the_kernel_fails_in_the_middle(make_map, bpf_mount):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    reader = reader_called("libbpf")

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "EIO")

    for broken in ("lookup_batch", "object_info"):
        sick = LibraryReader("libbpf", replace(reader._calls, **{broken: fails}))
        before = open_descriptors()
        for _ in range(100):
            with pytest.raises(MapError):
                sick.read(str(made.pin))
        assert before == open_descriptors()
