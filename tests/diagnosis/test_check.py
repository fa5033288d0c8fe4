import re
from copy import copy
from dataclasses import replace

import pytest

from exporter.bpf.maps import MapDenied, MapDump, MapError, MapInfo, MapMissing, ReadAborted
from exporter.diagnosis.check import PARTS, findings
from exporter.diagnosis.map_fill import remedy
from exporter.node import NodeError
from exporter.node.files import Folder
from exporter.node.pods import ClusterPods
from exporter.snapshot.map_fill import MapFill
from exporter.snapshot.memory import Memory

STATUS = b'{"ifaceName":"calibf331a988cf","ipv4Nets":["10.65.0.2/32"]}'
SUBJECTS = [
    "reader",
    "pinned maps",
    "counter map",
    "counter layout",
    "counter entries",
    "interface state",
    "rule counters",
    "links",
    "routes",
    "namespace",
    "map fill",
    "policy debug",
    "endpoint files",
    "API server",
    "pod names",
]


@pytest.fixture
def node(make):
    """A node on which nothing is wrong."""
    return make.node(
        [
            make.counters("cali_counters6", 60, {(3, 0): {}, (3, 1): {}, (5, 0): {0: 11}, (5, 1): {0: 3}}),
            make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: ("calibf331a988cf", 0x7)}),
            make.rules("cali_rule_ctrs2", 20, {}),
        ],
        links=[make.link(3, "eth0"), make.link(5, "calibf331a988cf")],
        host_routes=[make.route("10.65.0.2", 5)],
        endpoint_status=make.folder(**{"k8s ns-a%2Fclient eth0": STATUS}),
        policy_files=make.folder(**{"calibf331a988cf_egress_v4.json": b"{}"}),
    )


@pytest.fixture
def found(make):
    """The findings about a node by subject; each subject once."""

    def of(source, memory=None):
        every = list(findings(make.snapshot(source, memory, PARTS)))
        by_subject = {one.subject: one for one in every}
        assert len(every) == len(by_subject)
        return by_subject

    return of


def missing(by_subject):
    return [subject for subject, one in by_subject.items() if one.state == "missing"]


def test_a_whole_node_is_all_ok_and_needs_nothing(found, node):
    by_subject = found(node)
    assert SUBJECTS == list(by_subject)
    assert {"ok"} == {one.state for one in by_subject.values()}
    assert {""} == {one.remedy for one in by_subject.values()}
    assert "cali_counters6, known by: only" == by_subject["counter map"].found
    assert "27 slots, builtin" == by_subject["counter layout"].found
    assert "2 of the 2 interfaces that Calico knows are here" == by_subject["namespace"].found


@pytest.mark.parametrize(
    "name", ["v3.29.7/05-eot-egress-deny.after", "v3.30.7/07-profile-allow.after", "v3.31.6/65-qos.after"]
)
def test_a_recorded_node_lacks_nothing(found, recorded, name):
    by_subject = found(recorded(name))
    assert [] == missing(by_subject)
    assert "6 of the 6 interfaces that Calico knows are here" == by_subject["namespace"].found


def test_the_wrong_namespace_is_noticed_although_every_one_has_a_loopback(found, recorded, make):
    elsewhere = copy(recorded("v3.32.1/02-ingress-deny.after"))
    elsewhere.links = lambda: (make.link(1, "lo"), make.link(3, "wlan0"))
    by_subject = found(elsewhere)
    assert ["namespace"] == missing(by_subject)
    assert "hostNetwork" in by_subject["namespace"].remedy


def test_a_node_without_calico_is_told_to_turn_it_on(found, make):
    by_subject = found(make.node(links=[make.link(1, "lo")]))
    assert ["counter map", "counter layout", "counter entries", "interface state", "namespace"] == missing(by_subject)
    assert "linuxDataplane: BPF" in by_subject["counter map"].remedy
    assert "note" == by_subject["rule counters"].state


def test_a_node_without_the_bpf_file_system_says_so_everywhere(found, make):
    by_subject = found(make.node(pin_names=MapMissing("/sys/fs/bpf/tc/globals does not exist")))
    assert "pinned maps" in missing(by_subject)
    for subject in ("pinned maps", "counter map", "interface state"):
        assert "/sys/fs/bpf/tc/globals does not exist" == by_subject[subject].found


def test_a_process_without_rights_is_told_which_to_get(found, node):
    node.maps["cali_counters6"] = MapDenied("opening it was refused", "run as root")
    by_subject = found(node)
    assert ["counter map", "counter layout", "counter entries"] == missing(by_subject)
    assert ("opening it was refused", "run as root") == (
        by_subject["counter map"].found,
        by_subject["counter map"].remedy,
    )


def test_an_old_release_is_named(found, node):
    del node.maps["cali_counters6"]
    node.facts["attach_point_folders"] = ["eth0_igr"]
    assert "v3.24 or v3.25" in found(node)["counter map"].found


def test_an_unknown_shape_is_asked_for_as_a_bundle(found, make, node):
    node.maps["cali_iface4"] = make.rules("cali_iface4", 40, {3: 1})
    one = found(node)["interface state"]
    assert ("missing", True) == (one.state, "bundle" in one.remedy)


def test_a_partial_layout_points_to_the_layout_file(found, make, node):
    node.maps["cali_counters6"] = make.counters("cali_counters6", 60, {(5, 0): {0: 1}}, slots=15)
    one = found(node)["counter layout"]
    assert ("ok", "15 slots, partial: some slots have no known name, see --calico.layout-file") == (
        one.state,
        one.found,
    )


def test_left_over_versions_are_named_beside_the_live_one(found, make, node):
    memory = Memory()
    memory.counters.proven = 60
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    expected = "cali_counters6, known by: movement; left over beside it: cali_counters5"
    assert expected == found(node, memory)["counter map"].found


def test_undecided_is_missing_and_says_what_to_do(found, make, node):
    node.maps["cali_counters5"] = make.counters("cali_counters5", 50, {(5, 0): {0: 1}}, slots=25)
    one = found(node)["counter map"]
    assert "missing" == one.state
    assert re.match("undecided which of cali_counters5, cali_counters6 Calico uses now: .*; send traffic", one.found)


def test_another_network_namespace_is_told_as_such(found, make, node):
    node.facts["links"] = [make.link(1, "lo"), make.link(2, "eth0")]
    one = found(node)["namespace"]
    assert ("missing", "run it in the node's network namespace (hostNetwork: true)") == (one.state, one.remedy)


def test_an_index_under_another_name_is_not_here(found, make, node):
    node.facts["links"] = [make.link(3, "eth0"), make.link(5, "other0")]
    assert "1 of the 2 interfaces that Calico knows are here" == found(node)["namespace"].found


def test_what_is_left_of_interfaces_that_are_gone_is_named(found, make, node):
    gone = {index: (f"cali{index}", 0x7) for index in range(100, 108)}
    node.maps["cali_iface4"] = make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: ("calibf331a988cf", 0x7)} | gone)
    node.maps["cali_counters6"] = make.counters(
        "cali_counters6", 60, {(3, 0): {}, (3, 1): {}, (5, 0): {0: 1}, (5, 1): {}, (100, 0): {}, (200, 1): {}}
    )
    node.facts["policy_files"].files["cali0_ingress_v4.json"] = b"{}"
    node.facts["endpoint_status"].files["k8s ns-b%2Fold eth0"] = b'{"ifaceName": "cali1"}'
    by_subject = found(node)
    assert ([], "note") == (missing(by_subject), by_subject["leftovers"].state)
    for words in (
        "counter map: cali100 (ifindex 100), ifindex 200;",
        "interface state: cali100 (ifindex 100), cali101 (ifindex 101),",
        "cali104 (ifindex 104) and 3 more;",
        "policy files: cali0;",
        "endpoint-status files: cali1",
    ):
        assert words in by_subject["leftovers"].found
    assert "2 of the 10 interfaces that Calico knows are here" == by_subject["namespace"].found


def test_an_interface_that_loses_every_packet_or_is_not_ready_is_named(found, make, node):
    node.maps["cali_counters6"] = make.counters("cali_counters6", 60, {(3, 0): {}, (3, 1): {}, (5, 0): {0: 11}})
    one = found(node)["missing entries"]
    assert "every packet is dropped and not counted for want of a counter entry: ns-a/client at tc_egress" in one.found
    assert ("missing", "restart calico-node on this node") == (one.state, one.remedy)
    assert "not ready" not in found(node)
    node.maps["cali_iface4"] = make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: ("calibf331a988cf", 0x5)})
    one = found(node)["not ready"]
    assert ("note", "Calico's programs are not in place: ns-a/client (IPv4)") == (one.state, one.found)
    node.facts["links"] = NodeError("no links")
    assert {"missing entries", "not ready"}.isdisjoint(found(node))


@pytest.mark.parametrize(("fact", "subject"), [("links", "links"), ("host_routes", "routes")])
def test_what_netlink_refuses_is_missing(found, node, fact, subject):
    node.facts[fact] = NodeError("netlink said no")
    one = found(node)[subject]
    assert ("missing", "netlink said no") == (one.state, one.found)


def test_no_policy_files_and_no_pods_are_notes_with_a_remedy(found, make, node):
    node.facts["policy_files"] = node.facts["endpoint_status"] = make.folder()
    by_subject = found(node)
    assert [] == missing(by_subject)
    assert ("note", "off: 0 policy files") == (by_subject["policy debug"].state, by_subject["policy debug"].found)
    assert "bpfPolicyDebugEnabled" in by_subject["policy debug"].remedy
    assert "endpointStatusPathPrefix" in by_subject["pod names"].remedy


def test_folders_that_may_not_be_listed_are_notes(found, node):
    node.facts["policy_files"] = node.facts["endpoint_status"] = NodeError("could not be listed")
    by_subject = found(node)
    assert ["pod names"] == missing(by_subject)  # nothing names the pods that are there
    for subject in ("policy debug", "endpoint files"):
        assert ("note", "could not be listed") == (by_subject[subject].state, by_subject[subject].found)


def test_of_a_full_map_that_this_program_does_not_know_it_does_not_say_that_no_setting_sizes_it():
    assert "no setting" in remedy(MapFill("qos", "", "cali_qos2"))
    assert "new to this program" in remedy(MapFill("cali_new7", "", "cali_new7"))


def test_a_rule_map_that_cannot_be_decoded_is_a_note(found, make, node):
    dump = node.maps["cali_rule_ctrs2"]
    node.maps["cali_rule_ctrs2"] = replace(dump, info=replace(dump.info, value_size=16))
    one = found(node)["rule counters"]
    assert ("note", "the rule counter map has keys of 8 and values of 16 bytes, expected 8 and 8") == (
        one.state,
        one.found,
    )
    assert "bundle" in one.remedy


@pytest.mark.parametrize("fact", ["nics", "queue_drops"])
def test_kernel_counters_that_cannot_be_read_are_a_note(found, node, fact):
    node.facts[fact] = NodeError("refused", "allow it")
    one = found(node)["uncounted drops"]
    assert ("note", "refused", "allow it") == (one.state, one.found.rpartition(": ")[2], one.remedy)


def test_policy_files_of_which_none_can_be_read_are_a_note_alone(found, node):
    node.facts["policy_files"] = Folder(
        present=True, files={}, problems=("the 2 files of /x could not be read",), unread=("a", "b")
    )
    one = found(node)["policy debug"]
    assert ("note", "the 2 files of /x could not be read") == (one.state, one.found)


@pytest.mark.parametrize("state", ["none", "renamed"])
def test_a_pods_interface_that_calico_does_not_know_is_a_note(found, make, node, state):
    if state == "none":
        node.maps["cali_iface4"] = make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE)})
    else:
        node.facts["links"] = [make.link(3, "eth0"), make.link(5, "cali1")]
    one = found(node)["not ready"]
    assert ("note", "calico-node" in one.remedy) == (one.state, True)
    assert ("cali1" if state == "renamed" else "ns-a/client") in one.found
    node.maps["cali_iface4"] = MapDenied("refused")
    assert "not ready" not in found(node)


@pytest.mark.parametrize(
    ("facts", "state", "advice"),
    [
        ({}, "note", r"set endpointStatusPathPrefix .* or read pods from the API server: --kubernetes"),
        ({"run_dir": NodeError("gone")}, "missing", r"follow .* names, or read pods from the API server: --kubernetes"),
        ({"cluster_pods": ClusterPods(problem="refused")}, "missing", r"follow the remedies above .* names"),
        ({"cluster_pods": ClusterPods(synced=1.0)}, "missing", r".* with --kubernetes\.node"),
    ],
)
def test_why_no_pod_has_a_name_decides_what_to_do(found, make, node, facts, state, advice):
    node.facts |= {"endpoint_status": make.folder(), **facts}
    one = found(node)["pod names"]
    assert (state, True) == (one.state, bool(re.fullmatch(advice, one.remedy))), one.remedy


def test_a_pod_without_a_name_beside_others_is_named_by_its_interface(found, make, node):
    node.facts["links"] = [*node.facts["links"], make.link(9, "cali9")]
    one = found(node)["pod names"]
    assert ("note", "1 of 2 workload interfaces have a pod's name, not cali9") == (one.state, one.found)
    assert "just started" in one.remedy


def test_each_odd_status_file_is_a_note_of_its_own(make, node):
    node.facts["endpoint_status"].files.update({"cut": b"{", "k8s ns-b%2Fserver eth0": b"{}"})
    notes = [one for one in findings(make.snapshot(node, parts=PARTS)) if one.subject == "endpoint files"]
    assert ["ok", "note", "note"] == [one.state for one in notes]


@pytest.mark.parametrize("error", [MapError("odd"), MapDenied("odd"), MapMissing("odd"), ReadAborted("odd")])
def test_whatever_fails_no_finding_is_lost(found, node, error):
    node.maps = dict.fromkeys(node.maps, error)
    node.facts |= dict.fromkeys(
        ("links", "host_routes", "endpoint_status", "policy_files", "cluster_pods"), NodeError("odd")
    )
    by_subject = found(node)
    assert SUBJECTS == list(by_subject)
    assert all(one.found for one in by_subject.values())


def test_nothing_is_asked_for_twice(found, node):
    found(node)
    assert {1} == set(node.asked.values())


def filled(name, entries, max_entries, kind="hash"):
    """A map with this many entries, whatever they are."""
    info = MapInfo(name, hash(name) & 0xFFFF, name, kind, 16, 88, max_entries, 0)
    return MapDump(info, bytes(16 * entries), bytes(88 * entries))


@pytest.mark.parametrize(
    ("name", "kind", "found_part", "remedy_part"),
    [
        (
            "cali_v4_ct3",
            "hash",
            "conntrack (IPv4), cali_v4_ct3: 81 of 100 entries, 81%; it refuses",
            "Conntrack in the",
        ),
        (
            "cali_v6_ct4",
            "lru_hash",
            "conntrack (IPv6), cali_v6_ct4: 81 of 100 entries, 81%; it evicts",
            "SizeConntrack",
        ),
        ("cali_v4_nat_fe3", "lpm_trie", "nat_frontend (IPv4)", "bpfMapSizeNATFrontend"),
        ("cali_v4_nat_be", "hash", "nat_backend (IPv4)", "bpfMapSizeNATBackend"),
        ("cali_v6_routes", "lpm_trie", "route (IPv6)", "bpfMapSizeRoute"),
        ("cali_v4_ip_sets", "lpm_trie", "ip_sets (IPv4)", "bpfMapSizeIPSets"),
        ("cali_v4_ccq2", "hash", "conntrack_cleanup (IPv4)", "bpfMapSizeConntrackCleanupQueue"),
        ("cali_v4_mglv2", "hash", "maglev (IPv4)", "bpfMaglevMaxServices"),
        ("cali_v4_fsafes2", "lpm_trie", "failsafe (IPv4)", "no setting"),
    ],
)
def test_a_map_that_is_nearly_full_is_a_note_that_names_its_setting(found, node, name, kind, found_part, remedy_part):
    node.maps[name] = filled(name, 81, 100, kind)
    one = found(node)["map fill"]
    assert "note" == one.state
    assert found_part in one.found
    assert remedy_part in one.remedy
    node.maps[name] = filled(name, 80, 100, kind)
    assert "ok" == found(node)["map fill"].state


def test_interface_state_that_is_nearly_full_names_its_setting(found, make, node):
    links = [make.link(number, f"eth{number}") for number in range(2, 12)]
    node.facts["links"] = links
    dump = make.ifstate("cali_iface4", 40, {one.ifindex: (one.name, 0xE) for one in links})
    node.maps["cali_iface4"] = replace(dump, info=replace(dump.info, max_entries=11))
    one = found(node)["map fill"]
    assert "iface, cali_iface4: 10 of 11 entries, 91%" in one.found
    assert "bpfMapSizeIfState" in one.remedy


def test_maps_that_are_full_by_design_are_no_note_and_one_that_cannot_be_read_is(found, make, node):
    node.maps["cali_v4_arp2"] = filled("cali_v4_arp2", 100, 100, "lru_hash")
    one = found(node)["map fill"]
    assert "ok" == one.state
    assert "4 maps" in one.found
    assert "arp" not in one.found
    node.maps["cali_v6_arp2"] = MapDenied("cali_v6_arp2 may not be opened")
    *_, last = [one for one in findings(make.snapshot(node, parts=PARTS)) if one.subject == "map fill"]
    assert ("note", "cali_v6_arp2 may not be opened") == (last.state, last.found)


def test_an_empty_interface_state_is_not_another_namespace(found, make, node):
    node.maps["cali_iface4"] = make.ifstate("cali_iface4", 40, {})
    one = found(node)["namespace"]
    assert ("ok", "0 of the 0 interfaces that Calico knows are here") == (one.state, one.found)
