# Why an endpoint loses packets: the results for recorded nodes are known, and none claims more than the numbers show.
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDenied, MapMissing
from exporter.calico import LayoutError
from exporter.calico.counters import DROPPED, SLOTS
from exporter.calico.reasons import reason_of
from exporter.diagnosis.explain import PARTS, explain
from exporter.node import NodeError
from exporter.snapshot.conntrack import Conntrack
from exporter.snapshot.snapshot import Part
from tests.policy_files import policy, ruled, tier, written
from tests.recorded import PAIRS, law_of_pairs

MOVED = re.compile(r"ifindex=(?P<ifindex>\d+) hook=(?P<hook>\d):(?P<slots>(?: slot\d+[+-]\d+)+)")
HOOKS = ("tc_ingress", "tc_egress", "xdp")
CLIENT, SERVER, PLAIN, OPEN = "calibf331a988cf", "cali34769d6a557", "cali14a81566bd7", "cali86e35d8c298"
LONG = "ns-a/this-is-a-very-long-network-policy-name-that-needs-hashing-0001"


@pytest.fixture
def explained(make, recorded):
    """The explanation for an interface of a pair of recordings, or of the later one alone."""

    def ask(pair, interface, *, window=True):
        before, after = (make.snapshot(recorded(f"{pair}.{when}"), parts=PARTS) for when in ("before", "after"))
        (endpoint,) = (one for one in after.endpoints.get().by_index.values() if one.interface == interface)
        return explain(before if window else None, after, endpoint)

    return ask


def drops(explanation):
    return [(one.direction, one.hook, one.reason, one.packets) for one in explanation.drops]


def denying(explanation):
    """The only rules that can have denied the denied packets: policy or tier, position, and hits."""
    hooks = {one.hook for one in explanation.drops if one.reason == "policy"}
    rules = (one for one in explanation.rules if one.action == "deny" and one.hook in hooks and not one.others_dropping)
    return [(one.policy or one.tier, one.rule, one.hits) for one in rules]


OUT, IN = ("outbound", "tc_ingress"), ("inbound", "tc_egress")
ALL = ("v3.29.7", "v3.30.7", "v3.31.6", "v3.32.1")
GATE, END, NO_PROFILE = "security.gate", "end_of_tier", ("", "no_profile_match")
FROM_CLIENT = [("default", END, 7), (GATE, "0", 5), (LONG, "0", 3)]
TO_SERVER = [("security", END, 6), (GATE, "0", 5)]
AT_ETH0 = [("inbound", "xdp", "policy", 6), ("inbound", "tc_ingress", "policy", 5)]
FORWARD = [("hep-prednat", "0", 6), ("hep-forward", "0", 5)]
KNOWN = [
    ("v3.32.1/01-egress-deny", CLIENT, [(*OUT, "policy", 10)], [(GATE, "0", 10)]),
    ("v3.32.1/02-ingress-deny", SERVER, [(*IN, "policy", 10)], [(GATE, "0", 10)]),
    ("v3.32.1/02-ingress-deny", PLAIN, [], []),
    ("v3.32.1/03-ingress-deny-flows", SERVER, [(*IN, "policy", 8)], [(GATE, "0", 8)]),
    ("v3.32.1/04-eot-ingress-deny", SERVER, [(*IN, "policy", 6)], [("security", END, 6)]),
    *((f"{one}/05-eot-egress-deny", CLIENT, [(*OUT, "policy", 7)], [("default", END, 7)]) for one in ALL[1:]),
    ("v3.32.1/06-no-profile-match", OPEN, [(*IN, "policy", 9)], [(*NO_PROFILE, 9)]),
    *((f"{one}/07-profile-allow", PLAIN, [], []) for one in ALL),
    ("v3.32.1/09-raw-spoof", PLAIN, [], []),
    ("v3.32.1/11-raw-short_ip", PLAIN, [(*OUT, "too_short", 5)], []),
    ("v3.32.1/14-raw-ihl4", PLAIN, [(*OUT, "malformed_ip", 8)], []),
    ("v3.32.1/18-raw-frag2", PLAIN, [(*OUT, "fragment_out_of_order", 12)], []),
    ("v3.32.1/24-v6-egress-deny", CLIENT, [(*OUT, "policy", 5)], [(GATE, "0", 5)]),
    *((f"{one}/29-longname-deny", CLIENT, [(*OUT, "policy", 3)], [(LONG, "0", 3)]) for one in ALL),
    *((f"{one}/32-log-rule", SERVER, [(*IN, "policy", 5)], [(GATE, "6", 5)]) for one in (ALL[0], ALL[3])),
    ("v3.32.1/42-pod-readd", OPEN, [(*IN, "policy", 2), (*OUT, "policy", 1)], [(*NO_PROFILE, 3)]),
    ("v3.32.1/46-flowlogs-enabled", CLIENT, [(*OUT, "policy", 15)], FROM_CLIENT),
    ("v3.32.1/46-flowlogs-enabled", SERVER, [(*IN, "policy", 11)], TO_SERVER),
    ("v3.32.1/53-rule-inserted-at-0", CLIENT, [(*OUT, "policy", 2)], [("ns-a/egress-rules", "1", 2)]),
    *((f"{one}/57-hep-traffic", "eth0", AT_ETH0, [("hep-policy", "1", 5)]) for one in ALL[2:]),
    ("v3.32.1/58-hep-forward", "eth0", [("inbound", "tc_ingress", "policy", 11)], FORWARD),
    ("v3.32.1/59-hep-egress", "eth0", [("outbound", "tc_egress", "policy", 5)], [("hep-policy", "0", 5)]),
    ("v3.31.6/65-qos", PLAIN, [(*OUT, "qos_limit", 34), (*IN, "qos_limit", 33)], []),
    ("v3.32.1/65-qos", PLAIN, [(*OUT, "qos_limit", 35)], []),
    *((f"{one}/66-blackhole-route", CLIENT, [(*OUT, "blackhole_route", 4)], []) for one in ALL[:3]),
]


@pytest.mark.parametrize(("pair", "interface", "dropped", "rules"), KNOWN)
def test_what_was_done_to_a_recorded_node_is_what_is_reported(explained, pair, interface, dropped, rules):
    explanation = explained(pair, interface)
    assert (dropped, rules) == (drops(explanation), denying(explanation))
    assert (bool(dropped), True) == (explanation.loses_packets, explanation.window)


@law_of_pairs(PAIRS)
def drops_at_each_hook_and_for_each_reason_are_what_was_seen_to_move(pair):
    before, after = (one.with_parts(PARTS) for one in (pair.before, pair.after))
    seen = {}
    for match in MOVED.finditer(pair.diff):
        for slot, by in re.findall(r"slot(\d+)\+(\d+)", match["slots"]):
            if SLOTS[int(slot)].category == DROPPED:
                seen.setdefault(int(match["ifindex"]), {})[HOOKS[int(match["hook"])], SLOTS[int(slot)].reason] = int(by)
    for endpoint in after.endpoints.get().by_index.values():
        explanation = explain(before, after, endpoint)
        told = {(one.hook, one.reason): one.packets for one in explanation.drops}
        assert seen.get(endpoint.ifindex, {}) == told
        assert () == explanation.black_hole
        assert all(
            (reason_of(one.reason).meaning, reason_of(one.reason).check) == (one.meaning, one.check)
            for one in explanation.drops
        )
        by_packets = [one.packets for one in explanation.drops]
        assert sorted(by_packets, reverse=True) == by_packets


# Hits of id 0 are of both directions, hence all hooks together.
@law_of_pairs(PAIRS)
def no_rule_denies_more_than_was_dropped(pair):
    before, after = (one.with_parts(PARTS) for one in (pair.before, pair.after))
    for endpoint in after.endpoints.get().by_index.values():
        explanation = explain(before, after, endpoint)
        packets = sum(one.packets for one in explanation.drops if one.reason == "policy")
        assert sum(hits for *_, hits in denying(explanation)) <= packets


def notes(explanation):
    return "\n".join(explanation.notes)


def test_a_rule_that_others_carry_says_how_many_and_how_many_of_them_dropped(explained):
    (gate,) = explained("v3.32.1/02-ingress-deny", SERVER).rules
    assert (1, 0) == (gate.others, gate.others_dropping)
    (gate,) = (one for one in explained("v3.32.1/02-ingress-deny", CLIENT).rules if one.action == "deny")
    assert (1, 1) == (gate.others, gate.others_dropping)
    shared = [one for one in explained("v3.32.1/64-wildcard-hep", "eth0").rules if one.action == "deny"]
    assert [("tc_ingress", 7, 6, 1), ("tc_egress", 5, 6, 1)] == [
        (one.hook, one.hits, one.others, one.others_dropping) for one in shared
    ]


def test_who_sends_to_a_pod_that_denies_it_is_shown_that_pod(explained):
    (other,) = explained("v3.32.1/02-ingress-deny", PLAIN).others
    assert ("ns-b/server", "inbound", 10, {"policy": 10}) == (
        other.endpoint.title,
        other.direction,
        other.packets,
        other.reasons,
    )
    assert () == explained("v3.32.1/02-ingress-deny", SERVER).others
    assert () == explained("v3.32.1/01-egress-deny", PLAIN).others  # what others send is no matter of this one


def test_packets_that_count_as_nothing_are_a_note_and_no_drop(explained):
    spoofed = explained("v3.32.1/09-raw-spoof", PLAIN)
    assert (1, False) == (len(spoofed.notes), spoofed.loses_packets)
    assert "At tc_ingress (outbound)" in notes(spoofed)
    assert "a spoofed source" in notes(spoofed)
    assert "a service without endpoints" in notes(spoofed)


@pytest.mark.parametrize("pair", ["v3.31.6/45-felix-restart-watched", "v3.32.1/44-felix-restart"])
def test_where_calico_started_in_between_the_loss_of_hits_is_noted(explained, pair):
    explanation = explained(pair, CLIENT)
    assert ([(*OUT, "policy", 4)], []) == (drops(explanation), denying(explanation))
    assert "Rule counts fell in this time" in notes(explanation)
    assert "No deny rule of this endpoint explains" in notes(explanation)


@pytest.mark.parametrize(
    "pair", ["v3.29.7/04-eot-ingress-deny", "v3.29.7/06-no-profile-match", "v3.29.7/05-eot-egress-deny"]
)
def test_before_v3_30_it_says_that_ends_of_tiers_have_no_number(explained, pair):
    explanations = [explained(pair, one) for one in (CLIENT, SERVER, PLAIN, OPEN)]
    (explanation,) = (one for one in explanations if one.drops)
    assert "before Calico v3.30" in notes(explanation)
    assert not any(one.rule in (END, "no_profile_match") for one in explanation.rules)


def test_a_pod_that_came_in_between_says_so(explained):
    assert "It appeared in this time" in notes(explained("v3.32.1/42-pod-readd", OPEN))


def test_reset_counters_are_noted_and_count_since_the_reset(explained):
    explanation = explained("v3.32.1/54-cli-32bit-truncation", OPEN)
    assert "Its counters were reset in this time" in notes(explanation)
    assert not explanation.loses_packets


@pytest.mark.parametrize("release", ["v3.31.6", "v3.32.1"])
def test_drops_of_xdp_are_noted_as_counted_without_a_rule(explained, release):
    explanation = explained(f"{release}/57-hep-traffic", "eth0")
    assert "Drops by untracked policy (XDP) are counted without their rule" in notes(explanation)
    assert "xdp" not in {one.hook for one in explanation.rules}


def test_a_policy_that_could_not_be_loaded_is_a_problem(explained):
    problems = explained("v3.29.7/57-hep-traffic", "eth0").problems
    why = "failed to load BPF policy program IPV4: invalid argument"
    assert f"Its inbound IPv4 policy is not in place: {why}" in problems
    assert () == explained("v3.29.7/57-hep-traffic", CLIENT).problems


@law_of_pairs(PAIRS)
def one_snapshot_tells_everything_since_the_counters_began(pair):
    after = pair.after.with_parts(PARTS)
    table = after.counters.get()
    for endpoint in after.endpoints.get().by_index.values():
        explanation = explain(None, after, endpoint)
        rows = [row for (ifindex, _), row in table.rows.items() if ifindex == endpoint.ifindex]
        mine = [sum(row[slot.number] for row in rows) for slot in table.layout.slots]
        expected = {
            slot.reason: mine[slot.number]
            for slot in table.layout.slots
            if slot.category == DROPPED and mine[slot.number]
        }
        told = {}
        for one in explanation.drops:
            told[one.reason] = told.get(one.reason, 0) + one.packets
        assert (expected, False) == (told, explanation.window)


# Synthetic nodes.

WORKLOAD, HOST, V4, V6, BOND, UNMANAGED = 0x1, 0x8, 0x2, 0x4, 0x20, 0x400
READY = V4 | V6
STATES = {3: ("eth0", HOST | READY), 5: ("cali1", WORKLOAD | READY), 7: ("cali2", WORKLOAD | READY)}
ZEROS = {(ifindex, hook): {} for ifindex in (3, 5, 7, 9) for hook in (0, 1)}
FILE = written(*tier("security", policy("GlobalNetworkPolicy gate", ("deny", 11), ("deny", 12)), end=("deny", 13)))
EMPTY = written()
FILES = {"cali1_egress_v4.json": FILE, "cali2_egress_v4.json": FILE}


@pytest.fixture(scope="session")
def snapshot_of(make):
    """A snapshot of a node with these counters, rule hits, states {ifindex: (name, flags)} and policy files."""

    def at(rows, hits=(), states=STATES, files=FILES, slots=27, links=None, **more):
        maps = [make.counters("cali_counters6", 60, {**rows}, slots), make.rules("cali_rule_ctrs2", 41, dict(hits))]
        maps += [make.ifstate("cali_iface4", 40, states)] if states else []
        names = {ifindex: name for ifindex, (name, _) in states.items()} if links is None else links
        folder = files if isinstance(files, Exception) else make.folder(**files)
        node = make.node(maps, links=[make.link(*one) for one in names.items()], policy_files=folder)
        node.maps |= more
        return make.snapshot(node, parts=PARTS)

    return at


def explanation_of(before, after, ifindex=5):
    return explain(
        before,
        after,
        (before if ifindex not in after.endpoints.get().by_index else after).endpoints.get().by_index[ifindex],
    )


@pytest.mark.parametrize(
    ("slots", "expected"), [(14, ()), (17, ()), (23, ()), (25, HOOKS[:2]), (26, HOOKS[:2]), (27, HOOKS[:2])]
)
def test_missing_entries_are_a_black_hole_from_25_slots_on(snapshot_of, slots, expected):
    explanation = explanation_of(None, snapshot_of({(7, 0): {}}, slots=slots))
    assert (expected, bool(expected), ()) == (explanation.black_hole, explanation.loses_packets, explanation.drops)
    assert len(expected) == len(
        [one for one in explanation.problems if "every packet there is dropped and not counted" in one]
    )


@pytest.mark.parametrize("hook", [0, 1])
def test_one_missing_entry_is_a_black_hole_at_its_hook_alone(snapshot_of, hook):
    rows = {key: {} for key in ZEROS if key != (5, hook)}
    assert (HOOKS[hook],) == explanation_of(None, snapshot_of(rows)).black_hole


@pytest.mark.parametrize("flags", [WORKLOAD, WORKLOAD | READY | BOND, UNMANAGED | READY])
def test_where_no_program_is_in_place_a_missing_entry_is_no_black_hole(snapshot_of, flags):
    states = {**STATES, 5: ("cali1", flags)}
    assert () == explanation_of(None, snapshot_of({}, states=states)).black_hole


@pytest.mark.parametrize(
    ("flags", "missing"), [(WORKLOAD, (4, 6)), (WORKLOAD | V4, (6,)), (WORKLOAD | V6, (4,)), (WORKLOAD | READY, ())]
)
def test_programs_that_are_not_in_place_are_a_problem(snapshot_of, flags, missing):
    problems = explanation_of(None, snapshot_of(ZEROS, states={**STATES, 5: ("cali1", flags)})).problems
    expected = [f"Calico's IPv{family} programs are not in place on it (not ready)" for family in missing]
    assert expected == [one.partition(":")[0] for one in problems]


def test_a_family_that_the_node_does_not_use_is_no_problem(snapshot_of):
    states = {ifindex: (name, flags & ~V6) for ifindex, (name, flags) in STATES.items()}
    assert () == explanation_of(None, snapshot_of(ZEROS, states=states)).problems


@pytest.mark.parametrize("error", [LayoutError("odd values"), MapDenied("refused"), MapMissing("none"), None])
def test_connection_tracking_that_cannot_be_read_is_said_beside_drops_by_policy(snapshot_of, error):
    after = replace(snapshot_of({**ZEROS, (5, 1): {0: 3, 4: 3}}), conntrack=Part(Conntrack({}, {}, (), 0, None), error))
    notes = [one for one in explanation_of(None, after).notes if one.startswith("Whose flows were denied")]
    said = error and not isinstance(error, MapMissing)
    assert ([f"Whose flows were denied is not known: {error}"] if said else []) == notes
    assert not any("Whose flows" in one for one in explanation_of(None, after, 7).notes)


def test_slots_without_a_known_meaning_that_moved_are_said_and_not_the_total_alone(snapshot_of):
    rows = {(5, 0): {0: 9, 28: 4}, (5, 1): {28: 1, 29: 2}}
    notes = explanation_of(None, snapshot_of({**ZEROS, **rows}, slots=30)).notes
    meaning = "Slots of its counters without a known meaning, which may be drops"
    assert f"{meaning}, counted packets: 28 (5), 29 (2); --calico.layout-file can name them" in notes
    assert not any("only in the total" in one for one in notes)


@pytest.mark.parametrize("more", [{"cali_iface4": MapDenied("refused", "run as root")}, {}])
def test_what_cannot_be_found_is_said(snapshot_of, more):
    said = "Whether packets are lost before Calico's programs, or for want of them, is not known: refused: run as root"
    assert bool(more) == (said in explanation_of(None, snapshot_of(ZEROS, **more)).notes)


def test_an_unmanaged_interface_is_a_problem_of_its_own(snapshot_of):
    (problem,) = explanation_of(None, snapshot_of(ZEROS, states={**STATES, 5: ("cali1", UNMANAGED)})).problems
    assert problem.startswith("Calico does not manage this interface")


def test_an_interface_that_calico_does_not_know_yet_is_a_problem(snapshot_of):
    links = {3: "eth0", 5: "cali1", 7: "cali2", 9: "cali9"}
    (problem,) = explanation_of(None, snapshot_of(ZEROS, links=links), 9).problems
    assert problem.startswith("Calico's interface state does not know this interface (yet)")


def test_a_ready_pod_without_a_policy_file_while_others_have_one_is_a_problem(snapshot_of):
    problems = explanation_of(None, snapshot_of(ZEROS, files={"cali2_egress_v4.json": FILE})).problems
    assert ("Its outbound IPv4 policy is not in place: Calico has written no policy file for it",) == problems


def test_which_rules_counted_is_not_known_without_their_map_or_their_files(snapshot_of):
    dropped = {**ZEROS, (5, 0): {0: 3, 4: 3}}
    for one in (snapshot_of(dropped, cali_rule_ctrs2=MapDenied("refused")), snapshot_of(dropped, files={})):
        explanation = explanation_of(None, one)
        assert ([(*OUT, "policy", 3)], ()) == (drops(explanation), explanation.rules)
        assert "Which rules counted is not known" in notes(explanation)


def test_policy_files_that_cannot_be_listed_hide_no_drop(snapshot_of):
    after = snapshot_of({**ZEROS, (5, 0): {4: 3}}, files=NodeError("the folder could not be listed"))
    explanation = explanation_of(None, after)
    assert [(*OUT, "policy", 3)] == drops(explanation)
    assert "Its policy is not known: the folder could not be listed" in explanation.problems


def test_a_rule_counts_for_the_endpoint_alone_when_its_sharer_dropped_nothing_at_that_hook(snapshot_of):
    before = snapshot_of(ZEROS)
    for other_row, expected in (((7, 1), 0), ((7, 0), 1)):
        after = snapshot_of({**ZEROS, (5, 0): {4: 3}, other_row: {4: 2}}, {11: 3})
        (rule,) = explanation_of(before, after).rules
        assert (3, 1, expected) == (rule.hits, rule.others, rule.others_dropping)


def test_rules_that_deny_come_first_then_those_that_pass_then_those_that_allow(snapshot_of):
    rules = policy("GlobalNetworkPolicy gate", ("allow", 1), ("next-tier", 2), ("deny", 3), ("deny", 4))
    files = {"cali1_egress_v4.json": written(*tier("security", rules, end=("deny", 5)), *ruled("kns.a", "allow", 6))}
    after = snapshot_of({**ZEROS, (5, 0): {4: 3}}, {1: 90, 2: 80, 3: 1, 4: 3, 5: 2, 6: 99}, files=files)
    assert [("deny", 3), ("deny", 2), ("deny", 1), ("pass", 80), ("allow", 99), ("allow", 90)] == [
        (one.action, one.hits) for one in explanation_of(None, after).rules
    ]


def test_a_rule_in_both_families_programs_is_one(snapshot_of):
    files = {f"cali1_egress_v{family}.json": FILE for family in (4, 6)}
    other = written(*tier("security", policy("GlobalNetworkPolicy gate", ("deny", 11), ("deny", 14)), end=("deny", 13)))
    for six in (FILE, other):
        after = snapshot_of({**ZEROS, (5, 0): {4: 3}}, {11: 3}, files=files | {"cali1_egress_v6.json": six})
        assert [3] == [one.hits for one in explanation_of(snapshot_of(ZEROS, files=files), after).rules]


def test_of_an_endpoint_that_is_gone_nothing_is_known(snapshot_of):
    states = {ifindex: one for ifindex, one in STATES.items() if ifindex != 5}
    explanation = explanation_of(
        snapshot_of(ZEROS), snapshot_of({key: {} for key in ZEROS if key[0] != 5}, states=states)
    )
    assert ((), "It is gone now: what it counted last is not known") == (explanation.drops, explanation.notes[0])


# The two maps are not read at the same instant: up to one percent of the drops may have no hit.
@pytest.mark.parametrize(("unexplained", "noted"), [(100, False), (101, True)])
def test_more_than_one_percent_of_drops_without_a_hit_is_noted(snapshot_of, unexplained, noted):
    after = snapshot_of({**ZEROS, (5, 0): {4: 10_000}}, {11: 10_000 - unexplained})
    note = f"No deny rule of this endpoint explains {unexplained} of the drops at tc_ingress (outbound)"
    found = notes(explanation_of(snapshot_of(ZEROS), after))
    assert (noted, noted) == (note in found, "No deny rule" in found)


VALUES = st.dictionaries(st.sampled_from([0, 2, 4, 5, 13, 23]), st.integers(0, 9), max_size=4)
ROWS = st.dictionaries(st.tuples(st.sampled_from([3, 5, 7]), st.integers(0, 2)), VALUES, max_size=6)
HITS = st.dictionaries(st.sampled_from([0, 11, 12, 13]), st.integers(0, 9))


@given(ROWS, ROWS, HITS, HITS, st.sampled_from([3, 5, 7]))
def test_whatever_two_snapshots_say_no_number_is_negative_and_others_are_omitted_when_it_drops(
    snapshot_of, rows, later, hits, later_hits, ifindex
):
    explanation = explanation_of(snapshot_of(rows, hits), snapshot_of(later, later_hits), ifindex)
    numbers = [one.packets for one in (*explanation.drops, *explanation.others)] + [
        one.hits for one in explanation.rules
    ]
    assert all(number > 0 for number in numbers)
    assert not (explanation.drops and explanation.others)
    assert bool(explanation.drops or explanation.black_hole) == explanation.loses_packets
    assert all(one.others_dropping <= one.others <= 2 for one in explanation.rules)


# Regressions.


# Its missing entries were reported as a black hole.
def test_an_endpoint_that_is_gone_loses_no_packets(snapshot_of):
    states = {ifindex: one for ifindex, one in STATES.items() if ifindex != 5}
    explanation = explanation_of(
        snapshot_of(ZEROS), snapshot_of({key: {} for key in ZEROS if key[0] != 5}, states=states)
    )
    assert ((), False) == (explanation.black_hole, explanation.loses_packets)


# Only the sharers of the later snapshot were considered.
@pytest.mark.parametrize("gone", ["pod", "policy"])
def test_a_sharer_that_went_in_between_can_have_hit_the_rule(snapshot_of, gone):
    before = snapshot_of(ZEROS)
    if gone == "pod":
        after = snapshot_of(
            {(5, 0): {4: 3}, (5, 1): {}}, {11: 5}, {5: STATES[5]}, {name: FILE for name in FILES if "cali1" in name}
        )
    else:
        after = snapshot_of(
            {**ZEROS, (5, 0): {4: 3}, (7, 0): {4: 5}}, {11: 5}, files=FILES | {"cali2_egress_v4.json": EMPTY}
        )
    explanation = explanation_of(before, after)
    assert sum(hits for *_, hits in denying(explanation)) <= 3


# A pod that Calico does not know yet hits id 0, and was not considered a sharer.
def test_a_pod_that_came_in_between_can_have_hit_a_missing_profile(snapshot_of):
    files = {"cali1_egress_v4.json": written(*tier("security", end=("pass", 13)), 0)}
    before = snapshot_of(ZEROS, states={5: STATES[5]}, files=files)
    after = snapshot_of({**ZEROS, (5, 0): {4: 1}, (7, 0): {4: 4}}, {0: 5}, files=files)
    assert sum(hits for *_, hits in denying(explanation_of(before, after))) <= 1


# An interface without counters was reported as gone.
def test_an_interface_that_never_counted_is_not_reported_as_gone(explained):
    assert "gone" not in notes(explained("v3.32.1/01-egress-deny", "bpfin.cali"))


# An unreadable interface state was not handled.
def test_without_the_interface_state_everything_else_is_explained(snapshot_of):
    links = {ifindex: name for ifindex, (name, _) in STATES.items()}
    after = snapshot_of({**ZEROS, (5, 0): {4: 3}}, {11: 3}, states={}, links=links)
    assert [(*OUT, "policy", 3)] == drops(explanation_of(None, after))


# Unknown rules were treated as none.
@pytest.mark.parametrize("how", ["map", "files", "unread"])
def test_where_it_is_not_known_which_rules_counted_none_is_ruled_out(snapshot_of, how):
    dropped = {**ZEROS, (5, 0): {4: 3}}
    after = {
        "map": lambda: snapshot_of(dropped, cali_rule_ctrs2=MapDenied("refused")),
        "files": lambda: snapshot_of(dropped, files={}),
        "unread": lambda: snapshot_of(dropped, {11: 3}, files=FILES | {"cali1_egress_v4.json": b'{"policyInfo": ['}),
    }[how]()
    assert "No deny rule" not in notes(explanation_of(None, after))


# There was no note.
def test_a_policy_file_of_this_endpoint_that_cannot_be_read_is_noted(snapshot_of):
    explanation = explanation_of(None, snapshot_of(ZEROS, files=FILES | {"cali1_egress_v4.json": b'{"policyInfo": ['}))
    assert "cali1_egress_v4.json" in f"{explanation.problems} {explanation.notes}"


# The sentence was repeated for each hook with drops.
def test_no_sentence_is_repeated(explained):
    explanation = explained("v3.29.7/42-pod-readd", OPEN)
    assert len(explanation.notes) == len(set(explanation.notes))


def test_a_counter_map_of_fewer_slots_than_any_release_has_is_explained_as_far_as_it_goes(make, recorded):
    node = make.like(recorded("v3.32.1/02-ingress-deny.after"))
    node.maps["cali_counters6"] = make.counters("cali_counters6", 1227, {(7, 1): {0: 3}}, slots=3)
    after = make.snapshot(node, parts=PARTS)
    (endpoint,) = (one for one in after.endpoints.get().by_index.values() if one.interface == SERVER)
    assert () == explain(None, after, endpoint).drops
