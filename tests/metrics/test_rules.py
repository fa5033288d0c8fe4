"""Collector `rules`: each rule once, no zero that nothing counts, and what no file explains has a value of its own."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDenied, MapDump, MapError, MapInfo
from exporter.metrics import endpoints, rules, self_metrics
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.rules import RulesCollector
from exporter.metrics.scrape import ON_BY_DEFAULT, collected_samples, make_collectors, run_collector
from exporter.metrics.self_metrics import ExporterCollector
from exporter.node import NodeError
from exporter.node.files import Folder
from exporter.node.policies import policies_of
from tests.metrics.conftest import series_of
from tests.recorded import NAMES, law_of_recordings

RULE_MAP = "cali_rule_ctrs2"
WORKLOAD, HOST, READY = 0x1, 0x8, 0x2
STATES = {3: ("eth0", HOST | READY), 5: ("cali1", WORKLOAD | READY), 7: ("cali2", WORKLOAD | READY)}
PODS = {"cali1": ("ns-a", "client"), "cali2": ("ns-b", "server")}
BIG = (1 << 53) - 1


def rule_map(hits, cpus=2):
    """A rule counter map from {id: hits}, whose last CPU holds one of each."""
    keys = np.array(list(hits), "<u8").reshape(-1, 1)
    values = np.zeros((len(hits), cpus, 1), "<u8")
    for row, number in enumerate(hits.values()):
        values[row, -1], values[row, 0] = min(number, 1), number - min(number, 1)
    info = MapInfo(RULE_MAP, 20, RULE_MAP, "percpu_hash", 8, 8, 10000, 0)
    return MapDump(info, keys.tobytes(), values.tobytes(), cpus)


def written(*comments, error=""):
    """A policy debug file: each comment on an instruction, a number is what the code loads into R2."""
    instructions = [{"inst": [0] * 8, "labels": ["allowed_by_host_policy"]}]
    for one in comments:
        if isinstance(one, int):
            code = one.to_bytes(8, "little")
            instructions += [{"inst": [0x18, 2, 0, 0, *code[:4]]}, {"inst": [0, 0, 0, 0, *code[4:]]}]
        else:
            instructions.append({"inst": [0] * 8, "comments": [one]})
    return json.dumps({"policyInfo": instructions, "error": error}).encode()


def gate(*rules, name="gate", end=": deny"):
    """The comments of a policy `gate` in tier `default` from (action, id) of its rules."""
    lines = [(f'Start of rule {name} action:"{action}"', f"Rule MatchID: {number}") for action, number in rules]
    inside = [line for pair in lines for line in pair]
    start = f"GlobalNetworkPolicy {name} 0"
    return ["Start of tier default", f"Start of {start}", *inside, f"End of {start}", f"End of tier default{end}"]


def labels(rule, action, direction="inbound"):
    return ("GlobalNetworkPolicy", "", "gate", "default", direction, str(rule), action)


@pytest.fixture(scope="module")
def source(node):
    """A node with these policy files and rule counters; `files=None` leaves the folder out."""

    def make(files=(), hits=(), slots=27, states=STATES, **facts):
        made = node({(5, 0): {}}, states, slots=slots, pods=PODS, **facts)
        made.maps[RULE_MAP] = rule_map(dict(hits))
        folder = Folder(present=files is not None, files=dict(files or ()), problems=())
        made.policies = lambda: policies_of(folder)
        return made

    return make


@pytest.fixture(scope="module")
def collect(source, snapshot_of):
    """The samples of the collector over a node of these facts."""

    def run(*facts, unattributed=False, zeros="all", **named):
        collector = RulesCollector(CollectorOptions(rules_zeros=zeros, unattributed=unattributed))
        return collector.collect(snapshot_of(source(*facts, **named), parts=RulesCollector.parts))

    return run


# Rules.


def test_a_rule_has_its_hits_and_one_that_was_never_hit_a_zero(collect, series):
    files = {"cali1_ingress_v4.json": written(*gate(("deny", 11), ("next-tier", 12), ("allow", 13)), 14)}
    end = ("Tier", "", "", "default", "inbound", "end_of_tier", "deny")
    expected = {labels(0, "deny"): BIG, labels(1, "pass"): 0, labels(2, "allow"): 3, end: 5}
    assert expected == series(collect(files, {11: BIG, 13: 3, 14: 5}), rules.HITS)


def test_recorded_denials_are_under_the_names_of_their_rules(recorded, series):
    collector = RulesCollector(CollectorOptions(rules_zeros="all"))
    found = series(collector.collect(recorded("v3.32.1/05-eot-egress-deny.after")), rules.HITS)
    assert 7 == found["GlobalNetworkPolicy", "", "security.gate", "security", "outbound", "2", "pass"]
    assert 7 == found["Tier", "", "", "default", "outbound", "end_of_tier", "deny"]
    assert 29 == len(found)


@law_of_recordings(NAMES)
def on_a_recorded_node_each_rule_stands_once_and_no_log_rule_at_all(recording):
    snapshot = recording.proven
    found = series_of(RulesCollector(CollectorOptions(rules_zeros="all")).collect(snapshot), rules.HITS)
    assert len(snapshot.rules.get().table.names) == len(found)
    assert {action for *_, action in found} <= {"allow", "deny", "pass"}


def test_a_log_rule_and_what_only_an_xdp_program_has_are_not_counted(collect, series):
    files = {"eth0_xdp_v4.json": written(*gate(("deny", 11)), 12), "eth0_egress_v4.json": written(*gate(("log", 13)))}
    samples = collect(files, {11: 1, 12: 2, 13: 3})
    assert {} == series(samples, rules.HITS)
    assert {(): 0} == series(samples, rules.UNATTRIBUTED_IDS)


def test_a_rule_of_tc_is_counted_though_an_xdp_program_has_it_too(collect, series):
    content = written(*gate(("deny", 11)))
    files = {"eth0_xdp_v4.json": content, "eth0_ingress_v4.json": content}
    assert {labels(0, "deny"): 4} == series(collect(files, {11: 4}), rules.HITS)


ACTIONS = st.sampled_from(["allow", "deny", "next-tier", "log"])
CONTENTS = st.builds(
    lambda listed, name, end, number: written(*gate(*listed, name=name, end=end), *([number] if end else [])),
    st.lists(st.tuples(ACTIONS, st.integers(0, 9)), max_size=4),
    st.sampled_from(["gate", "ns/gate", "", 'a"b', "a\\b", "a%sb", "a\nb", "ä"]),
    st.sampled_from(["", ": deny", ": pass"]),
    st.integers(0, 9),
)
FILE_NAMES = [
    f"{one}_{word}"
    for one in ("cali1", "cali9", "eth0")
    for word in ("ingress_v4.json", "egress_v6.json", "xdp_v4.json")
]


@given(
    st.dictionaries(st.sampled_from([*FILE_NAMES, "README"]), CONTENTS | st.just(b"{"), max_size=5),
    st.dictionaries(st.integers(0, 12), st.integers(0, BIG), max_size=6),
    st.sampled_from([14, 17, 27, 30]),
    st.booleans(),
)
def test_whatever_files_there_are_no_two_samples_are_the_same(collect, rows, files, hits, slots, unattributed):
    found = [(family, given) for family, given, _ in rows(collect(files, hits, slots=slots, unattributed=unattributed))]
    assert sorted(set(found)) == sorted(found)


@given(st.permutations(FILE_NAMES))
def test_the_order_of_files_changes_nothing(collect, rows, names):
    contents = {name: written(*gate(("deny", number), ("allow", 9)), 20) for number, name in enumerate(FILE_NAMES, 1)}
    hits = {number: 10**number for number in range(1, 10)}
    samples = rows(collect({name: contents[name] for name in names}, hits))
    assert rows(collect(contents, hits)) == samples


# Resets.


def scrapes(snapshot_of, collector, *sources):
    return [collector.collect(snapshot_of(source, parts=RulesCollector.parts)) for source in sources]


def test_a_map_that_was_wiped_is_a_counter_from_zero(source, snapshot_of, series):
    files = {"cali1_ingress_v4.json": written(*gate(("deny", 11)))}
    before, after = scrapes(snapshot_of, RulesCollector(), source(files, {11: 100}), source(files))
    assert [{labels(0, "deny"): 100}, {labels(0, "deny"): 0}] == [series(one, rules.HITS) for one in (before, after)]


def test_a_rule_that_moves_down_takes_its_new_place_and_id_and_leaves_none_behind(source, snapshot_of, series):
    files = [
        {"cali1_ingress_v4.json": written(*gate(*rows))} for rows in ([("deny", 11)], [("deny", 11), ("deny", 12)])
    ]
    before, after = scrapes(snapshot_of, RulesCollector(), source(files[0], {11: 5}), source(files[1], {11: 5, 12: 1}))
    assert {labels(0, "deny"): 5} == series(before, rules.HITS)
    assert {labels(0, "deny"): 5, labels(1, "deny"): 1} == series(after, rules.HITS)
    (last,) = scrapes(snapshot_of, RulesCollector(), source(files[0], {12: 1}))
    assert {(): 1} == series(last, rules.UNATTRIBUTED_IDS)


def test_a_rule_whose_action_changed_is_another(source, snapshot_of, series):
    files = [{"cali1_ingress_v4.json": written(*gate(one))} for one in (("deny", 11), ("allow", 12))]
    collector = RulesCollector()
    before, after = (collector.collect(snapshot_of(source(one, {11: 5, 12: 6}))) for one in files)
    assert [{labels(0, "deny"): 5}, {labels(0, "allow"): 6}] == [series(one, rules.HITS) for one in (before, after)]


# Unattributed ids.


@pytest.mark.parametrize("slots", [13, 14, 15, 16])
def test_before_17_slots_id_0_is_no_count_of_drops_and_always_shown(collect, series, slots):
    samples = collect({"cali1_ingress_v4.json": written(*gate(("deny", 11), end=""))}, {0: 6}, slots=slots)
    assert {("0",): 6} == series(samples, rules.UNATTRIBUTED_HITS)
    assert {} == series(samples, rules.NO_PROFILE_MATCH_HITS)


@pytest.mark.parametrize("slots", [17, 23, 25, 27, 30])
def test_from_17_slots_on_id_0_is_no_profile_matched_and_nothing_else(collect, series, slots):
    files = {"cali1_ingress_v4.json": written(*gate(("deny", 11)))}
    for hits in ({0: 6}, {}):
        samples = collect(files, hits, slots=slots, unattributed=True)
        assert {(): hits.get(0, 0)} == series(samples, rules.NO_PROFILE_MATCH_HITS)
        assert {} == series(samples, rules.UNATTRIBUTED_HITS)
        assert {(): 0} == series(samples, rules.UNATTRIBUTED_IDS)


@pytest.mark.parametrize(
    ("name", "no_profile", "zero"),
    [
        ("v3.29.7/04-eot-ingress-deny.after", None, 6),
        ("v3.29.7/50-tier-default-pass.after", None, 63),
        ("v3.29.7/04-eot-ingress-deny.before", None, 0),
        ("v3.32.1/06-no-profile-match.before", 0, None),
        ("v3.32.1/06-no-profile-match.after", 9, None),
        ("v3.31.6/46-flowlogs-enabled.after", 4, None),
        ("v3.32.1/46-flowlogs-enabled.after", 9, None),
        ("upgrade/1-v3.29.7", None, 4),
        ("upgrade/4-v3.32.1", 3, None),
    ],
)
def test_id_0_of_recorded_nodes(recorded, series, name, no_profile, zero):
    samples = RulesCollector().collect(recorded(name))
    assert no_profile == series(samples, rules.NO_PROFILE_MATCH_HITS).get(())
    assert zero == series(samples, rules.UNATTRIBUTED_HITS).get(("0",))


@pytest.mark.parametrize("counters", [None, MapError("it kept changing"), MapDenied("refused"), 12])
@pytest.mark.parametrize(("end", "no_profile"), [(": deny", True), (": pass", True), ("", False)])
def test_without_a_counter_layout_the_files_tell_what_id_0_is(source, snapshot_of, series, counters, end, no_profile):
    made = source({"cali1_ingress_v4.json": written(*gate(("deny", 11), end=end))}, {0: 6})
    if counters is None:
        del made.maps["cali_counters6"]
    elif isinstance(counters, int):
        dump = made.maps["cali_counters6"]
        made.maps["cali_counters6"] = replace(dump, info=replace(dump.info, key_size=counters))
    else:
        made.maps["cali_counters6"] = counters
    samples = RulesCollector().collect(snapshot_of(made, parts=RulesCollector.parts))
    assert ({(): 6} if no_profile else {}) == series(samples, rules.NO_PROFILE_MATCH_HITS)
    assert ({} if no_profile else {("0",): 6}) == series(samples, rules.UNATTRIBUTED_HITS)


@pytest.mark.parametrize(("slots", "no_profile"), [(14, False), (17, True), (27, True)])
def test_where_the_files_do_not_tell_what_id_0_is_the_counter_layout_does(collect, series, slots, no_profile):
    samples = collect({"cali1_ingress_v4.json": written()}, {0: 6}, slots=slots)
    assert ({(): 6} if no_profile else {}) == series(samples, rules.NO_PROFILE_MATCH_HITS)
    assert ({} if no_profile else {("0",): 6}) == series(samples, rules.UNATTRIBUTED_HITS)


def test_where_nothing_tells_id_0_is_one_id_that_no_file_explains(source, snapshot_of, series):
    made = source({"cali1_ingress_v4.json": written()}, {0: 6})
    del made.maps["cali_counters6"]
    samples = RulesCollector().collect(snapshot_of(made, parts=RulesCollector.parts))
    assert {} == series(samples, rules.NO_PROFILE_MATCH_HITS) == series(samples, rules.UNATTRIBUTED_HITS)
    assert {(): 1} == series(samples, rules.UNATTRIBUTED_IDS)


def test_ids_that_no_file_explains_are_counted_and_on_demand_shown(collect, series):
    files = {"cali1_ingress_v4.json": written(*gate(("deny", 11)), 14)}
    hits = {0: 1, 11: 2, 12: 3, (1 << 64) - 1: 4, 14: 5}
    assert {(): 2} == series(collect(files, hits), rules.UNATTRIBUTED_IDS)
    assert {} == series(collect(files, hits), rules.UNATTRIBUTED_HITS)
    samples = collect(files, hits, unattributed=True)
    assert {(): 2} == series(samples, rules.UNATTRIBUTED_IDS)
    assert {("12",): 3, ("18446744073709551615",): 4} == series(samples, rules.UNATTRIBUTED_HITS)


@pytest.mark.parametrize("unattributed", [False, True])
def test_before_17_slots_id_0_stands_once_beside_the_others(collect, series, unattributed):
    files = {"cali1_ingress_v4.json": written(*gate(end=""))}
    samples = collect(files, {0: 6, 12: 3}, slots=14, unattributed=unattributed)
    assert {("0",): 6} | ({("12",): 3} if unattributed else {}) == series(samples, rules.UNATTRIBUTED_HITS)
    assert {(): 2} == series(samples, rules.UNATTRIBUTED_IDS)


@pytest.mark.parametrize("files", [None, {}, {"README": b"x"}, {"cali1_ingress_v4.json.tmp": written()}])
def test_without_policy_files_no_rule_has_a_sample_and_the_collector_works(source, read_of, rows, series, files):
    result = run_collector(RulesCollector(), read_of(source(files, {0: 1, 11: 2})))
    assert result.failure is None
    assert {(): 0} == series(result.samples, rules.DEBUG_FILES)
    assert {("policy_error",): 0} == series(result.samples, endpoints.PROBLEMS)
    assert {(): 2} == series(result.samples, rules.UNATTRIBUTED_IDS)
    assert 3 == len(rows(result.samples))


@pytest.mark.parametrize("fact", ["run_dir", "folder"])
def test_where_no_policy_file_can_be_read_nothing_says_that_there_is_none(source, snapshot_of, series, fact):
    made = source(None, {11: 2}, policy_names=["cali1_ingress_v4.json"])
    if fact == "run_dir":
        made.run_dir = NodeError("it does not exist")
    else:
        files = Folder(present=True, files={}, problems=("refused",), unread=("cali1_ingress_v4.json",))
        made.policies = lambda: files
    snapshot = snapshot_of(made, parts=RulesCollector.parts | ExporterCollector.parts)
    samples = RulesCollector().collect(snapshot) + ExporterCollector().collect(snapshot)
    assert {} == series(samples, rules.DEBUG_FILES) == series(samples, endpoints.PROBLEMS)
    assert {(): 1} == series(samples, rules.UNATTRIBUTED_IDS)
    assert 0 == series(samples, self_metrics.SOURCE_AVAILABLE)["policy_files",]


# Files and carriers.


def test_policy_files_that_were_read_are_counted(collect, series):
    files = {
        "cali1_ingress_v4.json": written(),
        "cali9_egress_v6.json": written(),
        "README": b"",
        "x_xdp_v4.json": b"{",
    }
    assert {(): 2} == series(collect(files), rules.DEBUG_FILES)
    assert {(): 16} == series(
        collect(dict.fromkeys([f"c{n}_egress_v4.json" for n in range(16)], written())), rules.DEBUG_FILES
    )


def test_interfaces_that_carry_a_policy_are_counted_once_while_they_live(collect, series):
    names = [
        f"{one}_{word}_v{family}.json"
        for one in ("cali1", "cali2", "cali9")
        for word in ("ingress", "egress")
        for family in (4, 6)
    ]
    found = series(collect(dict.fromkeys(names, written(*gate(("deny", 11))))), rules.POLICY_INTERFACES)
    policy = ("GlobalNetworkPolicy", "", "gate", "default")
    assert {(*policy, "inbound"): 2, (*policy, "outbound"): 2} == found


def test_a_policy_without_rules_or_only_in_xdp_is_carried_too(collect, series):
    files = {"cali1_egress_v4.json": written(*gate()), "eth0_xdp_v4.json": written(*gate(("deny", 11)))}
    policy = ("GlobalNetworkPolicy", "", "gate", "default")
    assert {(*policy, "inbound"): 1, (*policy, "outbound"): 1} == series(collect(files), rules.POLICY_INTERFACES)


def test_a_pods_files_that_outlive_it_explain_their_ids_and_carry_nothing(collect, series):
    samples = collect({"cali9_ingress_v4.json": written(*gate(("deny", 11)), error="gone")}, {11: 5})
    assert {} == series(samples, rules.POLICY_INTERFACES) == series(samples, rules.POLICY_ERROR)
    assert {(): 0} == series(samples, rules.UNATTRIBUTED_IDS)
    assert {labels(0, "deny"): 5} == series(samples, rules.HITS)


# Endpoints whose policy program is not loaded.


def test_a_policy_error_has_the_labels_of_its_endpoint_and_is_counted(collect, series):
    files = {"cali1_ingress_v4.json": written(error="no space"), "eth0_xdp_v6.json": written(error="no space")}
    samples = collect(files)
    assert {
        ("cali1", "tc_egress", "inbound", "ns-a", "client", "4"): 1,
        ("cali2", "tc_egress", "inbound", "ns-b", "server", "4"): 1,  # none, while cali1 has one
        ("eth0", "xdp", "inbound", "", "", "6"): 1,
    } == series(samples, rules.POLICY_ERROR)
    assert {("policy_error",): 3} == series(samples, endpoints.PROBLEMS)


@given(st.dictionaries(st.sampled_from(FILE_NAMES), st.sampled_from([written(), written(error="x"), b"{"])))
def test_the_number_of_policy_errors_is_that_of_their_series(collect, series, files):
    samples = collect(files)
    number = series(samples, endpoints.PROBLEMS).get(("policy_error",))
    unread = set(files.values()) == {b"{"}
    assert (None if unread else len(series(samples, rules.POLICY_ERROR))) == number


# Scrapes.


def test_a_scrape_after_a_change_of_policy_shows_it_and_one_after_none_the_new_hits(source, snapshot_of, series):
    collector, found = RulesCollector(), []
    for word, hits in (("deny", 1), ("deny", 2), ("allow", 3)):
        made = source({"cali1_ingress_v4.json": written(*gate((word, 11)))}, {11: hits})
        found.append(series(collector.collect(snapshot_of(made)), rules.HITS))
    assert [{labels(0, "deny"): 1}, {labels(0, "deny"): 2}, {labels(0, "allow"): 3}] == found


def missing(source):
    del source.maps[RULE_MAP]


def misshapen(source):
    dump = source.maps[RULE_MAP]
    source.maps[RULE_MAP] = MapDump(replace(dump.info, value_size=16), dump.keys, bytes(dump.count * 2 * 16), 2)


def refused(source):
    source.maps[RULE_MAP] = MapDenied("reading it was refused")


def unlisted(source):
    def fail():
        raise NodeError("/policy could not be listed: Permission denied")

    source.policies = source.policy_file_names = fail


# `maps` reads every map to tell its fill.
@pytest.mark.parametrize(
    ("break_it", "failing", "sentence"),
    [
        (
            missing,
            {"rules"},
            (
                "Calico has pinned no rules map on this node, though others: if it stays, search the log of "
                "calico-node, and send a bundle to the developers"
            ),
        ),
        (misshapen, {"rules"}, "the rule counter map has keys of 8 and values of 16 bytes, expected 8 and 8"),
        (refused, {"rules", "maps"}, "reading it was refused"),
        (unlisted, {"rules"}, "/policy could not be listed: Permission denied"),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_the_others_whole(
    source, read_of, series, rows, break_it, failing, sentence
):
    made = source({"cali1_ingress_v4.json": written(*gate(("deny", 11)))}, {11: 5})
    break_it(made)
    read = read_of(made)
    results = [run_collector(one, read) for one in make_collectors(ON_BY_DEFAULT)]
    assert dict.fromkeys(failing, sentence) == {one.name: one.failure for one in results if one.failure}
    samples = collected_samples(results)
    assert {(name,): name not in failing for name in ON_BY_DEFAULT} == series(samples, self_metrics.COLLECTOR_SUCCESS)
    assert not {family for family, _, _ in rows(samples)} & {one.name for one in rules.FAMILIES}
    assert ("policy_error",) not in series(samples, endpoints.PROBLEMS)
