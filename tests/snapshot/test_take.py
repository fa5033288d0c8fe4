import gc
import json
import re
import struct
import weakref
from collections import Counter

import pytest

from exporter.bpf.maps import MapDenied, MapError, MapInfo, MapMissing, NotAMap
from exporter.calico import LayoutError
from exporter.calico.layout_file import parse_layout_file
from exporter.metrics.scrape import COLLECTOR_NAMES, make_collectors, run_collector
from exporter.node import NodeError
from exporter.snapshot.take import Memory

CLIENT = "calibf331a988cf"
STATUS = json.dumps({"ifaceName": CLIENT, "ipv4Nets": ["10.65.0.2/32"]})
PARTS = (
    "pins",
    "links",
    "host_routes",
    "nics",
    "pods",
    "counter_versions",
    "counters",
    "counter_layout",
    "ifstate_versions",
    "ifstate",
    "rule_versions",
    "endpoints",
)


@pytest.fixture
def node(make):
    """A small node on which everything is in order."""
    return make.node(
        [
            make.counters("cali_counters6", 60, {(5, 0): {0: 11, 4: 10}, (5, 1): {0: 3}}),
            make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: (CLIENT, 0x7)}),
            make.rules("cali_rule_ctrs2", 20, {1: 10}),
        ],
        links=[make.link(3, "eth0"), make.link(5, CLIENT)],
        host_routes=[make.route("10.65.0.2", 5)],
        endpoint_status=make.folder(**{"k8s ns-a%2Fclient eth0": STATUS.encode()}),
    )


def test_a_whole_node_is_seen_whole(make, node):
    snapshot = make.look(node)
    assert {(5, 0): 10, (5, 1): 0} == {
        (int(ifindex), int(hook)): int(row[4])
        for ifindex, hook, row in zip(
            snapshot.counters.ifindex, snapshot.counters.hook, snapshot.counters.sums, strict=True
        )
    }
    assert ["eth0", CLIENT] == [one.name for one in snapshot.ifstate]
    assert ["eth0", "ns-a/client"] == [one.title for one in snapshot.endpoints.by_index.values()]
    assert ("10.65.0.2",) == snapshot.endpoints.of(5).addresses


def test_every_fact_is_asked_for_once_however_often_parts_are(make, node):
    snapshot = make.look(node)
    for part in (*PARTS, *PARTS):
        getattr(snapshot, part)
    assert not snapshot.is_undecided()
    expected = {"pin_names": 1, "links": 1, "host_routes": 1, "nics": 1, "endpoint_status": 1, "cluster_pods": 1}
    expected |= {"info cali_counters6": 1, "dump cali_counters6": 1, "info cali_rule_ctrs2": 1}
    expected |= {"info cali_iface4": 1, "dump cali_iface4": 1}
    assert Counter(expected) == node.asked


def test_with_several_versions_too_every_map_is_asked_for_once(make, node):
    for name, number in (("cali_counters5", 50), ("cali_iface3", 30), ("cali_rule_ctrs", 10)):
        node.maps[name] = (make.ifstate if "iface" in name else make.rules)(name, number, {})
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7, 8)
    snapshot = make.look(node)
    for part in (*PARTS, *PARTS):
        try:
            getattr(snapshot, part)
        except MapError as error:
            assert "undecided" in str(error)  # noqa: PT017  the part is not the point
    assert {1} == set(node.asked.values())
    assert 1 == node.asked["programs"]


def test_a_look_of_which_nothing_is_asked_costs_nothing(make, node):
    make.look(node)
    assert Counter() == node.asked


def test_a_part_asks_for_no_more_than_it_needs(make, node):
    assert 2 == len(make.look(node).ifstate)
    assert {"pin_names", "info cali_iface4", "dump cali_iface4"} == node.asked.keys()


@pytest.mark.parametrize(
    ("fact", "part"),
    [
        ("pin_names", "pins"),
        ("pin_names", "counters"),
        ("pin_names", "ifstate"),
        ("links", "links"),
        ("host_routes", "host_routes"),
        ("nics", "nics"),
        ("endpoint_status", "pods"),
    ],
)
@pytest.mark.parametrize("error", [MapDenied("refused"), NodeError("gone")])
def test_a_failure_is_kept_and_raised_again(make, node, fact, part, error):
    node.facts[fact] = error
    snapshot = make.look(node)
    for _ in range(3):
        with pytest.raises(type(error)) as caught:
            getattr(snapshot, part)
        assert str(error) == str(caught.value)
    assert 1 == node.asked[fact]


def test_a_look_with_a_failed_part_is_gone_with_its_last_user(make, node):
    # Its dumps with it: a kept traceback would hold them until the garbage collector comes by.
    del node.maps["cali_rule_ctrs2"]
    collectors = make_collectors(COLLECTOR_NAMES, "core")
    gc.disable()
    try:
        looks = []
        for _ in range(5):
            snapshot = make.look(node)
            for collector in collectors:
                run_collector(collector, snapshot)
            looks.append(weakref.ref(snapshot))
            del snapshot
        assert [None] * 5 == [look() for look in looks]
    finally:
        gc.enable()


@pytest.mark.parametrize("part", ["counter_versions", "counters"])
def test_a_map_that_cannot_be_read_fails_once_and_stays_failed(make, node, part):
    node.maps["cali_counters6"] = MapDenied("reading it was refused")
    snapshot = make.look(node)
    for _ in range(3):
        with pytest.raises(MapDenied, match="reading it was refused"):
            getattr(snapshot, part)
    assert 1 == node.asked["info cali_counters6"]


def test_a_new_look_asks_again(make, node):
    node.facts["links"] = NodeError("not now")
    with pytest.raises(NodeError):
        _ = make.look(node).links
    node.facts["links"] = [make.link(1, "lo")]
    assert (make.link(1, "lo"),) == make.look(node).links


@pytest.mark.parametrize(
    ("datum", "name", "part"),
    [
        ("counters", "cali_counters6", "counters"),
        ("iface", "cali_iface4", "ifstate"),
        ("rules", "cali_rule_ctrs2", "rule_versions"),
    ],
)
def test_a_map_that_is_not_pinned_is_missing_and_the_sentence_says_why(make, node, datum, name, part):
    del node.maps[name]
    with pytest.raises(MapMissing, match=f"no {datum} map .* eBPF dataplane is off or has not started yet"):
        getattr(make.look(node), part)


def test_counters_outside_the_folder_are_told_as_v3_24_or_v3_25(make, node):
    del node.maps["cali_counters6"]
    node.facts["attach_point_folders"] = ["eth0_igr", "eth0_egr"]
    with pytest.raises(MapMissing, match=re.escape("v3.24 or v3.25, whose counter maps are not supported")):
        _ = make.look(node).counters


def test_folders_of_attach_points_left_over_beside_a_counter_map_mean_nothing(make, node):
    node.facts["attach_point_folders"] = ["eth0_igr"]
    assert 2 == len(make.look(node).counters.sums)
    assert 0 == node.asked["attach_point_folders"]


@pytest.mark.parametrize("error", [MapMissing("gone just now"), NotAMap("not a map")])
def test_a_pin_that_turns_out_to_be_nothing_leaves_the_others(make, node, error):
    node.maps["cali_counters5"] = error
    snapshot = make.look(node)
    assert ("cali_counters6", "only") == (
        snapshot.counter_versions.choice.live.name,
        snapshot.counter_versions.choice.chosen_by,
    )
    assert ("cali_counters5",) == snapshot.counter_versions.stale


@pytest.mark.parametrize("error", [MapMissing("gone just now"), NotAMap("not a map"), MapDenied("refused")])
def test_a_pin_that_is_the_only_one_says_its_own_sentence(make, node, error):
    node.maps["cali_counters6"] = error
    with pytest.raises(type(error), match=str(error)):
        _ = make.look(node).counters


def test_a_pin_that_may_not_be_opened_hides_behind_no_other(make, node):
    node.maps["cali_counters7"] = MapDenied("refused")
    with pytest.raises(MapDenied):
        _ = make.look(node).counters


def test_a_copy_made_while_calico_resizes_is_stale_and_never_alive(make, node):
    node.maps["cali_counters6_old"] = make.counters("cali_counters6_old", 61, {(5, 0): {0: 1}})
    versions = make.look(node).counter_versions
    assert ("cali_counters6", "only") == (versions.choice.live.name, versions.choice.chosen_by)
    assert ("cali_counters6_old",) == versions.stale


def test_a_copy_without_its_map_is_a_missing_map(make, node):
    node.maps["cali_counters6_old"] = node.maps.pop("cali_counters6")
    with pytest.raises(MapMissing):
        _ = make.look(node).counters


@pytest.mark.parametrize(("key_size", "value_size"), [(12, 216), (8, 0), (8, 100), (4, 216)])
def test_a_counter_map_of_an_unknown_shape_is_a_layout_error(make, node, key_size, value_size):
    info = MapInfo("", 60, "cali_counters6", "percpu_hash", key_size, value_size, 20000, 0)
    dump = node.maps["cali_counters6"]
    node.maps["cali_counters6"] = type(dump)(info, dump.keys[:0].reshape(0, 8)[:, :key_size], dump.values[:0])
    for part in ("counter_layout", "counters"):
        with pytest.raises(LayoutError):
            getattr(make.look(node), part)


def test_a_layout_file_names_slots_of_its_count_only(make, node):
    file = parse_layout_file("{when_slots: 15, slots: {14: {category: accepted, reason: egress_gateway}}}")
    assert "builtin" == make.look(node, layout_file=file).counter_layout.source
    node.maps["cali_counters6"] = make.counters("cali_counters6", 60, {(5, 0): {14: 3}}, slots=15)
    layout = make.look(node, layout_file=file).counter_layout
    assert ("file", "egress_gateway") == (layout.source, layout.slots[14].reason)
    assert "partial" == make.look(node).counter_layout.source


def test_a_map_replaced_by_one_of_another_shape_between_two_questions_is_read_in_its_own(make, node):
    info = node.maps["cali_counters6"].info
    node.maps["cali_counters6"] = make.counters("cali_counters6", 61, {(5, 0): {0: 1}}, slots=25)
    node.map_info = lambda name: info if name == info.name else node.maps[name].info
    snapshot = make.look(node)
    assert (1, 25) == snapshot.counters.sums.shape
    assert 25 == len(snapshot.counter_layout.slots)


def test_endpoints_do_without_interface_state(make, node):
    del node.maps["cali_iface4"]
    assert {3: "host", 5: "workload"} == {n: one.kind for n, one in make.look(node).endpoints.by_index.items()}


def test_endpoints_do_without_links(make, node):
    node.facts["links"] = NodeError("no netlink")
    assert {3: "eth0", 5: CLIENT} == {n: one.interface for n, one in make.look(node).endpoints.by_index.items()}


def test_endpoints_do_without_routes_and_pods(make, node):
    node.facts["host_routes"] = node.facts["endpoint_status"] = NodeError("gone")
    assert ["eth0", CLIENT] == [one.title for one in make.look(node).endpoints.by_index.values()]


def test_endpoints_do_not_do_without_links_and_interface_state(make, node):
    node.facts["links"] = NodeError("no netlink")
    node.maps["cali_iface4"] = MapDenied("refused")
    with pytest.raises(MapDenied, match="refused"):
        _ = make.look(node).endpoints


def test_prefixes_are_what_the_user_said(make, node):
    del node.maps["cali_iface4"]
    node.facts["links"] = [make.link(9, "eni9"), make.link(5, CLIENT)]
    kinds = {n: one.kind for n, one in make.look(node, prefixes=("eni",)).endpoints.by_index.items()}
    assert {9: "workload", 5: "host"} == kinds


def test_an_identity_outlives_the_look_that_saw_it(make, node):
    memory = Memory()
    assert "ns-a/client" == make.look(node, memory).endpoints.of(5).title
    node.facts["endpoint_status"] = NodeError("gone")
    assert "ns-a/client" == make.look(node, memory).endpoints.of(5).title
    assert CLIENT == make.look(node).endpoints.of(5).title


def test_identities_outlive_a_look_without_links_and_interface_state(make, node):
    memory = Memory()
    assert "ns-a/client" == make.look(node, memory).endpoints.of(5).title
    links, iface = node.facts["links"], node.maps.pop("cali_iface4")
    node.facts["links"] = node.facts["endpoint_status"] = NodeError("gone")
    with pytest.raises(MapMissing):
        _ = make.look(node, memory).endpoints
    node.facts["links"], node.maps["cali_iface4"] = links, iface
    assert "ns-a/client" == make.look(node, memory).endpoints.of(5).title


def test_a_status_file_that_is_cut_off_is_a_problem_of_the_pods_and_no_failure(make, node):
    node.facts["endpoint_status"].files["k8s ns-b%2Fserver eth0"] = b'{"ifaceName":"cali3476'
    snapshot = make.look(node)
    assert ["client"] == [pod.pod for pod in snapshot.pods.pods]
    assert 1 == len(snapshot.pods.problems)
    assert 2 == len(snapshot.endpoints.by_index)


def test_of_several_interface_state_maps_the_one_that_names_what_is_here_is_alive(make, node):
    node.maps["cali_iface5"] = make.ifstate("cali_iface5", 50, {3: ("eth9", 0xE), 99: ("x", 0x7)})
    versions = make.look(node).ifstate_versions
    assert ("cali_iface4", "keys") == (versions.choice.live.name, versions.choice.chosen_by)
    assert ("cali_iface5",) == versions.stale


def test_of_several_rule_maps_none_is_alive_without_a_program_that_uses_it(make, node):
    node.maps["cali_rule_ctrs3"] = make.rules("cali_rule_ctrs3", 30, {})
    assert (None, "undecided") == (
        make.look(node).rule_versions.choice.live,
        make.look(node).rule_versions.choice.chosen_by,
    )
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7)
    node.facts["programs"] = [make.program(7, 1, 30, 60)]
    choice = make.look(node).rule_versions.choice
    assert ("cali_rule_ctrs3", "programs") == (choice.live.name, choice.chosen_by)


def test_keys_of_existing_interfaces_decide_where_programs_and_movement_do_not(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(77, 0): {0: 1}}, slots=25)
    choice = make.look(node).counter_versions.choice
    assert ("cali_counters6", "keys") == (choice.live.name, choice.chosen_by)


def test_programs_that_may_not_be_asked_are_no_failure(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7)
    node.facts["programs"] = MapDenied("needs SYS_ADMIN")
    assert make.look(node).is_undecided()


def test_a_program_array_that_cannot_be_read_is_no_failure(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    node.maps["cali_progs_ing2"] = MapDenied("refused")
    assert make.look(node).is_undecided()


def test_only_the_programs_in_calicos_arrays_are_asked_for(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 9, 7)
    node.maps["cali_progs_egr2"] = make.programs("cali_progs_egr2", 3, 8, 7)
    asked = []
    node.programs = lambda ids: asked.append(list(ids)) or []
    assert make.look(node).is_undecided()
    assert [[7, 8, 9]] == asked


def test_a_look_without_several_versions_asks_for_no_program(make, node):
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7)
    snapshot = make.look(node)
    for part in PARTS:
        getattr(snapshot, part)
    assert 0 == node.asked["programs"] == node.asked["dump cali_progs_ing2"]


def test_the_second_version_that_appears_is_compared_with_what_was_there_alone(make, node):
    memory = Memory()
    assert not make.look(node, memory).is_undecided()
    node.maps["cali_counters7"] = make.counters("cali_counters7", 70, {(5, 0): {0: 1}})
    choice = make.look(node, memory).counter_versions.choice
    assert ("cali_counters6", "movement") == (choice.live.name, choice.chosen_by)


def test_a_counter_above_32_bits_is_seen_whole(make, node):
    values = node.maps["cali_counters6"].values
    values[0, 0, 32:40] = list(struct.pack("<Q", (1 << 40) + 1))
    values[0, 1, 32:40] = list(struct.pack("<Q", 1 << 33))
    assert (1 << 40) + (1 << 33) + 1 == make.look(node).counters.sums[0, 4]
