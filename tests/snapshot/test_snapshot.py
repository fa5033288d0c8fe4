# A snapshot is an immutable value: it reads nothing, and raises the same error at each access.
import gc
import traceback
import weakref
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDenied, MapError, MapMissing
from exporter.calico import LayoutError
from exporter.errors import ExporterError
from exporter.node import NodeError
from exporter.snapshot.bundle import BundleError
from exporter.snapshot.snapshot import Part

WORKLOAD, V4, V6, HOST = 0x1, 0x2, 0x4, 0x8


@pytest.fixture
def node(make):
    """A node with a pod and a host interface."""
    return make.node(
        [
            make.counters("cali_counters6", 60, {(5, 0): {0: 11}}),
            make.ifstate("cali_iface4", 40, {3: ("eth0", HOST | V4), 5: ("cali1", WORKLOAD | V4)}),
            make.rules("cali_rule_ctrs2", 20, {1: 10}),
        ],
        links=[make.link(3, "eth0"), make.link(5, "cali1")],
    )


def failing(error):
    def read():
        raise error

    return read


# A part.


@pytest.mark.parametrize("value", [0, None, (), {}, "x", {1: 2}])
def test_a_part_that_was_read_is_its_value(value):
    part = Part.of(lambda: value)
    assert (value, None, value) == (part.get(), part.error, part.or_else("default"))


@pytest.mark.parametrize("kind", [ExporterError, MapError, MapDenied, MapMissing, LayoutError, NodeError, BundleError])
@pytest.mark.parametrize("remedy", ["", "run as root"])
def test_a_part_that_failed_raises_the_same_each_time_and_keeps_its_remedy(kind, remedy):
    part = Part.of(failing(kind("it was refused", remedy)))
    raised = []
    for _ in range(3):
        with pytest.raises(kind) as caught:
            part.get()
        raised.append(caught.value)
    assert {(kind, "it was refused", remedy)} == {(type(one), one.sentence, one.remedy) for one in raised}
    assert {str(part.error)} == {str(one) for one in raised} == {"it was refused" + (f": {remedy}" if remedy else "")}
    assert "default" == part.or_else("default")


def test_an_error_that_is_raised_again_and_again_piles_up_no_traceback():
    part = Part.of(failing(NodeError("gone")))
    depths = []
    for _ in range(5):
        try:
            part.get()
        except NodeError as error:
            depths.append(len(traceback.extract_tb(error.__traceback__)))
        assert (None, None, None) == (part.error.__traceback__, part.error.__context__, part.error.__cause__)
    assert {2} == set(depths)


class Large:
    """Something that a frame holds while it is read."""


def test_an_error_keeps_nothing_alive_of_what_was_being_read_or_of_who_asked():
    held = []

    def read():
        raw = Large()
        held.append(weakref.ref(raw))
        try:
            Path("/nowhere").read_bytes()
        except OSError as error:
            raise MapError("it could not be read") from error

    def ask(part):
        mine = Large()
        held.append(weakref.ref(mine))
        part.get()

    gc.disable()
    try:
        part = Part.of(read)
        for _ in range(3):
            with pytest.raises(MapError):
                ask(part)
        assert [None] * 4 == [one() for one in held]
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [KeyError("x"), OSError(5, "EIO"), MemoryError()])
def test_an_error_that_is_no_sentence_is_no_part(error):
    with pytest.raises(type(error)):
        Part.of(failing(error))


# A snapshot.


def test_a_snapshot_does_not_change(make, node):
    snapshot = make.snapshot(node)
    for name in [one.name for one in fields(snapshot)]:
        with pytest.raises(FrozenInstanceError):
            setattr(snapshot, name, None)
    for one in (snapshot, snapshot.counters):
        with pytest.raises((FrozenInstanceError, TypeError)):  # the latter from what Python does with slots
            one.anything = 1
    with pytest.raises(FrozenInstanceError):
        snapshot.counters.value = None


def test_a_snapshot_reads_nothing_any_more(make, node):
    snapshot = make.snapshot(node)
    values = [getattr(snapshot, one.name) for one in fields(snapshot)]
    node.asked.clear()
    node.maps, node.facts = {}, {}
    assert values == [getattr(snapshot, one.name) for one in fields(snapshot)]
    assert [5, 3] == sorted(snapshot.endpoints.get().by_index, reverse=True)
    assert (4,) == snapshot.ip_families()
    assert not node.asked


def test_the_three_maps_are_there_by_what_they_hold(make, node):
    snapshot = make.snapshot(node)
    assert {"counters": snapshot.counter_map, "rules": snapshot.rule_map, "iface": snapshot.ifstate_map} == (
        snapshot.maps
    )


def test_ip_sets_are_by_family_and_only_where_they_were_asked_for(make, node):
    node.maps["cali_v4_ip_sets"] = make.ip_sets("cali_v4_ip_sets", 70, "10.65.0.2")
    node.maps["cali_v6_ip_sets"] = make.ip_sets("cali_v6_ip_sets", 71, "fd00::2")
    snapshot = make.snapshot(node, parts={"ip_sets_4", "ip_sets_6"})
    assert [{1: ("10.65.0.2/32",)}, {1: ("fd00::2/128",)}] == [snapshot.ip_sets(one).get() for one in (4, 6)]
    with pytest.raises(ExporterError, match="not requested"):
        make.snapshot(node).ip_sets(4).get()


@pytest.mark.parametrize(
    ("earlier", "later", "seconds"),
    [(10.0, 14.5, 4.5), (None, 14.5, None), (10.0, None, None), (None, None, None), (10.0, 10.0, None), (9, 8, None)],
)
def test_seconds_between_two_snapshots_are_those_that_passed_where_that_is_known(make, node, earlier, later, seconds):
    before, after = (replace(make.snapshot(node), at=at) for at in (earlier, later))
    assert seconds == after.seconds_since(before)


# Which IP families are in use.

STATES = st.dictionaries(
    st.integers(3, 7), st.sampled_from([0, V4, V6, V4 | V6]).map(lambda ready: ready | WORKLOAD), max_size=3
)
FILES = st.sets(st.sampled_from(["cali1_egress_v4.json", "eth0_xdp_v6.json", "README", "v4.json", "x_v6.json.tmp"]))


@given(STATES, FILES)
def test_a_family_is_in_use_where_an_interface_is_ready_in_it_or_a_policy_file_is_of_it(make, states, files):
    made = make.node(
        [make.ifstate("cali_iface4", 40, {number: (f"cali{number}", flags) for number, flags in states.items()})],
        policy_files=make.folder(**dict.fromkeys(files, b"{}")),
    )
    expected = {
        family
        for family, flag, name in ((4, V4, "cali1_egress_v4.json"), (6, V6, "eth0_xdp_v6.json"))
        if name in files or any(flags & flag for flags in states.values())
    }
    assert tuple(sorted(expected)) == make.snapshot(made).ip_families()


def test_without_the_interface_state_no_family_is_known_and_without_policy_files_those_that_are_ready(make, node):
    node.facts["policy_files"] = NodeError("could not be listed")
    assert (4,) == make.snapshot(node).ip_families()
    node.maps["cali_iface4"] = MapDenied("refused")
    with pytest.raises(MapDenied, match="refused"):
        make.snapshot(node).ip_families()


# Whether tier ends have separate ids.


@pytest.mark.parametrize(("slots", "have"), [(13, False), (14, False), (16, False), (17, True), (27, True)])
def test_the_counter_layout_tells_whether_tier_ends_have_ids(make, node, slots, have):
    node.maps["cali_counters6"] = make.counters("cali_counters6", 60, {(5, 0): {0: 1}}, slots)
    assert make.snapshot(node).ends_have_ids() is have


def test_without_a_counter_layout_and_without_files_nothing_tells_it(make, node):
    del node.maps["cali_counters6"]
    assert make.snapshot(node).ends_have_ids() is None
