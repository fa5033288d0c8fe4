# The policy of an endpoint in evaluation order, each rule with its hits.
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.diagnosis.rules import PARTS, merged, programs_of, sharers
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from tests.policy_files import policy, ruled, tier, written
from tests.recorded import NAMES, law_of_recordings
from tests.recorded import recording as recorded
from tests.traces.experiments import experiments

WORKLOAD, HOST = 0x7, 0xE
STATES = {3: ("eth0", HOST), 5: ("cali1", WORKLOAD), 7: ("cali2", WORKLOAD)}
GATE = tier("security", policy("GlobalNetworkPolicy gate", ("deny", 11), ("next-tier", 12)), end=("deny", 13))
MINE = tier("default", policy("NetworkPolicy ns-a/mine", ("allow", 21), ("log", 0)), end=("deny", 23))
PROFILE = ruled("kns.ns-a", "allow", 31)
HITS = {0: 4, 11: 1, 12: 2, 13: 3, 21: 5, 31: 6}


@pytest.fixture(scope="session")
def snapshot_of(make):
    """A snapshot of a node with a host interface, two pods and these policy files by name without their suffix."""

    def at(slots=27, **files):
        named = {f"{name}.json": content for name, content in files.items()}
        maps = [make.counters("cali_counters6", 60, {(5, 0): {}}, slots), make.ifstate("cali_iface4", 40, STATES)]
        links = [make.link(ifindex, name) for ifindex, (name, _) in STATES.items()]
        return make.snapshot(make.node(maps, links=links, policy_files=make.folder(**named)), parts=PARTS)

    return at


def programs(snapshot, ifindex=5, hits=HITS):
    return programs_of(snapshot, snapshot.endpoints.get().by_index[ifindex], hits)


def rows(program):
    """Tier, policy, position, action and hits of each rule, and of each tier's end."""
    for of in program.tiers:
        for one in of.policies:
            yield from ((of.name, one.name.name, rule.position, rule.action, rule.hits) for rule in one.rules)
        if of.name:
            yield of.name, "", "end", of.end_action, of.end_hits


def test_rules_stand_as_a_packet_meets_them_each_with_its_hits(snapshot_of):
    (program,) = programs(snapshot_of(cali1_egress_v4=written(*GATE, *MINE, *PROFILE, 0)))
    assert [
        ("security", "gate", 0, "deny", 1),
        ("security", "gate", 1, "pass", 2),
        ("security", "", "end", "deny", 3),
        ("default", "mine", 0, "allow", 5),
        ("default", "mine", 1, "log", None),
        ("default", "", "end", "deny", 0),
        ("", "kns.ns-a", 0, "allow", 6),
    ] == list(rows(program))
    assert ("outbound", "tc_ingress", (4,), 4) == (
        program.direction,
        program.hook,
        program.families,
        program.no_profile_match,
    )


@pytest.mark.parametrize(
    ("ifindex", "expected"),
    [
        (3, [("inbound", "tc_ingress"), ("outbound", "tc_egress"), ("inbound", "xdp")]),
        (5, [("inbound", "tc_egress"), ("outbound", "tc_ingress"), ("inbound", "xdp")]),
    ],
)
def test_inbound_comes_first_and_the_hook_is_that_of_the_host(snapshot_of, ifindex, expected):
    name = STATES[ifindex][0]
    files = {f"{name}_{word}_v{family}": written(*GATE) for word in ("xdp", "egress", "ingress") for family in (6, 4)}
    found = programs(snapshot_of(**files), ifindex)
    assert [one for one in expected for _ in (4, 6)] == [(one.direction, one.hook) for one in found]
    assert [(4,), (6,)] * 3 == [one.families for one in found]


def test_files_of_other_interfaces_and_other_files_are_left_out(snapshot_of):
    snapshot = snapshot_of(cali2_egress_v4=written(*GATE), cali1x_egress_v4=written(*GATE), readme=b"x")
    assert [] == programs(snapshot)
    assert 1 == len(programs(snapshot, 7))


def test_without_the_hits_nothing_is_said_about_them(snapshot_of):
    (program,) = programs(snapshot_of(cali1_egress_v4=written(*GATE, *MINE, 0)), hits=None)
    assert {None} == {hits for *_, hits in rows(program)}
    assert program.no_profile_match is None


def test_what_no_packet_counts_has_no_hits(snapshot_of):
    (xdp,) = programs(snapshot_of(eth0_xdp_v4=written(*GATE, 0)), 3)
    assert {None} == {hits for *_, hits in rows(xdp)}
    assert xdp.no_profile_match is None
    unreachable = tier("security", policy("GlobalNetworkPolicy gate", ("next-tier", 12)), end=("deny",))
    (program,) = programs(snapshot_of(cali1_egress_v4=written(*unreachable, *MINE)))
    assert ("security", "", "end", "deny", None) in list(rows(program))


@pytest.mark.parametrize(("slots", "expected"), [(14, None), (17, 4), (27, 4)])
def test_before_v3_30_id_0_is_no_missing_profile_match(snapshot_of, slots, expected):
    (program,) = programs(snapshot_of(slots, cali1_egress_v4=written(*MINE, 0)))
    assert expected == program.no_profile_match


def test_the_rules_of_a_host_endpoint_in_a_pods_program_have_the_opposite_direction(snapshot_of):
    (program,) = programs(snapshot_of(cali1_egress_v4=written(*GATE, *MINE, label_before=len(GATE))))
    assert ["inbound", "outbound"] == [one.direction for one in program.tiers]


def test_an_ip_set_has_its_number_where_the_program_names_it(snapshot_of):
    text = 'src_ip_set_ids:"s:a" dst_ip_set_ids:"s:b"'
    known = policy("GlobalNetworkPolicy gate", ("deny", 11, text, "IPSets src_ip_set_ids:<0x1f>"))
    (program,) = programs(snapshot_of(cali1_egress_v4=written(*tier("security", known))))
    (rule,) = program.tiers[0].policies[0].rules
    assert {"s:a": 0x1F, "s:b": None} == rule.ip_sets


def test_ipv4_and_ipv6_are_one_where_their_rules_are_the_same(snapshot_of):
    same, other = written(*GATE, *MINE), written(*MINE)
    both = merged(programs(snapshot_of(cali1_egress_v4=same, cali1_egress_v6=same)))
    assert [(4, 6)] == [one.families for one in both]
    assert [("cali1_egress_v4.json", "cali1_egress_v6.json")] == [one.files for one in both]
    assert [(4,), (6,)] == [
        one.families for one in merged(programs(snapshot_of(cali1_egress_v4=same, cali1_egress_v6=other)))
    ]


@pytest.mark.parametrize("families", [(4, 6), (6, 4)])
def test_where_one_family_has_code_for_a_tiers_end_its_hits_are_kept(snapshot_of, families):
    without = tier("security", policy("GlobalNetworkPolicy gate", ("deny", 11), ("next-tier", 12)), end=("deny",))
    files = {f"cali1_egress_v{family}": written(*one) for family, one in zip(families, (GATE, without), strict=True)}
    (both,) = merged(programs(snapshot_of(**files)))
    assert ("security", "", "end", "deny", 3) in list(rows(both))


def test_programs_that_differ_in_their_error_stay_apart(snapshot_of):
    files = {"cali1_egress_v4": written(*GATE), "cali1_egress_v6": written(*GATE, error="invalid argument")}
    assert ["", "invalid argument"] == [one.error for one in merged(programs(snapshot_of(**files)))]


CONTENTS = st.lists(st.sampled_from([GATE, MINE, PROFILE]), max_size=3).map(lambda parts: [*chain.from_iterable(parts)])


@given(st.dictionaries(st.tuples(st.sampled_from(["ingress", "egress", "xdp"]), st.sampled_from("46")), CONTENTS))
def test_merging_loses_no_rule_and_no_family(snapshot_of, parts):
    snapshot = snapshot_of(**{f"cali1_{word}_v{n}": written(*one) for (word, n), one in parts.items()})
    found = programs(snapshot)
    one_by_one = [(one.hook, family, row) for one in found for family in one.families for row in rows(one)]
    both = [(one.hook, family, row) for one in merged(found) for family in one.families for row in rows(one)]
    assert sorted(map(str, one_by_one)) == sorted(map(str, both))


# Regression: the endpoint of the previous program was not compared.
@pytest.mark.parametrize("word", ["ingress", "egress"])
def test_programs_of_two_endpoints_stay_apart(snapshot_of, word):
    snapshot = snapshot_of(**{f"{name}_{word}_v{n}": written(*GATE) for name in ("cali1", "cali2") for n in (4, 6)})
    found = merged([*programs(snapshot, 5), *programs(snapshot, 7)])
    assert [("cali1", (4, 6)), ("cali2", (4, 6))] == [(one.endpoint.interface, one.families) for one in found]


def test_who_carries_a_rule_carries_it_at_the_hook_that_enforces_it(snapshot_of):
    files = {f"{name}_egress_v{n}": written(*GATE) for name in ("cali1", "cali2", "eth0", "gone") for n in (4, 6)}
    carriers = sharers(snapshot_of(**files, cali1_ingress_v4=written(*MINE, 0), eth0_xdp_v4=written(*MINE)))
    gate = {("cali1", "tc_ingress"), ("cali2", "tc_ingress"), ("eth0", "tc_egress")}
    mine = {("cali1", "tc_egress")}
    assert dict.fromkeys((11, 12, 13), gate) | dict.fromkeys((0, 21, 23), mine) == carriers


@pytest.mark.parametrize("name", [name for name in NAMES if "57-hep-traffic.after" in name])
def test_each_tier_of_a_host_endpoint_says_which_packets_it_is_for(name):
    recording = recorded(name)
    host = next(one for one in recording.snapshot.endpoints.get().by_index.values() if one.interface == "eth0")
    phases = {
        (one.hook, tier.policies[0].name.name): tier.phase
        for one in programs_of(recording.snapshot, host, None)
        for tier in one.tiers
    }
    assert ("pre_dnat", "forward", "normal") == (
        phases["tc_ingress", "hep-prednat"],
        phases["tc_ingress", "hep-forward"],
        phases["tc_ingress", "hep-policy"],
    )
    assert "normal" == phases["tc_egress", "hep-policy"]
    assert "untracked" == phases.get(("xdp", "hep-untracked"), "untracked")


@law_of_recordings([name for name in NAMES if "downgraded" not in name])
def every_tier_of_a_pod_without_a_host_endpoint_for_all_is_for_its_packets(recording):
    if "hep" in recording.name or "64" in recording.name:
        return
    for endpoint in recording.snapshot.endpoints.get().by_index.values():
        if endpoint.kind == "workload":
            programs = programs_of(recording.snapshot, endpoint, None)
            assert {"workload"} >= {tier.phase for one in programs for tier in one.tiers}, endpoint


@pytest.mark.parametrize("name", [name for name in experiments() if "named-port" in name])
def test_the_set_of_named_ports_is_the_one_that_its_code_looks_up(name):
    snapshot = take_snapshot(experiments()[name].bundle, Settings(), Memory(), {*PARTS, "ip_sets_4"})
    rules = [
        rule
        for endpoint in snapshot.endpoints.get().by_index.values()
        for one in programs_of(snapshot, endpoint, None)
        for tier in one.tiers
        for policy in tier.policies
        for rule in policy.rules
    ]
    members = {
        snapshot.ip_sets_4.get()[number] for rule in rules for one, number in rule.ip_sets.items() if one[0] == "n"
    }
    assert members
    assert all(one.endswith(":8080/tcp") for one in chain.from_iterable(members))
