from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.snapshot.live_map import (
    Candidate,
    LiveMapMemory,
    choose_by_keys,
    choose_by_movement,
    fingerprint,
    newest_user,
    ranked_by_names,
)


def three_versions(make):
    dumps = [make.counters(f"cali_counters{one}", one * 100, {(3, 0): {0: 7}, (3, 1): {0: 9}}) for one in (1, 2, 3)]
    return {Candidate(dump.info.name, dump.info): dump for dump in dumps}


@pytest.fixture(scope="session")
def maps(make):
    """Three versions of the counter map, ids 100, 200 and 300, as dumps by candidate."""
    return three_versions(make)


class Snapshots:
    """Consecutive snapshots of some maps, before each of which some of them may change."""

    def __init__(self, make, maps):
        self.moved, self.maps, self.memory, self.read = make.moved, dict(maps), LiveMapMemory(), []

    def take(self, *movers):
        self.maps.update({one: self.moved(self.maps[one]) for one in movers})
        return choose_by_movement(list(self.maps), self._dump, self.memory)

    def _dump(self, candidate):
        self.read.append(candidate)
        return self.maps[candidate]


@pytest.fixture
def snapshots(make, maps):
    return Snapshots(make, maps)


def test_a_first_snapshot_proves_nothing(snapshots):
    assert snapshots.take() is None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_one_that_moved_since_the_last_snapshot_is_alive(snapshots, maps, number):
    mover = list(maps)[number]
    snapshots.take()
    assert mover == snapshots.take(mover)


def test_without_movement_nothing_is_proven(snapshots):
    assert [None] * 3 == [snapshots.take() for _ in range(3)]


def test_the_proven_one_stays_while_nothing_moves(snapshots, maps):
    _, second, _ = maps
    snapshots.take()
    snapshots.take(second)
    assert [second] * 3 == [snapshots.take() for _ in range(3)]


def test_of_several_that_move_none_is_proven(snapshots, maps):
    first, second, third = maps
    snapshots.take()
    assert snapshots.take(first, third) is None
    assert snapshots.take(first, second, third) is None
    assert third == snapshots.take(third)


def test_while_the_proven_one_moves_another_mover_changes_nothing(snapshots, maps):
    first, second, _ = maps
    snapshots.take()
    snapshots.take(second)
    assert second == snapshots.take(first, second)


def test_while_the_proven_one_moves_the_others_are_not_read(snapshots, maps):
    _, second, _ = maps
    snapshots.take()
    snapshots.take(second)
    snapshots.read.clear()
    snapshots.take(second)
    assert [second] == snapshots.read


def test_after_a_downgrade_the_one_that_moves_now_takes_over(snapshots, maps):
    _, second, third = maps
    snapshots.take()
    assert third == snapshots.take(third)
    assert third == snapshots.take()
    assert second == snapshots.take(second)
    assert second == snapshots.take()
    assert third == snapshots.take(third)


def test_two_others_moving_while_the_proven_one_rests_take_its_proof_away(snapshots, maps):
    first, second, third = maps
    snapshots.take()
    snapshots.take(third)
    assert snapshots.take(first, second) is None
    assert snapshots.take() is None
    assert third == snapshots.take(third)


def test_a_map_recreated_under_its_name_starts_without_history(make, snapshots, maps):
    first, second, third = maps
    snapshots.take()
    snapshots.take(second)
    again = make.counters("cali_counters2", 999, {(3, 0): {0: 0}, (3, 1): {0: 0}})
    del snapshots.maps[second]
    snapshots.maps[Candidate("cali_counters2", again.info)] = again
    assert snapshots.take() is None
    assert {first.info.id, third.info.id, 999} == snapshots.memory.fingerprints.keys()
    assert Candidate("cali_counters2", again.info) == snapshots.take(Candidate("cali_counters2", again.info))


def test_a_map_that_is_unpinned_is_forgotten(snapshots, maps):
    first, second, third = maps
    snapshots.take()
    snapshots.take(second)
    del snapshots.maps[second]
    snapshots.take()
    assert {first.info.id, third.info.id} == snapshots.memory.fingerprints.keys()
    assert snapshots.memory.proven is None


def test_one_that_moved_before_the_last_snapshot_and_not_since_is_not_alive(snapshots, maps):
    first, second, _ = maps
    snapshots.take()
    snapshots.take(first)
    assert first == snapshots.take(first, second)
    assert first == snapshots.take()


@given(st.lists(st.sets(st.integers(0, 2)), max_size=8))
def test_the_choice_changes_only_to_the_one_that_alone_moved_since_the_last_snapshot(make, moves):
    snapshots = Snapshots(make, three_versions(make))
    candidates = list(snapshots.maps)
    previous = snapshots.take()
    for moved in ({candidates[number] for number in numbers} for numbers in moves):
        chosen = snapshots.take(*moved)
        assert chosen in (previous, None) or {chosen} == moved
        assert previous is None or previous not in moved or chosen == previous
        previous = chosen


@pytest.mark.parametrize(
    "change",
    [
        lambda make, dump: make.moved(dump),
        lambda make, dump: make.moved(dump, 1 << 40),
        lambda make, dump: make.counters(dump.info.name, dump.info.id, {(3, 0): {0: 7}}),
        lambda make, dump: make.counters(dump.info.name, dump.info.id, {(3, 0): {0: 7}, (4, 1): {0: 9}}),
        lambda make, dump: make.counters(dump.info.name, dump.info.id, {(3, 0): {0: 7}, (3, 1): {0: 9, 26: 1}}),
    ],
)
def test_a_fingerprint_tells_any_change(make, maps, change):
    dump = next(iter(maps.values()))
    assert fingerprint(dump) != fingerprint(change(make, dump))


@given(order=st.permutations(range(4)))
def test_a_fingerprint_is_the_same_in_any_order_of_the_entries(make, order):
    keys = [(3, 0), (3, 1), (400, 0), (400, 1)]
    dump = make.counters("cali_counters2", 1, {key: {0: 9 * key[0] + key[1]} for key in keys})
    entries = list(dump.entries())
    keys, values = zip(*(entries[number] for number in order), strict=True)
    other = replace(dump, keys=b"".join(keys), values=b"".join(values))
    assert fingerprint(dump) == fingerprint(other)


def test_a_fingerprint_is_of_the_content_alone(make):
    rows = {(3, 0): {0: 7}}
    one, other = make.counters("cali_counters2", 1, rows), make.counters("cali_counters3", 2, rows)
    assert fingerprint(one) == fingerprint(other)


def test_the_candidate_of_the_newest_program_is_alive(make, maps):
    first, second, _ = maps
    programs = [make.program(1, 500, 100, 7), make.program(2, 900, 200, 7), make.program(3, 700, 300, 7)]
    assert second == newest_user(list(maps), programs)
    assert first == newest_user(list(maps), programs[:1])


def test_of_programs_loaded_at_one_time_the_higher_id_is_newer(make, maps):
    first, second, _ = maps
    older, newer = make.program(11, 500, 100), make.program(12, 500, 200)
    assert second == newest_user(list(maps), [older, newer]) == newest_user(list(maps), [newer, older])
    assert first == newest_user(list(maps), [older])


def test_a_newer_program_that_uses_no_counter_map_is_no_evidence(make, maps):
    first, *_ = maps
    assert first == newest_user(list(maps), [make.program(1, 500, 100), make.program(2, 900, 42)])


def test_without_programs_or_users_programs_tell_nothing(make, maps):
    assert newest_user(list(maps), []) is None
    assert newest_user(list(maps), [make.program(1, 500), make.program(2, 501, 42)]) is None


def test_a_newest_program_that_uses_two_versions_tells_nothing(make, maps):
    assert newest_user(list(maps), [make.program(1, 900, 100, 200), make.program(2, 500, 100)]) is None


@pytest.mark.parametrize(
    ("indexes", "existing", "expected"),
    [
        ([{5, 7}, {15, 17}, set()], [15, 17, 19], 1),
        ([{5}, {15}, {25}], [25], 2),
        ([{5, 15}, {15}, set()], [15], None),
        ([{5}, {7}, {9}], [15], None),
        ([set(), set(), set()], [15], None),
        ([{5}, {15}, set()], [], None),
    ],
)
def test_the_only_one_with_an_entry_of_an_existing_interface_is_alive(maps, indexes, existing, expected):
    candidates = list(maps)
    found = choose_by_keys(candidates, lambda one: indexes[candidates.index(one)], existing)
    assert (None if expected is None else candidates[expected]) == found


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([{3: "eth0", 5: "cali1"}, {3: "eth0"}, {}], 0),
        ([{3: "eth0"}, {3: "eth0", 5: "cali1"}, {5: "other"}], 1),
        ([{3: "eth0"}, {3: "eth0"}, {}], 1),
        ([{}, {}, {}], 2),
        ([{5: "eth0"}, {3: "cali1"}, {9: "x"}], 2),
    ],
)
def test_the_one_whose_names_agree_best_with_the_kernels_ranks_first_and_of_equals_the_last(maps, names, expected):
    candidates = list(maps)
    found = ranked_by_names(candidates, lambda one: names[candidates.index(one)], {3: "eth0", 5: "cali1"})
    assert candidates[expected] == found
