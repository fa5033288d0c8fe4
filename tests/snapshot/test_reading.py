import gc
import json
import re
import struct
import time
import weakref
from collections import Counter
from contextlib import suppress
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDenied, MapInfo, MapMissing, NotAMap
from exporter.calico import LayoutError
from exporter.calico.layout_file import parse_layout_file
from exporter.errors import ExporterError
from exporter.metrics.scrape import COLLECTOR_NAMES, make_collectors, run_collector
from exporter.node import NodeError
from exporter.snapshot.map_fill import MapCounts
from exporter.snapshot.memory import Memory
from exporter.snapshot.parts import with_sources
from exporter.snapshot.reading import Reading, take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.snapshot import Snapshot
from tests.nodes import FakeNode, held, is_undecided
from tests.parts import EVERY_PART
from tests.service_tables import affinity, backend, flow, frontend, route

CLIENT = "calibf331a988cf"
STATUS = json.dumps({"ifaceName": CLIENT, "ipv4Nets": ["10.65.0.2/32"]})
COUNTER_MAP = ("pin_names", "dump cali_counters6")
RULE_MAP = ("pin_names", "dump cali_rule_ctrs2")
IFSTATE_MAP = ("pin_names", "dump cali_iface4")
ENDPOINTS = (*IFSTATE_MAP, "links", "host_routes", "endpoint_status", "cluster_pods")
# What each part asks of the node on which everything is in order.
ASKED = {
    "pins": ("pin_names",),
    "counter_map": COUNTER_MAP,
    "rule_map": RULE_MAP,
    "ifstate_map": IFSTATE_MAP,
    "counters": COUNTER_MAP,
    "rule_hits": RULE_MAP,
    "ifstate": (*IFSTATE_MAP, "links"),
    "ip_sets_4": ("pin_names", "dump cali_v4_ip_sets"),
    "ip_sets_6": ("pin_names", "dump cali_v6_ip_sets"),
    "ip_set_trie_4": ("pin_names", "dump cali_v4_ip_sets"),
    "ip_set_trie_6": ("pin_names", "dump cali_v6_ip_sets"),
    "failsafes_4": ("pin_names", "dump cali_v4_fsafes2"),
    "failsafes_6": ("pin_names", "dump cali_v6_fsafes2"),
    "policy_tags": (*IFSTATE_MAP, "links"),
    "services_4": (
        "pin_names",
        *(f"dump {name}" for name in ("cali_v4_nat_fe3", "cali_v4_nat_be", "cali_v4_nat_aff")),
    ),
    "services_6": (
        "pin_names",
        *(f"dump {name}" for name in ("cali_v6_nat_fe3", "cali_v6_nat_be", "cali_v6_nat_aff")),
    ),
    "routes_4": ("pin_names", "dump cali_v4_routes"),
    "routes_6": ("pin_names", "dump cali_v6_routes"),
    "addresses": ("addresses",),
    "interfaces_to": (*ENDPOINTS, "interfaces_to"),
    "conntrack": (
        *ENDPOINTS,
        *(f"{ask} {name}" for name in ("cali_v4_ct4", "cali_v6_ct4") for ask in ("info", "batches")),
    ),
    "conntrack_count": ENDPOINTS,  # what the server counted before
    "map_fills": (
        "pin_names",
        *(
            f"usage cali_v{family}_{name}"
            for family in (4, 6)
            for name in ("ip_sets", "fsafes2", "nat_fe3", "nat_be", "nat_aff", "routes", "ct4")
        ),
    ),
    "links": ("links",),
    "host_routes": ("host_routes",),
    "pods": ("endpoint_status",),
    "cluster_pods": ("cluster_pods",),
    "endpoints": ENDPOINTS,
    "nics": ("nics",),
    "received": ("received",),
    "queue_drops": ("queue_drops",),
    "run_dir": ("endpoint_status", "run_dir"),
    "policy_file_names": ("policy_file_names",),
    "policies": ("policies",),
    "policy_files": ("policy_files",),
    "packets": ("packets",),
    "rules": (*ENDPOINTS, "policies"),
}
PARTS = tuple(ASKED)
# Only commands read these, and the collector `maps` the fills.
ON_REQUEST = {
    *(
        f"{part}_{family}"
        for part in ("ip_sets", "ip_set_trie", "failsafes", "services", "routes")
        for family in (4, 6)
    ),
    "addresses",
    "interfaces_to",
    "conntrack",
    "policy_tags",
    "policy_files",
    "packets",
    "map_fills",
    "conntrack_count",
}


def tables_of_services(make):
    """A service, routes and a flow in each family."""
    for family, pod, service in ((4, "10.65.0.2", "10.96.0.7"), (6, "fd00::2", "fd00:96::7")):
        start, width = f"cali_v{family}", 32 if family == 4 else 128
        yield make.table(f"{start}_nat_fe3", 80, "lpm_trie", frontend(service, 80, 6, 1, 1))
        yield make.table(f"{start}_nat_be", 81, "hash", backend(1, 0, pod, 8080))
        yield make.table(f"{start}_nat_aff", 82, "lru_hash", affinity(service, 80, 6, pod, pod, 8080, 1))
        yield make.table(f"{start}_routes", 83, "lpm_trie", route(f"{pod}/{width}", 0xD, ifindex=5))
        yield make.table(f"{start}_ct4", 84, "lru_hash", flow(17, (pod, 1), (service, 2), {"bits": 48}, {}))


@pytest.fixture(scope="session")
def make_node(make):
    """Makes a small node on which everything is in order."""
    return lambda: make.node(
        [
            make.counters("cali_counters6", 60, {(5, 0): {0: 11, 4: 10}, (5, 1): {0: 3}}),
            make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: (CLIENT, 0x7)}),
            make.rules("cali_rule_ctrs2", 20, {1: 10}),
            make.ip_sets("cali_v4_ip_sets", 70, "10.65.0.2"),
            make.ip_sets("cali_v6_ip_sets", 71, "fd00::2"),
            make.failsafes("cali_v4_fsafes2", 72, (6, 22, "0.0.0.0/0")),
            make.failsafes("cali_v6_fsafes2", 73, (6, 22, "::/0")),
            *tables_of_services(make),
        ],
        links=[make.link(3, "eth0"), make.link(5, CLIENT)],
        host_routes=[make.route("10.65.0.2", 5)],
        endpoint_status=make.folder(**{"k8s ns-a%2Fclient eth0": STATUS.encode()}),
    )


def of_server():
    """A memory as the server has it: maps are counted in the background."""
    return Memory(map_counts=MapCounts(background=True))


@pytest.fixture
def node(make_node):
    """Such a node."""
    return make_node()


def test_a_whole_node_is_seen_whole(make, node):
    snapshot = make.snapshot(node)
    assert {(5, 0): 10, (5, 1): 0} == {key: row[4] for key, row in snapshot.counters.get().rows.items()}
    assert ["eth0", CLIENT] == [one.name for one in snapshot.ifstate.get()]
    assert ["eth0", "ns-a/client"] == [one.title for one in snapshot.endpoints.get().by_index.values()]
    assert ("10.65.0.2",) == snapshot.endpoints.get().of(5).addresses
    assert "fake" == snapshot.reader


# What is read, and when.


def test_every_part_of_a_snapshot_is_tested_here():
    assert {one.name for one in fields(Snapshot)} - {"reader", "at", "node"} == set(PARTS)
    assert set(PARTS) - ON_REQUEST == EVERY_PART


def test_every_fact_is_asked_for_once_however_often_parts_are(make, node):
    snapshot = make.snapshot(node)
    for part in (*EVERY_PART, *EVERY_PART):
        getattr(snapshot, part).get()
    assert not is_undecided(snapshot)
    expected = {fact: 1 for part in EVERY_PART for fact in ASKED[part]}
    assert Counter(expected) == node.asked


def test_with_several_versions_too_every_map_is_asked_for_once(make, node):
    for name, number in (("cali_counters5", 50), ("cali_iface3", 30), ("cali_rule_ctrs", 10)):
        node.maps[name] = (make.ifstate if "iface" in name else make.rules)(name, number, {})
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7, 8)
    snapshot = make.snapshot(node)
    for part in (*EVERY_PART, *EVERY_PART):
        error = getattr(snapshot, part).error
        assert error is None or "undecided" in str(error)
    assert {1} == set(node.asked.values())
    assert 1 == node.asked["programs"]


def test_a_snapshot_of_which_nothing_is_asked_costs_nothing(make, node):
    make.snapshot(node, parts=())
    assert Counter() == node.asked


@pytest.mark.parametrize("part", PARTS)
def test_a_part_asks_for_no_more_than_it_needs(make, node, part):
    snapshot = make.snapshot(node, of_server(), parts={part})
    assert Counter(ASKED[part]) == node.asked
    getattr(snapshot, part).get()


def test_a_part_that_was_not_asked_for_has_an_error_that_says_so(make, node):
    snapshot = make.snapshot(node, parts={"ifstate"})
    read = {name for name in PARTS if getattr(snapshot, name).error is None}
    assert {"pins", "ifstate", "ifstate_map", "links"} >= read >= {"ifstate", "ifstate_map"}
    with pytest.raises(ExporterError, match="not requested when the snapshot was taken"):
        snapshot.counters.get()


@given(st.lists(st.sets(st.sampled_from(PARTS), max_size=4), max_size=4))
def test_in_steps_no_fact_is_asked_for_twice_and_every_part_is_what_it_is_at_once(make_node, steps):
    node = make_node()
    reading = Reading(node, Settings(), of_server())
    snapshots = [reading.read(parts) for parts in steps]
    assert {fact: 1 for parts in steps for part in parts for fact in ASKED[part]} == node.asked
    whole = take_snapshot(make_node(), Settings(), of_server(), PARTS)
    for number, snapshot in enumerate(snapshots, 1):
        for part in with_sources(set().union(*steps[:number])):
            assert getattr(snapshots[-1], part) is getattr(snapshot, part)
            ours, theirs = (getattr(one, part).get() for one in (snapshot, whole))
            assert ours.table == theirs.table if part == "rules" else ours == theirs


def test_a_later_step_changes_no_earlier_snapshot(make, node):
    reading = Reading(node, Settings(), Memory())
    first = reading.read({"counters"})
    second = reading.read({"links"})
    assert first.links.error is not None
    assert first.counters.get() is second.counters.get()
    assert (make.link(3, "eth0"), make.link(5, CLIENT)) == second.links.get()
    assert first.at == second.at is not None


def test_with_the_parts_go_all_that_they_are_made_from():
    endpoints = {"endpoints", "links", "host_routes", "ifstate", "ifstate_map", "pins", "pods", "cluster_pods"}
    assert frozenset() == with_sources(())
    assert {"nics", "counters", "counter_map", "pins"} == with_sources({"nics", "counters"})
    assert endpoints == with_sources({"endpoints"})
    assert {*endpoints, "policies", "rules"} == with_sources(["rules"])


@given(st.sets(st.sampled_from(PARTS)), st.sets(st.sampled_from(PARTS)))
def test_the_sources_of_sources_are_there_and_those_of_two_sets_are_those_of_each(one, other):
    assert one <= with_sources(one) == with_sources(with_sources(one))
    assert with_sources(one | other) == with_sources(one) | with_sources(other)


IS_OF_A_MAP = re.compile(r"(info|dump) ")


def test_maps_are_read_before_anything_else_and_one_directly_after_the_other(make, node):
    make.snapshot(node, parts=EVERY_PART)
    order = list(node.asked)  # by their first question, and there is no second
    assert "pin_names" == order[0]
    of_maps = [IS_OF_A_MAP.match(fact) is not None for fact in order[1:]]
    assert [*[True] * 3, *[False] * (len(of_maps) - 3)] == of_maps


def test_with_several_versions_only_the_links_that_tell_them_apart_are_read_before_the_maps(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(77, 0): {0: 1}}, slots=25)
    make.snapshot(node, parts=EVERY_PART)
    order = list(node.asked)
    assert ["pin_names", "links"] == order[:2]
    of_maps = [IS_OF_A_MAP.match(fact) is not None or fact == "programs" for fact in order[2:]]
    assert sorted(of_maps, reverse=True) == of_maps


def test_when_the_maps_were_read_is_told_and_only_then(make, node):
    before = time.monotonic()
    assert before <= make.snapshot(node).at <= time.monotonic()
    assert make.snapshot(node, parts={"links", "pods", "pins"}).at is None


# Error handling.


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
    snapshot = make.snapshot(node)
    for _ in range(3):
        with pytest.raises(type(error)) as caught:
            getattr(snapshot, part).get()
        assert str(error) == str(caught.value)
    assert 1 == node.asked[fact]


OF_MAPS = {"counter_map", "rule_map", "ifstate_map", "counters", "rule_hits", "ifstate", "conntrack", "policy_tags"}
OF_MAPS |= ON_REQUEST - {"addresses", "interfaces_to", "policy_files", "packets"}


@pytest.mark.parametrize(
    ("broken", "failed"),
    [
        ({"pin_names"}, {"pins", *OF_MAPS}),
        ({"cali_counters6"}, {"counter_map", "counters"}),
        ({"cali_rule_ctrs2"}, {"rule_map", "rule_hits"}),
        ({"cali_iface4"}, {"ifstate_map", "ifstate", "policy_tags"}),
        ({"cali_v6_ip_sets"}, {"ip_sets_6", "ip_set_trie_6"}),
        ({"cali_v4_nat_fe3"}, {"services_4"}),
        ({"cali_v6_nat_be"}, {"services_6"}),
        ({"cali_v4_nat_aff"}, {"services_4"}),
        ({"cali_v6_routes"}, {"routes_6"}),
        ({"cali_v6_ct4"}, {"conntrack", "conntrack_count"}),
        ({"addresses"}, {"addresses"}),
        ({"interfaces_to"}, {"interfaces_to"}),
        ({"links"}, {"links"}),
        ({"links", "cali_iface4"}, {"links", "ifstate_map", "ifstate", "policy_tags"}),
        ({"host_routes"}, {"host_routes"}),
        ({"endpoint_status"}, {"pods"}),
        ({"cluster_pods"}, {"cluster_pods"}),
        ({"nics"}, {"nics", "received"}),
        ({"queue_drops"}, {"queue_drops"}),
        ({"policy_files"}, {"policy_files", "policy_file_names", "policies", "rules"}),
    ],
)
def test_a_part_that_fails_takes_only_those_with_it_that_are_made_from_it(make, node, broken, failed):
    for name in broken:
        place = node.maps if name in node.maps else node.facts
        place[name] = MapDenied("refused")
    snapshot = make.snapshot(node, parts=PARTS)
    errors = {name: str(getattr(snapshot, name).error) for name in PARTS if getattr(snapshot, name).error}
    assert dict.fromkeys(failed, "refused") == errors


class Fresh(FakeNode):
    """A node that hands out a new copy of each map, and knows which of them are still somewhere."""

    def map_dump(self, name, **how):
        dump = super().map_dump(name, **how)
        dump = replace(dump, keys=bytes(bytearray(dump.keys)), values=bytes(bytearray(dump.values)))
        self.given = [*getattr(self, "given", []), dump.keys, dump.values]
        return dump


@pytest.mark.parametrize("name", ["", "cali_counters6", "cali_rule_ctrs2", "cali_iface4", "cali_v4_ip_sets"])
@pytest.mark.parametrize("how", ["missing", "misshapen", "undecided"])
def test_a_snapshot_keeps_no_raw_map_whatever_failed(make, node, name, how):
    if how == "undecided":
        node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    if name and how == "missing":
        del node.maps[name]
    elif name:
        dump = node.maps[name]
        node.maps[name] = replace(dump, info=replace(dump.info, key_size=3, value_size=3))
    fresh = Fresh(node.maps.values(), **node.facts)
    gc.disable()  # which would come by some time and hide it
    try:
        snapshot = make.snapshot(fresh, parts=PARTS)
        for part in PARTS:
            with suppress(ExporterError):
                getattr(snapshot, part).get()
        assert len(fresh.given) >= 6
        assert [] == held(fresh.given)
        assert snapshot.reader
    finally:
        gc.enable()


def test_a_snapshot_with_a_failed_part_is_gone_with_its_last_user(make, node):
    # A kept traceback would hold it until the garbage collector comes by.
    del node.maps["cali_rule_ctrs2"]
    collectors = make_collectors(COLLECTOR_NAMES)
    gc.disable()
    try:
        taken = []
        for _ in range(5):
            reading = Reading(node, Settings(), Memory())
            failed = {one.name for one in (run_collector(one, reading.read) for one in collectors) if one.failure}
            assert {"rules"} == failed
            snapshot = reading.read(PARTS)
            taken += [weakref.ref(snapshot), weakref.ref(reading)]
            del snapshot, reading
        assert [None] * 10 == [one() for one in taken]
    finally:
        gc.enable()


@pytest.mark.parametrize("part", ["counter_map", "counters"])
def test_a_map_that_cannot_be_read_fails_once_and_stays_failed(make, node, part):
    node.maps["cali_counters6"] = MapDenied("reading it was refused")
    snapshot = make.snapshot(node)
    for _ in range(3):
        with pytest.raises(MapDenied, match="reading it was refused"):
            getattr(snapshot, part).get()
    assert 1 == node.asked["dump cali_counters6"]


def test_a_new_snapshot_asks_again(make, node):
    node.facts["links"] = NodeError("not now")
    with pytest.raises(NodeError):
        make.snapshot(node).links.get()
    node.facts["links"] = [make.link(1, "lo")]
    assert (make.link(1, "lo"),) == make.snapshot(node).links.get()


@pytest.mark.parametrize(
    ("datum", "name", "part"),
    [
        ("counters", "cali_counters6", "counters"),
        ("iface", "cali_iface4", "ifstate"),
        ("rules", "cali_rule_ctrs2", "rule_map"),
    ],
)
def test_a_map_that_is_not_pinned_is_missing_and_the_sentence_says_why(make, node, datum, name, part):
    del node.maps[name]
    with pytest.raises(
        MapMissing, match=f"no {datum} map on this node, though others: .* search the log of calico-node"
    ):
        getattr(make.snapshot(node), part).get()
    node.maps = {}
    with pytest.raises(MapMissing, match=f"no {datum} map .* eBPF dataplane is off or has not started yet$"):
        getattr(make.snapshot(node), part).get()


def test_counters_outside_the_folder_are_told_as_v3_24_or_v3_25(make, node):
    del node.maps["cali_counters6"]
    node.facts["attach_point_folders"] = ["eth0_igr", "eth0_egr"]
    with pytest.raises(MapMissing, match=re.escape("v3.24 or v3.25, whose counter maps are not supported")):
        make.snapshot(node).counters.get()


def test_folders_of_attach_points_left_over_beside_a_counter_map_mean_nothing(make, node):
    node.facts["attach_point_folders"] = ["eth0_igr"]
    assert 2 == len(make.snapshot(node).counters.get().rows)
    assert 0 == node.asked["attach_point_folders"]


@pytest.mark.parametrize("error", [MapMissing("gone just now"), NotAMap("not a map")])
def test_a_pin_that_turns_out_to_be_nothing_leaves_the_others(make, node, error):
    node.maps["cali_counters5"] = error
    snapshot = make.snapshot(node)
    assert ("cali_counters6", "only") == (
        snapshot.counter_map.get().choice.live.name,
        snapshot.counter_map.get().choice.chosen_by,
    )
    assert ("cali_counters5",) == snapshot.counter_map.get().stale


@pytest.mark.parametrize("error", [MapMissing("gone just now"), NotAMap("not a map"), MapDenied("refused")])
def test_a_pin_that_is_the_only_one_says_its_own_sentence(make, node, error):
    node.maps["cali_counters6"] = error
    with pytest.raises(type(error), match=str(error)):
        make.snapshot(node).counters.get()


OTHER_KINDS = {"type": "array", "key_size": 4, "value_size": 1 << 20}


@pytest.mark.parametrize("name", ["cali_counters6", "cali_rule_ctrs2", "cali_iface4", "cali_v4_ip_sets"])
def test_another_kind_of_map_under_calicos_name_is_a_sentence_and_never_read(make, node, name):
    dump = node.maps[name]
    node.maps[name] = replace(dump, info=replace(dump.info, **OTHER_KINDS))
    snapshot = make.snapshot(node, parts=PARTS)
    parts = (snapshot.counters, snapshot.rule_hits, snapshot.ifstate, snapshot.ip_sets_4)
    failed = [one for one in parts if one.error]
    assert [f"{name} is a map of type array with keys of 4"] == [str(one.error).split(" and ")[0] for one in failed]
    assert 0 == node.asked[f"dump {name}"]
    versions = [one for one in snapshot.maps.values() if [name] == [each.name for each in one.get().candidates]]
    assert (name == "cali_v4_ip_sets") or versions[0].get().candidates[0].info.type == "array"


def test_another_kind_of_map_beside_calicos_is_stale(make, node):
    dump = node.maps["cali_counters6"]
    node.maps["cali_counters7"] = replace(dump, info=replace(dump.info, name="cali_counters7", **OTHER_KINDS))
    versions = make.snapshot(node).counter_map.get()
    assert ("cali_counters6", "only", ("cali_counters7",)) == (
        versions.choice.live.name,
        versions.choice.chosen_by,
        versions.stale,
    )


def test_another_kind_of_map_among_the_program_arrays_is_passed_over(make, node):
    dump = node.maps["cali_v4_ip_sets"]
    node.maps["cali_progs_ing2"] = replace(dump, info=replace(dump.info, name="cali_progs_ing2", **OTHER_KINDS))
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {})
    assert make.snapshot(node).counter_map.get().choice.chosen_by == "keys"
    assert 0 == node.asked["dump cali_progs_ing2"]


def test_a_pin_that_may_not_be_opened_hides_behind_no_other(make, node):
    node.maps["cali_counters7"] = MapDenied("refused")
    with pytest.raises(MapDenied):
        make.snapshot(node).counters.get()


def test_a_copy_made_while_calico_resizes_is_stale_and_never_alive(make, node):
    node.maps["cali_counters6_old"] = make.counters("cali_counters6_old", 61, {(5, 0): {0: 1}})
    versions = make.snapshot(node).counter_map.get()
    assert ("cali_counters6", "only") == (versions.choice.live.name, versions.choice.chosen_by)
    assert ("cali_counters6_old",) == versions.stale


def test_a_copy_without_its_map_is_a_missing_map(make, node):
    node.maps["cali_counters6_old"] = node.maps.pop("cali_counters6")
    with pytest.raises(MapMissing):
        make.snapshot(node).counters.get()


@pytest.mark.parametrize(("key_size", "value_size"), [(12, 216), (8, 0), (8, 100), (4, 216)])
def test_a_counter_map_of_an_unknown_shape_is_a_layout_error(make, node, key_size, value_size):
    info = MapInfo("", 60, "cali_counters6", "percpu_hash", key_size, value_size, 20000, 0)
    dump = node.maps["cali_counters6"]
    node.maps["cali_counters6"] = type(dump)(info, b"", b"", dump.copies)
    with pytest.raises(LayoutError):
        make.snapshot(node).counters.get()


def test_a_layout_file_names_slots_of_its_count_only(make, node):
    file = parse_layout_file("{when_slots: 15, slots: {14: {category: accepted, reason: egress_gateway}}}")
    assert "builtin" == make.snapshot(node, layout_file=file).counters.get().layout.source
    node.maps["cali_counters6"] = make.counters("cali_counters6", 60, {(5, 0): {14: 3}}, slots=15)
    layout = make.snapshot(node, layout_file=file).counters.get().layout
    assert ("file", "egress_gateway") == (layout.source, layout.slots[14].reason)
    assert "partial" == make.snapshot(node).counters.get().layout.source


def test_a_map_replaced_by_one_of_another_shape_between_two_questions_is_read_in_its_own(make, node):
    info = node.maps["cali_counters6"].info
    node.maps["cali_counters6"] = make.counters("cali_counters6", 61, {(5, 0): {0: 1}}, slots=25)
    node.map_info = lambda name: info if name == info.name else node.maps[name].info
    snapshot = make.snapshot(node)
    assert {(5, 0): (1, *[0] * 24)} == snapshot.counters.get().rows
    assert 25 == len(snapshot.counters.get().layout.slots)


def test_endpoints_do_without_interface_state(make, node):
    del node.maps["cali_iface4"]
    assert {3: "host", 5: "workload"} == {
        n: one.kind for n, one in make.snapshot(node).endpoints.get().by_index.items()
    }


def test_endpoints_do_without_links(make, node):
    node.facts["links"] = NodeError("no netlink")
    assert {3: "eth0", 5: CLIENT} == {
        n: one.interface for n, one in make.snapshot(node).endpoints.get().by_index.items()
    }


def test_endpoints_do_without_routes_and_pods(make, node):
    node.facts["host_routes"] = node.facts["endpoint_status"] = NodeError("gone")
    assert ["eth0", CLIENT] == [one.title for one in make.snapshot(node).endpoints.get().by_index.values()]


def test_without_links_and_interface_state_no_interface_has_a_name(make, node):
    node.facts["links"] = NodeError("no netlink")
    node.maps["cali_iface4"] = MapDenied("refused")
    assert "ifindex:5" == make.snapshot(node).endpoints.get().of(5).title


@pytest.mark.parametrize("size", [20, 40, 52, 60, 100])
def test_an_interface_state_of_any_size_is_read_while_it_fits_the_kernel(make, node, size):
    states = {3: ("eth0", 0xE), 5: (CLIENT, 0x7)}
    node.maps["cali_iface4"] = make.ifstate("cali_iface4", 40, states, size=size)
    assert ["eth0", CLIENT] == [state.name for state in make.snapshot(node).ifstate.get()]


def test_an_interface_state_that_contradicts_the_kernel_is_not_believed_and_takes_nothing_else(make, node):
    node.maps["cali_iface4"] = make.ifstate("cali_iface4", 40, {3: ("\1\2", 0xE), 5: ("\3", 0x7)}, size=60)
    snapshot = make.snapshot(node)
    assert isinstance(snapshot.ifstate.error, LayoutError)
    assert {3: "host", 5: "workload"} == {n: one.kind for n, one in snapshot.endpoints.get().by_index.items()}


def test_prefixes_are_those_of_the_settings(make, node):
    del node.maps["cali_iface4"]
    node.facts["links"] = [make.link(9, "eni9"), make.link(5, "cali5")]
    kinds = {n: one.kind for n, one in make.snapshot(node, prefixes=("eni",)).endpoints.get().by_index.items()}
    assert {9: "workload", 5: "host"} == kinds


def test_an_identity_outlives_the_snapshot_that_saw_it(make, node):
    memory = Memory()
    assert "ns-a/client" == make.snapshot(node, memory).endpoints.get().of(5).title
    node.facts["endpoint_status"] = NodeError("gone")
    assert "ns-a/client" == make.snapshot(node, memory).endpoints.get().of(5).title
    assert CLIENT == make.snapshot(node).endpoints.get().of(5).title


def test_identities_outlive_a_snapshot_without_links_and_interface_state(make, node):
    memory = Memory()
    assert "ns-a/client" == make.snapshot(node, memory).endpoints.get().of(5).title
    links, iface = node.facts["links"], node.maps.pop("cali_iface4")
    node.facts["links"] = node.facts["endpoint_status"] = NodeError("gone")
    assert "ns-a/client" == make.snapshot(node, memory).endpoints.get().of(5).title
    node.facts["links"], node.maps["cali_iface4"] = links, iface
    assert "ns-a/client" == make.snapshot(node, memory).endpoints.get().of(5).title


def test_a_status_file_that_is_cut_off_is_a_problem_of_the_pods_and_no_failure(make, node):
    node.facts["endpoint_status"].files["k8s ns-b%2Fserver eth0"] = b'{"ifaceName":"cali3476'
    snapshot = make.snapshot(node)
    assert ["client"] == [pod.pod for pod in snapshot.pods.get().pods]
    assert 1 == len(snapshot.pods.get().problems)
    assert 2 == len(snapshot.endpoints.get().by_index)


def test_of_several_interface_state_maps_the_one_that_names_what_is_here_is_alive(make, node):
    node.maps["cali_iface5"] = make.ifstate("cali_iface5", 50, {3: ("eth9", 0xE), 99: ("x", 0x7)})
    versions = make.snapshot(node).ifstate_map.get()
    assert ("cali_iface4", "keys") == (versions.choice.live.name, versions.choice.chosen_by)
    assert ("cali_iface5",) == versions.stale


def test_of_several_rule_maps_none_is_alive_without_a_program_that_uses_it(make, node):
    node.maps["cali_rule_ctrs3"] = make.rules("cali_rule_ctrs3", 30, {})
    assert (None, "undecided") == (
        make.snapshot(node).rule_map.get().choice.live,
        make.snapshot(node).rule_map.get().choice.chosen_by,
    )
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7)
    node.facts["programs"] = [make.program(7, 1, 30, 60)]
    choice = make.snapshot(node).rule_map.get().choice
    assert ("cali_rule_ctrs3", "programs") == (choice.live.name, choice.chosen_by)


def test_keys_of_existing_interfaces_decide_where_programs_and_movement_do_not(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(77, 0): {0: 1}}, slots=25)
    choice = make.snapshot(node).counter_map.get().choice
    assert ("cali_counters6", "keys") == (choice.live.name, choice.chosen_by)


def test_programs_that_may_not_be_asked_are_no_failure(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7)
    node.facts["programs"] = MapDenied("needs SYS_ADMIN")
    assert is_undecided(make.snapshot(node))


def test_a_program_array_that_cannot_be_read_is_no_failure(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    node.maps["cali_progs_ing2"] = MapDenied("refused")
    assert is_undecided(make.snapshot(node))


def test_only_the_programs_in_calicos_arrays_are_asked_for(make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 9, 7)
    node.maps["cali_progs_egr2"] = make.programs("cali_progs_egr2", 3, 8, 7)
    asked = []
    node.programs = lambda ids: asked.append(list(ids)) or []
    assert is_undecided(make.snapshot(node))
    assert [[7, 8, 9]] == asked


def test_a_snapshot_without_several_versions_asks_for_no_program(make, node):
    node.maps["cali_progs_ing2"] = make.programs("cali_progs_ing2", 2, 7)
    snapshot = make.snapshot(node)
    for part in EVERY_PART:
        getattr(snapshot, part).get()
    assert 0 == node.asked["programs"] == node.asked["dump cali_progs_ing2"]


def test_the_second_version_that_appears_is_compared_with_what_was_there_alone(make, node):
    memory = Memory()
    assert not is_undecided(make.snapshot(node, memory))
    node.maps["cali_counters7"] = make.counters("cali_counters7", 70, {(5, 0): {0: 1}})
    choice = make.snapshot(node, memory).counter_map.get().choice
    assert ("cali_counters6", "movement") == (choice.live.name, choice.chosen_by)


def test_a_counter_above_32_bits_is_seen_whole(make, node):
    dump = node.maps["cali_counters6"]
    first = [struct.pack("<27Q", *[0] * 4, value, *[0] * 22) for value in ((1 << 40) + 1, 1 << 33)]
    node.maps["cali_counters6"] = replace(dump, values=b"".join(first) + dump.values[2 * 216 :])
    assert (1 << 40) + (1 << 33) + 1 == make.snapshot(node).counters.get().rows[5, 0][4]
