"""Collector `maps`: fill, shape and choice of the live maps; a missing one has no series, an undecided one no fill."""

from dataclasses import replace

import pytest

from exporter.bpf.maps import MapError, MapMissing
from exporter.metrics import maps
from exporter.metrics.maps import MapsCollector
from exporter.snapshot.memory import Memory

ENTRIES = {(3, 0): {}, (3, 1): {}, (5, 0): {}}
STATES = {3: ("eth0", 0xE)}


@pytest.fixture
def collect(snapshot_of):
    """The samples of the collector over a source."""

    def run(source, **settings):
        return MapsCollector().collect(snapshot_of(source, parts=MapsCollector.parts, **settings))

    return run


def with_old_version(node, pin="cali_counters5"):
    """A node with two counter maps pinned side by side."""
    source = node(ENTRIES, STATES)
    older = node({(3, 0): {}}, slots=25, pin=pin).maps[pin]
    source.maps[pin] = replace(older, info=replace(older.info, id=99))
    return source


def test_a_live_map_has_its_entries_and_maximum(collect, node, series):
    samples = collect(node(ENTRIES, STATES))
    assert {("counters", ""): 3, ("iface", ""): 1} == series(samples, maps.ENTRIES)
    assert {("counters", ""): 20000, ("iface", ""): 20000} == series(samples, maps.MAX_ENTRIES)


def test_the_info_tells_pin_type_sizes_slots_layout_and_evidence(collect, node, series):
    assert {
        ("counters", "cali_counters6", "percpu_hash", "8", "216", "27", "builtin", "only"): 1,
        ("iface", "cali_iface4", "hash", "4", "52", "", "", "only"): 1,
    } == series(collect(node(ENTRIES, STATES)), maps.INFO)


@pytest.mark.parametrize(("slots", "layout"), [(14, "builtin"), (15, "partial"), (30, "partial")])
def test_the_info_tells_whether_the_slots_are_known(collect, node, series, slots, layout):
    (labels, *_) = series(collect(node(ENTRIES, STATES, slots=slots)), maps.INFO)
    assert (str(8 * slots), str(slots), layout) == labels[4:7]


def test_a_map_that_is_not_pinned_has_no_series(collect, node, series):
    samples = collect(node(None, STATES))
    assert {("iface", ""): 1} == series(samples, maps.ENTRIES)
    assert {("iface",): 0} == series(samples, maps.STALE_PINS)
    assert {"iface"} == {labels[0] for labels in series(samples, maps.INFO)}


def test_no_map_at_all_is_a_failure(collect, node):
    with pytest.raises(MapMissing):
        collect(node())


def test_a_map_that_cannot_be_read_is_a_failure(collect, node):
    source = node(ENTRIES, STATES)
    source.maps["cali_counters6"] = MapError("it kept changing")
    with pytest.raises(MapError):
        collect(source)


def test_an_undecided_map_shows_every_candidate_and_no_fill(collect, node, series):
    samples = collect(with_old_version(node))
    assert {
        ("counters", "cali_counters5", "percpu_hash", "8", "200", "25", "builtin", "undecided"): 1,
        ("counters", "cali_counters6", "percpu_hash", "8", "216", "27", "builtin", "undecided"): 1,
    } == {labels: one for labels, one in series(samples, maps.INFO).items() if labels[0] == "counters"}
    for family in (maps.ENTRIES, maps.MAX_ENTRIES, maps.STALE_PINS):
        assert {"iface"} == {labels[0] for labels in series(samples, family)}


def test_other_versions_and_copies_of_a_live_map_are_counted_as_stale(snapshot_of, node, series):
    memory = Memory()
    source = with_old_version(node)
    source.maps["cali_counters6_old"] = source.maps["cali_counters5"]
    MapsCollector().collect(snapshot_of(source, memory, parts=MapsCollector.parts))
    moved = node({(3, 0): {0: 1}}, STATES)
    source.maps["cali_counters6"] = moved.maps["cali_counters6"]
    samples = MapsCollector().collect(snapshot_of(source, memory, parts=MapsCollector.parts))
    assert {("counters",): 2, ("iface",): 0} == series(samples, maps.STALE_PINS)
    assert {"cali_counters6"} == {labels[1] for labels in series(samples, maps.INFO) if labels[7] == "movement"}


def test_a_counter_map_of_no_known_shape_still_shows_its_sizes(collect, node, series):
    source = node(ENTRIES, STATES)
    dump = source.maps["cali_counters6"]
    source.maps["cali_counters6"] = replace(dump, info=replace(dump.info, key_size=12))
    (labels, *_) = series(collect(source), maps.INFO)
    assert ("counters", "cali_counters6", "percpu_hash", "12", "216", "", "", "only") == labels


@pytest.mark.parametrize("number", [2, 3])
def test_a_node_after_an_upgrade_shows_what_is_pinned_and_publishes_no_guess(recorded, series, number):
    name = {2: "upgrade/2-v3.30.7", 3: "upgrade/3-v3.31.6"}[number]
    samples = MapsCollector().collect(recorded(name))
    candidates = [labels for labels in series(samples, maps.INFO) if labels[0] == "counters"]
    assert number == len(candidates)
    assert {"undecided"} == {labels[7] for labels in candidates}
    assert ("counters", "") not in series(samples, maps.ENTRIES)


def test_after_a_downgrade_the_map_that_moves_is_the_live_one_and_not_the_highest(recorded, series):
    memory = Memory()
    MapsCollector().collect(recorded("upgrade/5-v3.31.6-downgraded.before", memory))
    samples = MapsCollector().collect(recorded("upgrade/5-v3.31.6-downgraded.after", memory))
    (live,) = [labels for labels in series(samples, maps.INFO) if labels[0] == "counters"]
    assert ("cali_counters5", "25", "movement") == (live[1], live[5], live[7])
    assert 3 == series(samples, maps.STALE_PINS)["counters",]
