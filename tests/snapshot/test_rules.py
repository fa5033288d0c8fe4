# The owner and hits of each rule, compared with the output of Calico's `policy dump` on recorded nodes.
import json
import re
import zlib
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDump, MapMissing
from exporter.calico import LayoutError
from exporter.node import NodeError
from exporter.snapshot import reading
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.memory import Memory
from exporter.snapshot.rules import PolicyName, RuleName, RuleTable
from tests.recorded import NAMES, PAIRS, law_of_pairs, law_of_recordings

RECORDINGS = Path(__file__).parents[1] / "recordings"
# Of the downgraded node no policy files were recorded.
DUMPED = [name for name in NAMES if "downgraded" not in name]
# One flow of ns-d/open, allowed by its profile, between the recording of the map and Calico's print of it.
MEANWHILE = {("upgrade/1-v3.29.7", 0x4E8035015E25BB5E): 1}
LONG = "this-is-a-very-long-network-policy-name-that-needs-hashing-0001"
COUNTED = ("allow", "deny", "pass")


def hits_of(snapshot):
    """{name: hits} of every rule."""
    table = snapshot.rules.get().table
    return dict(zip(table.names, table.hits(snapshot.rule_hits.get()), strict=True))


def ids_of(snapshot):
    """{name: its ids} of every rule."""
    table = snapshot.rules.get().table
    return {name: set(ids) for name, ids in zip(table.names, table.ids, strict=True)}


# Calico's output: before v3.32 the comments as they are, from v3.32 on a table; v3.29 prints no tiers.

PRINTED = re.compile(
    r"Hook: (?P<hook>.*)|Error: (?P<error>.+)|(?:  Tier: |// Start of tier )(?P<tier>.*)"
    r"|(?:    Policy: |// Start of policy )(?P<policy>.*)|(?:      Rule: |// Start of rule )(?P<rule>.*?) *"
    r"|(?:      Hit count: |// count = )(?P<hits>\d+)|(?:  End Tier: |// End of tier )(?P<end>.*)"
)


def printed(text):
    """What Calico printed of an interface: {hook: [(what, text), ...]}."""
    hooks = {}
    for match in filter(None, map(PRINTED.fullmatch, text.splitlines())):
        if match.lastgroup == "hook":
            lines = hooks.setdefault(match["hook"], [])
        else:
            lines.append((match.lastgroup, match[match.lastgroup]))
    return hooks


def expected_print(program, hits, style):
    """What Calico would print of this program."""
    table, policies = style == "table", -1
    yield from [("error", program.error)] if program.error else ()
    for tier in program.tiers:
        tiered = tier.name and style != "v3.29"
        yield from [("tier", tier.name)] if tiered else ()
        for policy in tier.policies:
            policies += 1
            if policy.kind != "Profile":
                yield "policy", f"{policy.kind} {policy.name} {policies}" if table else policy.name
            for rule in policy.rules:
                word = {"pass": "next-tier"}.get(rule.action, rule.action)
                yield "rule", f"{policy.name}  Action: {word}" if table else rule.text
                yield "hits", str(hits.get(rule.id, 0))
        end = f"{tier.name}  (action: {tier.end_action})" if table else f"{tier.name}: {tier.end_action}"
        yield from [("end", end)] if tiered else ()


def programs_of(snapshot, interface, family):
    programs = [one for one in snapshot.policies.get().files.values() if one]
    return [one for one in programs if (one.about.interface, one.about.family) == (interface, family)]


def dumps_of(texts):
    """(interface, family, what was printed) of each of a recording's policy dumps."""
    for name, text in texts.items():
        match = re.fullmatch(r"policy-dump\.(?P<interface>.*?)(?P<v6>\.v6)?\.txt", name)
        if match:
            style = "v3.29" if "// Start of tier" not in text else "comments"
            yield match["interface"], 6 if match["v6"] else 4, "table" if "Info:" not in text else style, printed(text)


@law_of_recordings(DUMPED)
def every_rule_that_calico_prints_is_at_its_position_with_its_hits(recording):
    name, snapshot = recording.name, recording.snapshot
    hits = dict(snapshot.rule_hits.get())
    hits |= {number: hits.get(number, 0) + more for (where, number), more in MEANWHILE.items() if where == name}
    for interface, family, style, theirs in dumps_of(recording.oracle):
        programs = programs_of(snapshot, interface, family)
        assert theirs == {one.hook: list(expected_print(one, hits, style)) for one in programs}


@law_of_recordings(DUMPED)
def every_rule_that_calico_prints_is_counted_under_its_name(recording):
    snapshot, theirs = recording.snapshot, {}
    for interface, family, _, hooks in dumps_of(recording.oracle):
        for program in programs_of(snapshot, interface, family):
            numbers = iter([int(text) for what, text in hooks[program.hook] if what == "hits"])
            for tier in program.tiers if program.about.direction != "xdp" else ():
                for policy in tier.policies:
                    for rule, hits in zip(policy.rules, numbers, strict=False):
                        owner = snapshot.rules.get().owners.policy_name(program, tier, policy, rule)
                        if rule.action in COUNTED and owner.name:
                            by_id = theirs.setdefault(RuleName(owner, str(rule.position), rule.action), {})
                            by_id[rule.id] = hits - MEANWHILE.get((recording.name, rule.id), 0)
    ours = {name: hits for name, hits in hits_of(snapshot).items() if name.policy.kind != "Tier"}
    assert {name: sum(by_id.values()) for name, by_id in theirs.items()} == ours


@law_of_recordings(NAMES)
def no_recorded_id_is_counted_under_two_names(recording):
    ids = list(chain.from_iterable(recording.snapshot.rules.get().table.ids))
    assert sorted(set(ids)) == sorted(ids)


# What moved between two snapshots: diff.txt gives the number, and mostly the text whose FNV hash the id is.

CHANGE = re.compile(r"rule 0x\w+ (?P<id>\d+): (?:(?P<by>[+-]\d+)|KEY GONE \(was (?P<was>\d+)\)).*?(?P<text>\S*)")
HASHED = re.compile(
    r"(?P<action>[ADP]|allow|deny|next-tier)(?P<owner>Policy|Profile|P|R)(?P<way>Ingress|Egress|I|E)"
    r"(?P<rule>\d*)\|?(?P<name>.*)"
)
# Ids whose text diff.txt does not know: names that it had not seen, and the ids of flow logs, which are no FNV hash.
# Of these, the files and the packets sent tell what they are.
UNTOLD = {
    0x97104BC42AC2E9BD: "DPE0|gnp/pt-one",
    0xD699E3D1E2E77031: "DPI0|gnp/pt-one",
    0xFE40CC35A9BC4B69: "PPE|passtier",
    0xF00A8E563E4AA1AB: "DPE1|np/ns-a/egress-rules",
    0x8788C10EECF0AA4F: "API1|gnp/hep-forward",
    0x4D52E05C3CDB74F5: "DPI0|gnp/hep-forward",
    0xC7B1D9A388082930: "APE1|gnp/hep-policy",
    0xF045711F01EDD236: "DPE0|gnp/hep-policy",
    0x978508D9EB0290AC: "API1|gnp/allhosts-forward",
    0xB9092D9300F5187A: "DPI0|gnp/allhosts-forward",
    0x5C739245718A00E6: "DPE0|gnp/allhosts-forward",
    0x03FE3B48346D34BA: "DPE|default",
    0xC2FC6157B68B565C: "DPE|default",
    0xCB6A15E968F7FC53: "DPI|security",
    0xDF9445CBD9CBBF00: "DPI|security",
    0x8FBCCC2D9C6063F6: "DPI|security",
    0x38C3570BCE4B5146: f"DPE0|ns-a/default.{LONG}",
    0x69AC703A14628BFC: "DPE0|security.gate",
    0x93763232B6FA5E0F: "PPE2|security.gate",
    0xB305A05F37D72992: "DPI0|security.gate",
    0x934DFC4F5E7316DB: "ARE0|",  # a profile, which v3.30 and v3.31 do not name
    0x9881BC13B3EBC798: "ARE0|",
    0x115EED48604D24B9: "ARE0|kns.ns-b",
    0x49EBA8CF77F95432: "ARE0|kns.ns-c",
    0xC9968E2F46FF15A1: "ARI0|kns.ns-c",
    0x39A4E0BBE1877577: "DPE0|gnp/security.gate",
    0x35A98A22FA3B58C1: "DPI0|gnp/security.gate",
    0x7E5124003D2D4FCE: "API2|gnp/security.gate",
    0xD4C83AD7DB06E622: "PPE2|gnp/security.gate",
}
ACTIONS = {"A": "allow", "D": "deny", "P": "pass", "next-tier": "pass"}
TIERS = {"security.gate": "security", "passtier.pt-one": "passtier", "pt-one": "passtier"}


def name_of(text, release):
    """The rule whose id is the hash of this text, as its user names it; None for one that nothing names."""
    match = HASHED.fullmatch(text)
    action, direction = (
        ACTIONS.get(match["action"], match["action"]),
        {"I": "inbound", "E": "outbound"}[match["way"][0]],
    )
    if not match["rule"]:
        return RuleName(PolicyName("Tier", "", "", match["name"], direction), "end_of_tier", action)
    if match["owner"] in ("R", "Profile"):
        if release == "v3.29.7" or not match["name"]:  # no status file there, or an id that nobody can compute
            return None
        return RuleName(PolicyName("Profile", "", match["name"], "", direction), match["rule"], action)
    *_, namespace, name = ["", *match["name"].removeprefix("gnp/").removeprefix("np/").split("/")]
    name = name.removeprefix("default.")
    if name.endswith("shing-0001") or text.endswith("shing-0001"):
        namespace, name = "ns-a", LONG
    kind = "NetworkPolicy" if namespace else "GlobalNetworkPolicy"
    return RuleName(PolicyName(kind, namespace, name, TIERS.get(name, "default"), direction), match["rule"], action)


@law_of_pairs(PAIRS)
def hits_under_names_moved_as_they_were_seen_to_move(pair):
    before, after = pair.before.snapshot, pair.after.snapshot
    owners = {number: name for name, ids in ids_of(before).items() for number in ids}
    seen = Counter()
    for change in map(CHANGE.fullmatch, pair.diff.splitlines()):
        if change and int(change["id"]) and change["by"]:
            text = UNTOLD.get(int(change["id"])) or change["text"]
            seen[name_of(text, pair.release)] += int(change["by"])
        elif change and int(change["id"]) in owners:  # the map was wiped
            seen[owners[int(change["id"])]] -= int(change["was"])
    seen.pop(None, None)
    moved = Counter(hits_of(after))
    moved.subtract(hits_of(before))
    assert seen == moved


# Names outlive an upgrade.

STAGES = ("1-v3.29.7", "2-v3.30.7", "3-v3.31.6", "4-v3.32.1")


def named(snapshot):
    """Every name but those of profiles and tier ends, which v3.29 cannot know."""
    return {name for name in snapshot.rules.get().table.names if name.policy.kind not in ("Profile", "Tier")}


@pytest.mark.parametrize("stage", STAGES[2:])
def test_from_v3_30_on_every_name_is_the_same_in_each_release(make, recorded, stage):
    first, other = (make.snapshot(recorded(f"upgrade/{one}")).rules.get().table for one in (STAGES[1], stage))
    assert 29 == len(first.names)
    assert first.names == other.names
    assert first.carriers == other.carriers


def test_in_v3_29_only_tier_ends_and_the_names_of_profiles_are_missing(make, recorded):
    old, new = (make.snapshot(recorded(f"upgrade/{stage}")) for stage in STAGES[:2])
    assert named(old) == named(new)
    assert {"NetworkPolicy", "GlobalNetworkPolicy"} == {name.policy.kind for name in old.rules.get().table.names}
    assert (False, True) == (old.rules.get().table.ends_have_ids, new.rules.get().table.ends_have_ids)


def test_policies_of_a_host_endpoint_have_one_name_in_each_release(make, recorded):
    snapshots = [
        make.snapshot(recorded(f"{release}/57-hep-traffic.after")) for release in ("v3.29.7", "v3.31.6", "v3.32.1")
    ]
    of_host = [{name for name in named(one) if name.policy.name.startswith("hep-")} for one in snapshots]
    assert 7 == len(of_host[0])
    assert [of_host[0]] * 3 == of_host


def test_a_node_without_policy_files_has_no_rule_and_nothing_is_wrong_with_it(make, recorded):
    snapshot = make.snapshot(recorded("upgrade/5-v3.31.6-downgraded.after"))
    table = snapshot.rules.get().table
    assert ((), 0, {}, None) == (table.names, len(table.explained), table.carriers, table.ends_have_ids)
    assert [] == snapshot.rules.get().problems
    assert {} == hits_of(snapshot)


# Synthetic nodes.

WORKLOAD, HOST, V4, V6 = 0x1, 0x8, 0x2, 0x4
DUAL = V4 | V6
ENDED = "End of tier"


def written(*comments, error="", label_before=0):
    """A policy debug file: each comment on an instruction of its own, a number is what the code loads into R2, and the
    instruction at `label_before` is where a workload's own policy begins.
    """
    instructions = []
    for place, one in enumerate(comments):
        labels = ["allowed_by_host_policy"] if place == label_before else []
        if isinstance(one, int):
            low, high = (list(half) for half in (one.to_bytes(8, "little")[:4], one.to_bytes(8, "little")[4:]))
            instructions += [{"inst": [0x18, 2, 0, 0, *low], "labels": labels}, {"inst": [0, 0, 0, 0, *high]}]
        else:
            instructions.append({"inst": [0] * 8, "labels": labels, "comments": [one]})
    return json.dumps({"hook": "tc ingress", "policyInfo": instructions, "error": error}).encode()


def policy(title, *rules):
    """The comments of a policy from (action, id) of its rules; as before v3.32 where the title has no kind."""
    kind, _, name = title.rpartition(" ")
    owner, number = ("", "") if kind == "policy" else (f"{name} ", " 0")
    inside = [line for one in rules for line in ruled(*one, owner)]
    return [f"Start of {title}{number}", *inside, f"End of {title}{number}"]


def ruled(action, number, owner=""):
    """The comments of a rule."""
    return [f'Start of rule {owner}action:"{action}"', f"Rule MatchID: {number}", f"End of rule {owner}x"]


def tier(name, *policies, end=()):
    """The comments of a tier; `end` is its action and id."""
    inside = [line for one in policies for line in one]
    return [f"Start of tier {name}", *inside, f"{ENDED} {name}{': ' if end else ''}{end[0] if end else ''}", *end[1:]]


@pytest.fixture(scope="module")
def node_of(make):
    """A node with these policy files, rule counters and interfaces {name: flags}."""

    def made(files=(), counted=(), states=None, **facts):
        states = {"cali1": WORKLOAD | V4, "cali2": WORKLOAD | V4, "eth0": HOST | V4} if states is None else states
        by_index = dict(enumerate(states.items(), 3))
        maps = [make.rules("cali_rule_ctrs2", 20, dict(counted)), make.ifstate("cali_iface4", 40, by_index)]
        links = [make.link(number, name) for number, (name, _) in by_index.items()]
        facts = {"policy_files": make.folder(**dict(files)), "links": links} | facts
        return make.node(maps, **facts)

    return made


@pytest.fixture(scope="module")
def snapshot_of(make, node_of):
    """A snapshot of such a node."""

    def taken(*given, memory=None, **facts):
        return make.snapshot(node_of(*given, **facts), memory)

    return taken


def rule(kind, namespace, name, place, position, action):
    """A name from the words of a test; `place` is tier and direction."""
    where, direction = place.split()
    return RuleName(PolicyName(kind, namespace, name, where, direction), str(position), action)


GATE = tier("default", policy("GlobalNetworkPolicy gate", ("deny", 11), ("log", 0), ("allow", 12)), end=("deny", 13))


def test_a_rule_without_a_key_has_no_hits_and_one_with_a_key_has_those(snapshot_of):
    snapshot = snapshot_of({"eth0_ingress_v4.json": written(*GATE)}, {12: 7, 99: 1})
    assert {
        rule("GlobalNetworkPolicy", "", "gate", "default inbound", 0, "deny"): 0,
        rule("GlobalNetworkPolicy", "", "gate", "default inbound", 2, "allow"): 7,
        rule("Tier", "", "", "default inbound", "end_of_tier", "deny"): 0,
    } == hits_of(snapshot)
    assert {11, 12, 13} == snapshot.rules.get().table.explained


def test_a_rule_in_many_files_is_one(snapshot_of):
    names = [f"{one}_ingress_v{family}.json" for one in ("cali1", "cali2", "eth0") for family in (4, 6)]
    snapshot = snapshot_of(dict.fromkeys(names, written(*GATE, *GATE)), {11: 5})
    assert [5, 0, 0] == list(hits_of(snapshot).values())
    carried = PolicyName("GlobalNetworkPolicy", "", "gate", "default", "inbound")
    assert {carried: {"cali1", "cali2", "eth0"}} == snapshot.rules.get().table.carriers


def test_two_ids_of_one_name_are_summed(snapshot_of):
    renamed = tier("default", policy("policy default.gate", ("deny", 21)), end=("deny", 13))
    files = {"cali1_ingress_v4.json": written(*GATE), "cali2_ingress_v4.json": written(*renamed)}
    hits = hits_of(snapshot_of(files, {11: 5, 21: 30, 13: 2}))
    assert 35 == hits[rule("GlobalNetworkPolicy", "", "gate", "default inbound", 0, "deny")]
    assert 2 == hits[rule("Tier", "", "", "default inbound", "end_of_tier", "deny")]


IDS = st.integers(0, (1 << 64) - 1)


@given(st.dictionaries(IDS, st.integers(0, (1 << 60) - 1)), st.lists(st.lists(IDS, max_size=3)), st.data())
def test_each_name_has_the_hits_of_its_ids_and_one_without_an_entry_has_none(counted, others, data):
    known = st.lists(st.sampled_from(sorted(counted)), unique=True) if counted else st.just([])
    ids = tuple(map(tuple, [*others, *data.draw(st.lists(known, max_size=4)), counted]))
    table = RuleTable((), ids, frozenset(), {}, None)
    assert [sum(counted.get(one, 0) for one in row) for row in ids] == table.hits(counted)
    assert [0] * len(ids) == table.hits({})


@pytest.mark.parametrize(
    ("title", "where", "expected"),
    [
        ("policy default.gate", "default", ("GlobalNetworkPolicy", "", "gate")),
        ("policy ns-a/default.gate", "default", ("NetworkPolicy", "ns-a", "gate")),
        ("policy ns-a/knp.default.gate", "default", ("KubernetesNetworkPolicy", "ns-a", "gate")),
        ("policy ns-a/knp.default.default.gate", "default", ("KubernetesNetworkPolicy", "ns-a", "default.gate")),
        ("policy security.gate", "security", ("GlobalNetworkPolicy", "", "security.gate")),
        ("NetworkPolicy ns-a/gate", "default", ("NetworkPolicy", "ns-a", "gate")),
        ("NetworkPolicy ns-a/default.gate", "default", ("NetworkPolicy", "ns-a", "gate")),  # made before v3.32
        ("GlobalNetworkPolicy default.gate", "default", ("GlobalNetworkPolicy", "", "gate")),
        ("GlobalNetworkPolicy default.gate", "security", ("GlobalNetworkPolicy", "", "default.gate")),
        ("NetworkPolicy ns-a/knp.default.gate", "default", ("NetworkPolicy", "ns-a", "knp.default.gate")),
        ("KubernetesNetworkPolicy ns-a/knp.default.gate", "default", ("KubernetesNetworkPolicy", "ns-a", "gate")),
        ("KubernetesNetworkPolicy ns-a/default.gate", "default", ("KubernetesNetworkPolicy", "ns-a", "default.gate")),
        ("KubernetesNetworkPolicy ns-a/gate", "default", ("KubernetesNetworkPolicy", "ns-a", "gate")),
        ("KubernetesClusterNetworkPolicy gate", "kube-admin", ("ClusterNetworkPolicy", "", "gate")),
    ],
)
def test_a_policy_has_the_name_that_its_user_gave_it(snapshot_of, title, where, expected):
    snapshot = snapshot_of({"eth0_ingress_v4.json": written(*tier(where, policy(title, ("deny", 5))))})
    assert [rule(*expected, f"{where} inbound", 0, "deny")] == list(hits_of(snapshot))


def test_what_xdp_or_log_does_is_explained_and_never_counted(snapshot_of):
    logged = tier("default", policy("policy default.gate", ("log", 31), ("deny", 32)))
    snapshot = snapshot_of(
        {"eth0_xdp_v4.json": written(*GATE), "eth0_egress_v4.json": written(*logged)}, {11: 1, 31: 1}
    )
    assert [rule("GlobalNetworkPolicy", "", "gate", "default outbound", 1, "deny")] == list(hits_of(snapshot))
    assert {11, 12, 13, 31, 32} == snapshot.rules.get().table.explained
    assert 2 == len(snapshot.rules.get().table.carriers)


def test_a_policy_without_rules_is_carried_and_a_staged_one_is_not(snapshot_of):
    files = {"cali1_egress_v4.json": written(*tier("default", policy("NetworkPolicy ns-a/empty"), policy(" ")))}
    carriers = snapshot_of(files).rules.get().table.carriers
    assert {PolicyName("NetworkPolicy", "ns-a", "empty", "default", "outbound"): {"cali1"}} == carriers


def test_files_that_outlive_their_interface_name_rules_and_carry_nothing(snapshot_of):
    files = {f"{one}_ingress_v4.json": written(*GATE) for one in ("cali1", "cali9")}
    assert [{"cali1"}] == list(snapshot_of(files).rules.get().table.carriers.values())
    snapshot = snapshot_of({"cali9_ingress_v4.json": written(*GATE)}, {11: 5})
    assert ({}, 5) == (snapshot.rules.get().table.carriers, max(hits_of(snapshot).values()))


# Ids that no formula gives, as with flow logs on: there only the place in the program tells a host endpoint's rules.
@pytest.mark.parametrize(
    ("word", "host", "own"), [("egress", "inbound", "outbound"), ("ingress", "outbound", "inbound")]
)
def test_in_a_pods_file_a_host_endpoints_rules_have_the_opposite_direction(snapshot_of, word, host, own):
    of_pod = tier("default", policy("NetworkPolicy ns-a/mine", ("deny", 14)), end=("deny", 15))
    files = {f"cali1_{word}_v4.json": written(*GATE, *of_pod, label_before=len(GATE))}
    names = list(hits_of(snapshot_of(files)))
    assert {"gate": host, "mine": own} == {one.policy.name: one.policy.direction for one in names if one.policy.name}
    assert {host, own} == {one.policy.direction for one in names if one.policy.kind == "Tier"}


@pytest.mark.parametrize(
    ("comments", "direction"),
    [
        (tier("security", policy("GlobalNetworkPolicy security.gate", ("deny", 0x021DFCC03D739243))), "outbound"),
        (tier("security", policy("policy security.gate", ("deny", 0x196BE6D8AC106955))), "outbound"),
        (tier("default", policy("NetworkPolicy x/y", ("deny", 5)), end=("deny", 0x1573250364EB46B5)), "outbound"),
        (ruled("allow", 0x515401A563BE3AE6, "kns.ns-c "), "outbound"),
        (tier("default", policy("GlobalNetworkPolicy allhosts-forward", ("deny", 0xB9092D9300F5187A))), "inbound"),
        (tier("default", policy("NetworkPolicy x/y", ("deny", 5)), end=("pass", 0x4243288D06756BED)), "inbound"),
    ],
)
@pytest.mark.parametrize("label_before", [0, 99])
def test_an_id_that_a_formula_gives_tells_more_than_the_place_in_the_program(
    snapshot_of, comments, direction, label_before
):
    names = snapshot_of({"cali1_egress_v4.json": written(*comments, label_before=label_before)}).rules.get().table.names
    assert {direction} == {name.policy.direction for name in names}


def test_the_same_tier_has_either_direction_in_the_files_of_a_pod_and_a_host_interface(snapshot_of):
    content = written(*GATE, label_before=len(GATE))
    carriers = snapshot_of({"cali1_egress_v4.json": content, "eth0_egress_v4.json": content}).rules.get().table.carriers
    assert {"inbound": {"cali1"}, "outbound": {"eth0"}} == {one.direction: who for one, who in carriers.items()}


def test_an_id_has_one_name_whatever_files_say(snapshot_of):
    other = tier("default", policy("GlobalNetworkPolicy other", ("deny", 11)))
    files = {"cali1_ingress_v4.json": written(*GATE), "cali2_ingress_v4.json": written(*other)}
    tables = [snapshot_of(dict(order)).rules.get().table for order in (files.items(), reversed(files.items()))]
    assert [11, 12, 13] == sorted(chain.from_iterable(tables[0].ids))
    assert tables[0].names == tables[1].names


@pytest.mark.parametrize("interfaces", [("cali1", "eth0"), ("eth0", "cali1"), ("bond0", "cali1")])
def test_of_two_directions_that_files_give_an_id_the_host_interfaces_is_the_rules(snapshot_of, interfaces):
    words = {"cali1": "egress"}
    files = {f"{one}_{words.get(one, 'ingress')}_v4.json": written(*GATE) for one in interfaces}
    names = snapshot_of(files).rules.get().table.names
    assert ["inbound"] * 3 == [name.policy.direction for name in names]


# Each part of a program that Felix split ends with a landing pad of that label.
def test_a_label_that_stands_in_both_parts_of_a_split_program_counts_from_the_last(snapshot_of):
    host = [tier("default", policy(f"GlobalNetworkPolicy {name}", ("deny", n))) for n, name in enumerate("ab", 5)]
    whole = json.loads(written(*host[0], *host[1], *GATE, label_before=len(host[0] + host[1])))
    whole["policyInfo"][3] |= {"labels": ["allowed_by_host_policy"], "inst": [0xB7, 0, 0, 0, 1, 0, 0, 0]}  # within a
    names = snapshot_of({"cali1_egress_v4.json": json.dumps(whole).encode()}).rules.get().table.names
    directions = {name.policy.name: name.policy.direction for name in names}
    assert {"a": "inbound", "b": "inbound", "gate": "outbound", "": "outbound"} == directions


@pytest.mark.parametrize("interface", ["eth0", "eth9"])
def test_in_a_host_interfaces_file_every_rule_has_the_direction_of_the_file(snapshot_of, interface):
    snapshot = snapshot_of({f"{interface}_egress_v4.json": written(*GATE)})
    assert {"outbound"} == {name.policy.direction for name in snapshot.rules.get().table.names}


@pytest.mark.parametrize(("flags", "direction"), [(WORKLOAD, "inbound"), (HOST, "outbound"), (0x400, "outbound")])
def test_calicos_word_for_an_interface_counts_more_than_its_prefix(snapshot_of, flags, direction):
    snapshot = snapshot_of({"cali1_egress_v4.json": written(*GATE, label_before=99)}, states={"cali1": flags})
    assert {direction} == {name.policy.direction for name in snapshot.rules.get().table.names}


def test_a_profile_without_a_name_has_that_of_its_pods_namespace_where_its_id_says_so(make, snapshot_of):
    ids = (0x515401A563BE3AE6, 0x515402A563BE3C99)  # ARE0|kns.ns-c, ARE0|kns.ns-b
    files = {f"cali{n}_egress_v4.json": written(*ruled("allow", number)) for n, number in enumerate(ids, 1)}
    pods = {"k8s ns-c%2Fplain eth0": b'{"ifaceName": "cali1"}', "k8s ns-d%2Fopen eth0": b'{"ifaceName": "cali2"}'}
    snapshot = snapshot_of(files, dict(zip(ids, (3, 4), strict=True)), endpoint_status=make.folder(**pods))
    assert {("kns.ns-c", 3)} == {(name.policy.name, hits) for name, hits in hits_of(snapshot).items()}
    assert {ids[0]} == snapshot.rules.get().table.explained
    assert [PolicyName("Profile", "", "kns.ns-c", "", "outbound")] == list(snapshot.rules.get().table.carriers)


@pytest.mark.parametrize("other", ["cali2", "cali9"])  # a pod whose status file is not there yet, and one that is gone
def test_a_profile_whose_name_one_pod_tells_is_counted_under_no_other(make, snapshot_of, other):
    files = {f"{one}_egress_v4.json": written(*ruled("allow", 0x515401A563BE3AE6)) for one in ("cali1", other)}
    status = make.folder(**{"k8s ns-c%2Fplain eth0": b'{"ifaceName": "cali1"}'})
    names = snapshot_of(files, endpoint_status=status).rules.get().table.names
    assert ["kns.ns-c"] == [name.policy.name for name in names]


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        (tier("default", end=("deny", 13)), True),
        (tier("default", end=("pass",)), True),
        (tier("default"), False),
        (ruled("allow", 5, "kns.ns-a "), None),
        ([], None),
    ],
)
def test_the_grammar_of_the_files_tells_whether_tier_ends_have_ids(snapshot_of, comments, expected):
    assert snapshot_of({"cali1_ingress_v4.json": written(*comments)}).rules.get().table.ends_have_ids is expected


def test_rules_are_recomputed_only_when_files_or_endpoints_change(make, node_of, snapshot_of):
    memory, links = Memory(), (make.link(3, "cali1"),)
    files = snapshot_of({"cali1_ingress_v4.json": written(*GATE)}).policies.get()

    def again(policies, **facts):
        node = node_of(links=links, **facts)
        node.policies = lambda: policies
        return make.snapshot(node, memory).rules.get().table

    table = again(files)
    assert again(files) is table
    assert {"inbound"} == {name.policy.direction for name in table.names}
    assert [frozenset({"cali1"})] == list(table.carriers.values())
    links = (make.link(3, "cali2"),)
    assert {} == again(files, states={"cali2": WORKLOAD}).carriers
    assert () == again(snapshot_of().policies.get(), states={"cali2": WORKLOAD}).names


# Endpoints whose policy program is not loaded.

NO_FILE = "Calico has written no policy file for it"
TWO_PODS = {"cali1": WORKLOAD | DUAL, "cali2": WORKLOAD | DUAL, "eth0": HOST | DUAL}


@pytest.fixture
def clock(monkeypatch):
    """The clock of all snapshots."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def problems_of(snapshot):
    return {
        (one.endpoint.interface, one.hook, one.direction, one.family, one.why) for one in snapshot.rules.get().problems
    }


@pytest.mark.parametrize(
    ("file", "hook", "direction"),
    [
        ("cali1_ingress", "tc_egress", "inbound"),
        ("cali1_egress", "tc_ingress", "outbound"),
        ("eth0_ingress", "tc_ingress", "inbound"),
        ("eth0_egress", "tc_egress", "outbound"),
        ("eth0_xdp", "xdp", "inbound"),
    ],
)
@pytest.mark.parametrize("flags", [0, V4])
def test_an_error_in_a_file_is_a_problem_of_its_endpoint(snapshot_of, file, hook, direction, flags):
    states = {"cali1": WORKLOAD | flags, "eth0": HOST | flags}
    snapshot = snapshot_of({f"{file}_v6.json": written(error="invalid argument")}, states=states)
    assert {(file.split("_")[0], hook, direction, 6, "invalid argument")} == problems_of(snapshot)


def test_an_error_about_an_interface_that_is_gone_is_none(snapshot_of):
    assert set() == problems_of(snapshot_of({"cali9_ingress_v4.json": written(error="invalid argument")}))


@pytest.mark.parametrize(
    ("word", "hook", "way"), [("ingress", "tc_egress", "inbound"), ("egress", "tc_ingress", "outbound")]
)
@pytest.mark.parametrize("carrier", ["cali1", "eth0"])
def test_a_ready_pod_without_a_file_that_another_interface_has_is_a_problem(snapshot_of, word, hook, way, carrier):
    snapshot = snapshot_of({f"{carrier}_{word}_v4.json": written()}, states=TWO_PODS)
    assert {(one, hook, way, 4, NO_FILE) for one in {"cali1", "cali2"} - {carrier}} == problems_of(snapshot)


def test_a_pod_whose_file_has_an_error_is_one_problem(snapshot_of):
    files = {"cali1_ingress_v4.json": written(), "cali2_ingress_v4.json": written(error="invalid argument")}
    assert {("cali2", "tc_egress", "inbound", 4, "invalid argument")} == problems_of(snapshot_of(files))


@pytest.mark.parametrize(
    ("flags", "families"),
    [
        (WORKLOAD | DUAL, {4, 6}),
        (WORKLOAD | V4, {4}),
        (WORKLOAD | V6, {6}),
        (WORKLOAD, set()),
        (HOST | DUAL, set()),
        (0x400 | DUAL, set()),
    ],
)
def test_a_file_is_missed_where_a_workload_is_ready_in_its_family(snapshot_of, flags, families):
    files = {f"cali1_ingress_v{family}.json": written() for family in (4, 6)}
    snapshot = snapshot_of(files, states={"cali1": WORKLOAD | DUAL, "cali2": flags})
    assert {("cali2", family) for family in families} == {
        (one, family) for one, _, _, family, _ in problems_of(snapshot)
    }


def test_on_a_node_of_one_family_files_of_the_other_are_not_missed(snapshot_of):
    states = {"cali1": WORKLOAD | DUAL, "cali2": WORKLOAD | DUAL}
    files = {"cali1_ingress_v4.json": written(), "cali2_ingress_v4.json": written()}
    assert set() == problems_of(snapshot_of(files, states=states))


@pytest.mark.parametrize(
    "files", [{}, {"cali9_ingress_v4.json": written()}, {"eth0_xdp_v4.json": written()}, {"README": b""}]
)
def test_where_no_pod_has_a_file_none_is_missed(snapshot_of, files):
    assert set() == problems_of(snapshot_of(files))


@pytest.mark.parametrize("content", [b"", b"{", written()[:-5], b"[]", b"\xff"])
def test_a_file_that_cannot_be_read_is_not_missing(snapshot_of, content):
    snapshot = snapshot_of({"cali1_ingress_v4.json": content, "cali2_ingress_v4.json": written(*GATE)})
    assert 1 == len(snapshot.policies.get().problems)
    assert set() == problems_of(snapshot)
    assert 3 == len(snapshot.rules.get().table.names)


@pytest.mark.parametrize(
    "comments",
    [
        ["Start of tier t", f"{ENDED} t", 77],
        tier("t", policy("GlobalNetworkPolicy odd", ("deny", 1 << 64))),
        tier("t\ud800", policy("GlobalNetworkPolicy odd\ud800", ("deny", 5)), end=("deny", 6)),
    ],
)
def test_an_odd_file_leaves_the_rules_of_the_others(snapshot_of, comments):
    snapshot = snapshot_of({"cali1_ingress_v4.json": written(*comments), "cali2_ingress_v4.json": written(*GATE)})
    assert {"gate", ""} <= {name.policy.name for name in snapshot.rules.get().table.names}


def test_a_file_that_could_not_be_read_is_not_missing_in_a_bundle_either(node_of, make, tmp_path):
    unread = replace(make.folder(**{"cali1_ingress_v4.json": written()}), unread=("cali2_ingress_v4.json",))
    node = node_of(policy_files=unread)
    (tmp_path / "bundle").write_bytes(make.bundled(node))
    assert set() == problems_of(make.snapshot(node)) == problems_of(make.snapshot(read_bundle(tmp_path / "bundle")))


def test_a_file_that_could_not_be_read_and_is_deleted_is_missing_soon(node_of, snapshot_of, make, clock):
    memory, links = Memory(), (make.link(3, "cali1"), make.link(4, "cali2"))
    whole = snapshot_of({"cali1_ingress_v4.json": written()}).policies.get()
    found = []
    for unread in (["cali2_ingress_v4.json"], [], []):
        clock.now += 5
        node = node_of(links=links)
        node.policies = lambda unread=unread: replace(whole, unread=tuple(unread))
        found.append(problems_of(make.snapshot(node, memory)))
    assert [set(), set(), {("cali2", "tc_egress", "inbound", 4, NO_FILE)}] == found


def test_files_that_appear_one_after_the_other_are_no_problem_and_one_that_never_does_is(node_of, make, clock):
    memory, files, found = Memory(), {}, []
    node = node_of(states=TWO_PODS)
    for seconds, file in ((0, None), (1, "cali1_ingress_v4.json"), (4, None), (2, None), (9, "cali2_ingress_v4.json")):
        clock.now += seconds
        files |= {file: written()} if file else {}
        node.facts["policy_files"] = make.folder(**files)
        found.append(len(problems_of(make.snapshot(node, memory))))
    assert [0, 0, 0, 1, 0] == found


def test_nothing_is_missed_where_calicos_interface_state_is_not_known(node_of, make):
    node = node_of({"cali1_ingress_v4.json": written()})
    del node.maps["cali_iface4"]
    assert set() == problems_of(make.snapshot(node))


@pytest.mark.parametrize("name", DUMPED)
def test_on_recorded_nodes_only_what_calico_could_not_load_is_a_problem(make, recorded, name):
    failed = name == "v3.29.7/57-hep-traffic.after"
    sentence = "failed to load BPF policy program IPV{}: invalid argument"
    expected = {("eth0", "xdp", "inbound", family, sentence.format(family)) for family in (4, 6)} if failed else set()
    assert expected == problems_of(make.snapshot(recorded(name)))


# Error handling.


def test_a_folder_that_cannot_be_listed_fails_what_needs_it_and_not_the_counters(snapshot_of):
    snapshot = snapshot_of(policy_files=NodeError("it could not be listed"))
    for part in ("policies", "rules"):
        with pytest.raises(NodeError, match="it could not be listed"):
            getattr(snapshot, part).get()
    assert {} == snapshot.rule_hits.get()


def test_without_a_rule_map_the_rules_are_named_all_the_same(node_of, make):
    node = node_of({"cali1_ingress_v4.json": written(*GATE)})
    del node.maps["cali_rule_ctrs2"]
    snapshot = make.snapshot(node)
    with pytest.raises(MapMissing, match="no rules map"):
        snapshot.rule_hits.get()
    assert 3 == len(snapshot.rules.get().table.names)


@pytest.mark.parametrize(("key_size", "value_size"), [(4, 8), (16, 8), (8, 4), (8, 16)])
def test_a_rule_map_of_another_shape_is_a_layout_error(node_of, make, key_size, value_size):
    node = node_of(counted={1: 2})
    dump = node.maps["cali_rule_ctrs2"]
    info = replace(dump.info, key_size=key_size, value_size=value_size)
    odd = MapDump(info, bytes(key_size), bytes(value_size))
    node.maps["cali_rule_ctrs2"] = odd
    with pytest.raises(LayoutError, match=f"keys of {key_size} and values of {value_size} bytes"):
        make.snapshot(node).rule_hits.get()


# Arbitrary files.

FILE_NAMES = [
    (interface, word, family)
    for interface in ("cali1", "cali9", "eth0", "eth9")
    for word in ("ingress", "egress", "xdp")
    for family in (4, 6)
]
TITLES = ["GlobalNetworkPolicy a", "NetworkPolicy ns/a", "KubernetesNetworkPolicy ns/a", "policy ns/b"]
WORDS = {"allow": "allow", "deny": "deny", "next-tier": "pass", "log": "log"}
SALTS = st.integers(0, 2)  # 0 for no id; a rule may have several ids, never two rules one
RULES = st.lists(st.tuples(st.sampled_from(list(WORDS)), SALTS), max_size=3)
ENDS = st.none() | st.tuples(st.sampled_from(["deny", "pass"]), SALTS)
MADE_UP = st.tuples(st.sampled_from("tu"), st.lists(st.tuples(st.sampled_from(TITLES), RULES), max_size=2), ENDS)
# Of a host endpoint and of the workload.
PARTS = st.tuples(st.lists(MADE_UP, max_size=2), st.lists(MADE_UP, max_size=2))


def number_of(name, salt):
    return salt and zlib.crc32(repr(name).encode()) << 32 | salt


def laid_out(files):
    """The contents of these files by name, and each of their rules: (interface, whether at tc, name, id)."""
    contents, found = {}, []
    for (interface, word, family), parts in files.items():
        lines = ([], [])
        for of_workload, where, policies, end in [(n, *one) for n, part in enumerate(parts) for one in part]:
            turned = interface.startswith("cali") and word != "xdp" and not of_workload
            direction = "outbound" if (word == "egress") != turned else "inbound"
            comments, rows = [], []
            for title, rules in policies:
                kind, _, name = title.replace("policy", "NetworkPolicy").partition(" ")
                owner = PolicyName(kind, *name.rpartition("/")[::2], where, direction)
                names = [RuleName(owner, str(place), WORDS[action]) for place, (action, _) in enumerate(rules)]
                ids = [number_of(name, salt) for name, (_, salt) in zip(names, rules, strict=True)]
                comments.append(policy(title, *zip([action for action, _ in rules], ids, strict=True)))
                rows += [(RuleName(owner, "", ""), 0), *zip(names, ids, strict=True)]
            if end:
                name = RuleName(PolicyName("Tier", "", "", where, direction), "end_of_tier", end[0])
                rows.append((name, number_of(name, end[1])))
            lines[of_workload].extend(tier(where, *comments, end=(end[0], rows[-1][1]) if end else ()))
            found += [(interface, word != "xdp", *row) for row in rows]
        contents[f"{interface}_{word}_v{family}.json"] = written(*lines[0], *lines[1], label_before=len(lines[0]))
    return contents, found


@given(st.dictionaries(st.sampled_from(FILE_NAMES), PARTS, max_size=6), st.integers(0, 1 << 20))
def test_each_rule_has_one_name_all_its_ids_and_their_hits(snapshot_of, files, seed):
    contents, found = laid_out(files)
    ids, carriers = {}, {}
    for interface, at_tc, name, number in found:
        if at_tc and number and name.action in COUNTED:
            ids.setdefault(name, set()).add(number)
        if interface in ("cali1", "eth0") and name.policy.kind != "Tier":
            carriers.setdefault(name.policy, set()).add(interface)
    explained = {number for *_, number in found} - {0}
    counted = {number: number % (seed + 1) for number in explained if number & 1} | {1: seed}
    snapshot = snapshot_of(contents, counted)
    assert ids == ids_of(snapshot)
    assert sorted(ids) == list(snapshot.rules.get().table.names)
    assert explained == snapshot.rules.get().table.explained
    assert carriers == snapshot.rules.get().table.carriers
    assert {name: sum(counted.get(one, 0) for one in ids[name]) for name in ids} == hits_of(snapshot)
