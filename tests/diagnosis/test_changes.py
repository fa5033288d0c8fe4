# What was counted between two snapshots: never negative, and additions, removals and resets are reported.
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapError
from exporter.diagnosis.changes import APPEARED, VANISHED, compare_counters, compare_rules
from exporter.diagnosis.counters import PARTS
from tests.recorded import PAIRS, law_of_pairs

MOVED = re.compile(r"ifindex=(?P<ifindex>\d+) hook=(?P<hook>\d):(?P<slots>(?: slot\d+[+-]\d+)+)")
RULE = re.compile(r"rule 0x\w+ (?P<id>\d+): (?P<by>[+-]\d+)")
WORKLOAD, HOST = 0x7, 0xE


@pytest.fixture(scope="session")
def snapshot_of(make):
    """A snapshot of a node with these interfaces {ifindex: name} and counters {(ifindex, hook): {slot: value}}."""

    def at(names, rows, slots=27):
        states = {ifindex: (name, WORKLOAD if name.startswith("cali") else HOST) for ifindex, name in names.items()}
        maps = [make.counters("cali_counters6", 60, rows, slots), make.ifstate("cali_iface4", 40, states)]
        return make.snapshot(make.node(maps, links=[make.link(*one) for one in names.items()]), parts=PARTS)

    return at


def told(changes):
    """What is told of each endpoint: {(ifindex, name): (fate, hooks that were reset)}, without what has nothing."""
    found = {(one.endpoint.ifindex, one.endpoint.interface): (one.fate, sorted(one.reset)) for one in changes}
    return {key: value for key, value in found.items() if any(value)}


def moved(changes):
    """{(name, hook, slot): count} of what is not zero."""
    rows = [(one.endpoint.interface, hook, row) for one in changes for hook, row in one.counters.hooks.items()]
    return {(name, hook, slot): count for name, hook, row in rows for slot, count in enumerate(row) if count}


CALIS = {5: "cali5", 7: "cali7"}


def test_what_was_counted_is_the_difference(snapshot_of):
    before, after = {(5, 0): {0: 7, 4: 2}, (7, 1): {0: 1}}, {(5, 0): {0: 9, 4: 3}, (7, 1): {0: 1}, (7, 0): {2: 4}}
    changes = compare_counters(snapshot_of(CALIS, before), snapshot_of(CALIS, after))
    assert {("cali5", 0, 0): 2, ("cali5", 0, 4): 1, ("cali7", 0, 2): 4} == moved(changes)
    assert {} == told(changes)
    assert [True, True] == [one.counted for one in changes]


def test_a_hook_whose_counters_fell_shows_all_since_and_the_other_its_difference(snapshot_of):
    before, after = {(5, 0): {0: 100, 2: 3}, (5, 1): {0: 5}}, {(5, 0): {0: 99, 2: 4}, (5, 1): {0: 6}}
    changes = compare_counters(snapshot_of(CALIS, before), snapshot_of(CALIS, after))
    assert {("cali5", 0, 0): 99, ("cali5", 0, 2): 4, ("cali5", 1, 0): 1} == moved(changes)
    assert {(5, "cali5"): ("", [0])} == told(changes)


def test_a_hook_whose_entry_is_gone_is_told_and_counts_nothing(snapshot_of):
    changes = compare_counters(
        snapshot_of(CALIS, {(5, 0): {0: 9}, (5, 1): {0: 9}}), snapshot_of(CALIS, {(5, 1): {0: 9}})
    )
    assert ({}, {(0,)}) == (moved(changes), {one.lost for one in changes if one.endpoint.ifindex == 5})


def test_one_that_came_shows_all_it_has_and_one_that_went_nothing(snapshot_of):
    changes = compare_counters(snapshot_of({5: "cali5"}, {(5, 0): {4: 9}}), snapshot_of({7: "cali7"}, {(7, 1): {4: 3}}))
    assert {("cali7", 1, 4): 3} == moved(changes)
    assert {(5, "cali5"): (VANISHED, []), (7, "cali7"): (APPEARED, [])} == told(changes)


def test_an_index_that_another_interface_has_by_now_is_not_compared(snapshot_of):
    changes = compare_counters(
        snapshot_of({5: "cali5"}, {(5, 0): {4: 9}}), snapshot_of({5: "cali6"}, {(5, 0): {4: 10}})
    )
    assert {("cali6", 0, 4): 10} == moved(changes)
    assert {(5, "cali5"): (VANISHED, []), (5, "cali6"): (APPEARED, [])} == told(changes)


@pytest.mark.parametrize(("before", "after"), [(27, 25), (14, 17), (25, 27)])
def test_maps_of_two_layouts_are_a_sentence(snapshot_of, before, after):
    with pytest.raises(MapError, match="another layout between the two snapshots: try again"):
        compare_counters(snapshot_of(CALIS, {(5, 0): {}}, before), snapshot_of(CALIS, {(5, 0): {}}, after))


def test_who_dropped_most_in_between_comes_first_whatever_was_dropped_before(snapshot_of):
    before = {(5, 0): {4: 1000}, (7, 0): {4: 1}}
    after = {(5, 0): {4: 1001}, (7, 0): {4: 1, 5: 2}, (3, 0): {0: 50}}
    changes = compare_counters(snapshot_of({3: "eth0", **CALIS}, before), snapshot_of({3: "eth0", **CALIS}, after))
    assert ["cali7", "cali5", "eth0"] == [one.endpoint.interface for one in changes]


# Any two snapshots.

NAMES = st.dictionaries(st.sampled_from([3, 5, 7]), st.sampled_from(["cali1", "cali2", "eth0"])).filter(
    lambda names: len(names) == len(set(names.values()))
)
VALUES = st.integers(0, 3) | st.integers(0, 1 << 62)
ROWS = st.dictionaries(
    st.tuples(st.sampled_from([3, 5, 7, 9]), st.integers(0, 3)),
    st.dictionaries(st.sampled_from([0, 2, 4, 5, 24]), VALUES),
    max_size=6,
)


def full(rows, ifindex):
    """The slots of each hook of an interface."""
    return {hook: [row.get(slot, 0) for slot in range(27)] for (index, hook), row in rows.items() if index == ifindex}


@given(NAMES, ROWS, NAMES, ROWS)
def test_nothing_is_negative_nothing_is_lost_and_nothing_is_told_twice(
    snapshot_of, names, rows, later_names, later_rows
):
    before, after = snapshot_of(names, rows), snapshot_of(later_names, later_rows)
    changes = compare_counters(before, after)
    keys = [(one.endpoint.ifindex, one.endpoint.interface) for one in changes]

    def identities(names, rows):
        # Without any link nothing tells that an index is gone.
        unnamed = set() if names else {(ifindex, f"ifindex:{ifindex}") for ifindex, _ in rows}
        return names.items() | unnamed

    assert len(keys) == len(set(keys))
    assert identities(names, rows) | identities(later_names, later_rows) == set(keys)
    for key, change in zip(keys, changes, strict=True):
        then = full(rows, key[0]) if key in identities(names, rows) else None
        now = full(later_rows, key[0]) if key in identities(later_names, later_rows) else None
        if then is None or now is None:
            assert (APPEARED if then is None else VANISHED, ()) == (change.fate, change.reset)
            assert {hook: tuple(row) for hook, row in (now or {}).items()} == change.counters.hooks
            continue
        lost = then.keys() - now.keys()
        fell = {hook for hook in then.keys() & now.keys() if any(map(int.__gt__, then[hook], now[hook]))}
        assert ("", fell, lost) == (change.fate, set(change.reset), set(change.lost))
        for hook, row in now.items():
            start = [0] * 27 if hook in fell else then.get(hook, [0] * 27)
            assert tuple(value - was for value, was in zip(row, start, strict=True)) == change.counters.hooks[hook]
            assert min(change.counters.hooks[hook]) >= 0
    packets = [sum(one.counters.dropped(after.counters.get().layout).values()) for one in changes]
    assert sorted(packets, reverse=True) == packets


@given(NAMES, ROWS)
def test_between_a_snapshot_and_itself_nothing_happened(snapshot_of, names, rows):
    changes = compare_counters(snapshot_of(names, rows), snapshot_of(names, rows))
    assert ({}, {}) == (moved(changes), told(changes))


HITS = st.dictionaries(st.integers(0, 5) | st.integers(0, (1 << 64) - 1), VALUES, max_size=6)


@given(HITS, HITS)
def test_hits_of_a_rule_are_the_difference_or_where_it_fell_those_since(before, after):
    expected = {number: now - before.get(number, 0) for number, now in after.items()}
    expected = {number: more if more >= 0 else after[number] for number, more in expected.items()}
    assert {number: more for number, more in expected.items() if more} == compare_rules(before, after)


# What a recorded node counted between two snapshots.


@law_of_pairs(PAIRS)
def what_was_counted_is_what_was_seen_to_move(pair):
    changes = compare_counters(pair.before.snapshot, pair.after.snapshot)
    rows = {(one.endpoint.ifindex, hook): row for one in changes for hook, row in one.counters.hooks.items()}
    seen, fell = {}, set()
    for match in MOVED.finditer(pair.diff):
        key = int(match["ifindex"]), int(match["hook"])
        slots = {int(slot): int(by) for slot, by in re.findall(r"slot(\d+)([+-]\d+)", match["slots"])}
        fell |= {key} if min(slots.values()) < 0 else set()
        seen[key] = slots
    assert {(one.endpoint.ifindex, hook) for one in changes for hook in one.reset} == fell
    counted = {key: {slot: count for slot, count in enumerate(row) if count} for key, row in rows.items() if any(row)}
    assert {key: one for key, one in seen.items() if key not in fell} == {
        key: one for key, one in counted.items() if key not in fell
    }
    assert all(min(row) >= 0 for row in rows.values())


@law_of_pairs(PAIRS)
def the_hits_of_rules_are_what_was_seen_to_move(pair):
    before, after = pair.before.snapshot.rule_hits.get(), pair.after.snapshot.rule_hits.get()
    seen = {int(one["id"]): int(one["by"]) for one in RULE.finditer(pair.diff)}
    since = {number: by if by > 0 else after[number] for number, by in seen.items()}
    assert since == compare_rules(before, after)
