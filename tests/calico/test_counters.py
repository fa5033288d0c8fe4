import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDump, MapInfo, sum_over_cpus
from exporter.calico import LayoutError
from exporter.calico.counters import (
    RELEASED_COUNTS,
    SLOTS,
    CounterTable,
    Slot,
    decode_counters,
    layout_of,
    slot_count,
)
from exporter.calico.tables import Columns
from exporter.snapshot.pinned_maps import columns_of

# Category and reason of each slot, written down a second time: slots are public, so a change here is a false number.
MEANINGS = [
    ("total", ""),
    ("accepted", "failsafe"),
    ("accepted", "policy"),
    ("accepted", "another_program"),
    ("dropped", "policy"),
    ("dropped", "too_short"),
    ("dropped", "checksum"),
    ("dropped", "ip_options"),
    ("dropped", "malformed_ip"),
    ("dropped", "encap_failed"),
    ("dropped", "decap_failed"),
    ("dropped", "unknown_source"),
    ("dropped", "unknown_route"),
    ("dropped", "blackhole_route"),
    ("nat_collision", ""),
    ("dropped", "nat_collision_unresolved"),
    ("dropped", "conntrack_create_failed"),
    ("redirected", "plain"),
    ("redirected", "neigh"),
    ("redirected", "peer"),
    ("dropped", "fragment_incomplete"),
    ("dropped", "fragment_out_of_order"),
    ("dropped", "fragment_unsupported"),
    ("dropped", "qos_limit"),
    ("unknown", "24"),
    ("dropped", "maglev_no_backend"),
    ("dropped", "host_ip_unknown"),
]


def meanings(layout):
    return [(slot.category, slot.reason) for slot in layout.slots]


def unknown(*numbers):
    return [("unknown", str(number)) for number in numbers]


def columns(*entries):
    """The columns of entries (ifindex, hook, one list of slots for each CPU), as a snapshot hands them over."""
    keys = b"".join(struct.pack("<II", ifindex, hook) for ifindex, hook, *_ in entries)
    cpus = [[struct.pack(f"<{len(slots)}Q", *slots) for slots in copies] for _, _, *copies in entries]
    values = b"".join(b"".join(copies) for copies in cpus)
    return summed(keys, values, len(cpus[0]), len(cpus[0][0]))


def summed(keys, values, copies, size):
    dump = MapDump(MapInfo("/pin", 1, "cali_counters6", "percpu_hash", 8, size, 20000, 0), keys, values, copies)
    return columns_of(sum_over_cpus(dump))


@pytest.mark.parametrize("count", [14, 17, 25, 26, 27])
def test_a_released_count_has_the_meanings_of_its_first_slots(count):
    layout = layout_of(count)
    assert MEANINGS[:count] == meanings(layout)
    assert "builtin" == layout.source


@pytest.mark.parametrize("count", [5, 12, 13, 15, 16, 18, 22, 24])
def test_of_a_smaller_count_that_was_never_released_only_slots_0_to_12_are_certain(count):
    layout = layout_of(count)
    assert MEANINGS[: min(count, 13)] + unknown(*range(13, count)) == meanings(layout)
    assert "partial" == layout.source


# Two development trees had 23 slots and disagreed on the last; no release had them.
def test_of_23_slots_all_but_the_last_are_certain():
    layout = layout_of(23)
    assert [*MEANINGS[:22], ("unknown", "22")] == meanings(layout)
    assert "partial" == layout.source


@pytest.mark.parametrize("count", [28, 40])
def test_more_slots_than_any_release_keep_the_27_known_ones_and_number_the_rest(count):
    layout = layout_of(count)
    assert MEANINGS + unknown(*range(27, count)) == meanings(layout)
    assert "partial" == layout.source


def test_slot_24_is_unknown_wherever_it_is_there():
    assert {("unknown", "24")} == {meanings(layout_of(count))[24] for count in range(25, 60)}


@given(st.integers(1, 1024))
def test_every_layout_numbers_its_slots_in_order_and_names_none_twice(count):
    layout = layout_of(count)
    assert list(range(count)) == [slot.number for slot in layout.slots]
    assert count == len(set(meanings(layout)))


@given(st.integers(1, 1024))
def test_a_slot_of_a_known_index_never_changes_its_meaning_between_layouts(count):
    for seen, known in zip(layout_of(count).slots, SLOTS, strict=False):
        assert seen == known or seen.category == "unknown"


def test_names_from_a_layout_file_replace_slots_and_are_told_as_such():
    named = {14: Slot(14, "accepted", "egress_gateway", "egress gateway")}
    layout = layout_of(15, named)
    assert [*MEANINGS[:13], ("unknown", "13"), ("accepted", "egress_gateway")] == meanings(layout)
    assert "file" == layout.source


@pytest.mark.parametrize(("count", "by_felix"), [(14, False), (17, False), (23, False), (25, True), (27, True)])
def test_entries_are_made_by_felix_from_25_slots_on(count, by_felix):
    assert by_felix == layout_of(count).entries_made_by_felix


def test_policy_and_failsafe_count_flows_at_tc_hooks_and_nothing_else_does_anywhere():
    counting = {
        (slot.number, hook) for slot in (*SLOTS, *layout_of(40).slots) for hook in range(9) if slot.counts_flows(hook)
    }
    assert {(number, hook) for number in (1, 2) for hook in (0, 1)} == counting


@pytest.mark.parametrize(("category", "flows"), [("accepted", True), ("dropped", False), ("redirected", False)])
def test_a_slot_that_a_layout_file_names_counts_flows_like_one_of_that_name(category, flows):
    slot = Slot(14, category, "policy", "by policy")
    assert [flows, flows, False] == [slot.counts_flows(hook) for hook in range(3)]


@pytest.mark.parametrize("count", RELEASED_COUNTS)
def test_the_slot_count_is_the_value_size_in_words(count):
    assert count == slot_count(8, count * 8)


@pytest.mark.parametrize("key_size", [0, 1, 4, 7, 9, 12, 16])
def test_a_key_that_is_not_index_and_hook_is_a_layout_error(key_size):
    with pytest.raises(LayoutError, match=f"keys of {key_size} bytes, expected 8"):
        slot_count(key_size, 216)


@pytest.mark.parametrize("value_size", [0, 1, 7, 9, 12, 100, 215])
def test_a_value_that_is_not_whole_words_is_a_layout_error(value_size):
    with pytest.raises(LayoutError, match=f"values of {value_size} bytes"):
        slot_count(8, value_size)


def test_two_recorded_entries_decode_to_their_numbers():
    # calibf331a988cf of v3.32.1 after ten denied packets, all seen by the first of two CPUs
    keys = bytes.fromhex("05000000000000000500000001000000")
    denied = bytes.fromhex("0b" + "00" * 31 + "0a" + "00" * 183)
    values = denied + bytes(216 * 3)
    table = decode_counters(summed(keys, values, 2, 216), layout_of(27))
    assert {(5, 0): (11, 0, 0, 0, 10, *[0] * 22), (5, 1): (0,) * 27} == table.rows
    assert layout_of(27) == table.layout


def test_a_count_above_32_bits_on_one_cpu_is_kept_whole():
    given = columns((7, 1, [(1 << 32) + 7, *[0] * 13], [3, *[0] * 13]))
    assert (1 << 32) + 10 == decode_counters(given, layout_of(14)).rows[7, 1][0]


def test_a_sum_over_cpus_crosses_32_bits():
    given = columns((7, 1, [0xFFFFFFFF] * 14, [0xFFFFFFFF] * 14, [2] * 14))
    assert {(7, 1): (2 * 0xFFFFFFFF + 2,) * 14} == decode_counters(given, layout_of(14)).rows


def test_the_largest_sum_is_64_bits():
    given = columns((1, 2, [(1 << 63) - 1] * 14, [1 << 63] * 14))
    assert {(1, 2): ((1 << 64) - 1,) * 14} == decode_counters(given, layout_of(14)).rows


def test_an_empty_map_is_an_empty_table():
    table = decode_counters(summed(b"", b"", 2, 216), layout_of(27))
    assert (layout_of(27), {}) == (table.layout, table.rows)


def test_a_map_with_another_slot_count_than_its_layout_is_a_layout_error():
    with pytest.raises(LayoutError, match="17 slots where 27 were expected"):
        decode_counters(columns((3, 0, [1] * 17)), layout_of(27))


WORD = st.integers(0, (1 << 64) - 1)


@st.composite
def entries(draw):
    count, cpus = draw(st.sampled_from([1, 5, 14, 15, 17, 27, 28])), draw(st.integers(1, 4))
    key = st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 3))
    copies = st.lists(st.lists(WORD, min_size=count, max_size=count), min_size=cpus, max_size=cpus)
    return count, [(*one, *draw(copies)) for one in draw(st.lists(key, min_size=1, max_size=3, unique=True))]


@given(entries())
def test_decoding_gives_back_what_was_packed_summed_over_cpus(packed):
    count, rows = packed
    table = decode_counters(columns(*rows), layout_of(count))
    sums = [tuple(sum(copies) % (1 << 64) for copies in zip(*row[2:], strict=True)) for row in rows]
    assert list(zip([row[:2] for row in rows], sums, strict=True)) == list(table.rows.items())


@st.composite
def any_columns(draw):
    count = draw(st.integers(0, 4))
    key_size = draw(st.integers(0, 16) | st.just(8))
    value_size = draw(st.integers(0, 350) | st.sampled_from([112, 136, 200, 216, 224]))
    keys, values = (draw(st.binary(min_size=count * size, max_size=count * size)) for size in (key_size, value_size))
    return Columns(keys, values, key_size, value_size)


@given(any_columns(), st.sampled_from([5, 14, 15, 17, 25, 27, 28]))
def test_any_bytes_of_any_shape_are_a_table_or_a_layout_error(anything, count):
    try:
        table = decode_counters(anything, layout_of(count))
    except LayoutError:
        assert anything.key_size != 8 or anything.value_size != count * 8
        return
    assert isinstance(table, CounterTable)
    assert set(struct.iter_unpack("<II", anything.keys)) == set(table.rows)
    assert {count} >= set(map(len, table.rows.values()))
    assert all(0 <= value < 1 << 64 for row in table.rows.values() for value in row)
