"""Loaded programs and the maps they use: the best evidence for which of several pinned maps is alive."""

import time

import pytest

from exporter.bpf.maps import MapError
from exporter.calico.hooks import TC_EGRESS, TC_INGRESS
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.snapshot import Snapshot
from exporter.snapshot.source import LiveNode
from tests import installed
from tests.kernel.machine import ROOT, bpftool, load_programs, run
from tests.kernel.pinned import HASH, PERCPU_HASH, PROG_ARRAY, on_each_cpu, put_program, u32

pytestmark = pytest.mark.kernel

UNUSED = 2**31 - 1


@pytest.fixture
def loaded(make_map, bpf_fs, counting):
    """Two programs, pinned in the folder `loaded`, which use the map pinned as cali_counters6."""
    made = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    load_programs(counting, bpf_fs / "loaded", made.pin)
    return made


def id_of(pin) -> int:
    return bpftool("prog", "show", "pinned", pin)["id"]


def test_a_program_names_the_maps_it_uses(reader, loaded, bpf_fs):
    number = id_of(bpf_fs / "loaded/from_pod")
    (program,) = reader.programs([number])
    assert (number, True) == (program.id, reader.info(str(loaded.pin)).id in program.map_ids)


def test_a_program_has_the_kernels_tag(reader, loaded, bpf_fs):
    shown = bpftool("prog", "show", "pinned", bpf_fs / "loaded/from_pod")
    (program,) = reader.programs([shown["id"]])
    assert shown["tag"] == program.tag


def test_programs_that_are_gone_are_left_out(reader, loaded, bpf_fs):
    numbers = [id_of(bpf_fs / "loaded" / name) for name in ("from_pod", "to_pod")]
    assert numbers == sorted(program.id for program in reader.programs([UNUSED, *numbers]))


def test_no_programs_are_asked_for_nothing(reader):
    assert [] == reader.programs([])


def test_all_readers_tell_the_same_of_a_program(readers, loaded, bpf_fs):
    number = id_of(bpf_fs / "loaded/from_pod")
    found = [reader.programs([number])[0] for reader in readers]
    assert [set(found[0].map_ids)] * 3 == [set(program.map_ids) for program in found]


def test_a_program_loaded_later_has_a_later_load_time(reader, loaded, bpf_fs, counting):
    if reader.name == "bpftool":
        time.sleep(1.1)  # it tells whole seconds
    load_programs(counting, bpf_fs / "later", loaded.pin)
    first, second = (id_of(bpf_fs / folder / "from_pod") for folder in ("loaded", "later"))
    times = {program.id: program.load_time for program in reader.programs([first, second])}
    assert times[first] < times[second]


def snapshot_of(reader, bpf_fs, run_dir, memory: Memory | None = None) -> Snapshot:
    return take_snapshot(LiveNode(reader, bpf_fs, run_dir), Settings(), memory or Memory(), {"counters"})


@pytest.fixture
def downgraded(make_map, bpf_fs, counting):
    """A node after a downgrade: version 6 lies dead under its old programs, the newest programs use version 5."""
    dead = make_map("cali_counters6", PERCPU_HASH, 8, 8 * 27, max_entries=20000)
    load_programs(counting, bpf_fs / "newer_release", dead.pin)
    arrays = [make_map(name, PROG_ARRAY, 4, 4, max_entries=500) for name in ("cali_progs_ing3", "cali_progs_ing2")]
    put_program(arrays[0], 0, bpf_fs / "newer_release/from_pod")
    live = make_map("cali_counters5", PERCPU_HASH, 8, 8 * 25, max_entries=20000)
    load_programs(counting, bpf_fs / "older_release", live.pin)
    put_program(arrays[1], 0, bpf_fs / "older_release/from_pod")
    for made, slots in ((dead, 27), (live, 25)):
        made.put(u32(1, TC_INGRESS), *on_each_cpu(slots, {0: 10, 4: slots}))
    return live, dead


def test_the_map_of_the_newest_programs_is_the_live_one(reader, downgraded, bpf_fs, tmp_path):
    # All were loaded within a second, and bpftool tells load times in whole ones.
    snapshot = snapshot_of(reader, bpf_fs, tmp_path)
    versions = snapshot.counter_map.get()
    assert ("cali_counters5", "programs") == (versions.choice.live.name, versions.choice.chosen_by)
    assert ("cali_counters6",) == versions.stale
    assert [25] == [row[4] for row in snapshot.counters.get().rows.values()]


def test_a_single_map_needs_no_evidence(reader, loaded, bpf_fs, tmp_path):
    choice = snapshot_of(reader, bpf_fs, tmp_path).counter_map.get().choice
    assert ("cali_counters6", "only") == (choice.live.name, choice.chosen_by)


def test_without_programs_the_map_that_moves_is_the_live_one(reader, make_map, bpf_fs, tmp_path):
    elsewhere = 2**30
    made = [make_map(f"cali_counters{version}", PERCPU_HASH, 8, 8 * slots) for version, slots in ((5, 25), (6, 27))]
    for one, slots in zip(made, (25, 27), strict=True):
        one.put(u32(elsewhere, TC_EGRESS), *on_each_cpu(slots, {0: 10}))
    memory = Memory()
    before = snapshot_of(reader, bpf_fs, tmp_path, memory)
    assert "undecided" == before.counter_map.get().choice.chosen_by
    with pytest.raises(MapError, match="undecided which of cali_counters5, cali_counters6"):
        before.counters.get()
    made[0].put(u32(elsewhere, TC_EGRESS), *on_each_cpu(25, {0: 11}))
    after = snapshot_of(reader, bpf_fs, tmp_path, memory).counter_map.get()
    assert ("cali_counters5", "movement") == (after.choice.live.name, after.choice.chosen_by)


def test_a_program_array_that_cannot_be_read_leaves_the_other_evidence(reader, make_map, bpf_fs, tmp_path):
    # 1 is the loopback interface, in whatever namespace this runs.
    for version, slots, ifindex in ((5, 25, 1), (6, 27, 2**30)):
        made = make_map(f"cali_counters{version}", PERCPU_HASH, 8, 8 * slots)
        made.put(u32(ifindex, TC_EGRESS), *on_each_cpu(slots, {0: 10}))
    make_map("cali_progs_ing2", HASH, 4, 8).put(u32(0), bytes(8))  # no program array at all
    choice = snapshot_of(reader, bpf_fs, tmp_path).counter_map.get().choice
    assert ("cali_counters5", "keys") == (choice.live.name, choice.chosen_by)


# Drops the right to ask for programs, keeps the right to read pins.
_LESS = "--drop=cap_sys_admin,cap_bpf,cap_perfmon"


def test_without_the_right_to_ask_for_programs_the_live_map_is_undecided_and_not_guessed(downgraded, bpf_fs, tmp_path):
    words = [installed.program(), "scrape", "--bpf.fs", bpf_fs, "--calico.run-dir", tmp_path]
    asked = run(*words, cwd=ROOT, check=False).stdout
    assert 'pin="cali_counters5"' in asked
    assert 'chosen_by="programs"' in asked
    command = " ".join(map(str, words))
    refused = run("capsh", _LESS, "--", "-c", command, cwd=ROOT, check=False).stdout
    assert 'chosen_by="programs"' not in refused
    assert 'chosen_by="undecided"' in refused
