import base64
import json
import re
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.policy_comments import parse_policy_file
from exporter.calico.policy_debug import Policy, PolicyFileName, PolicyProgram, Rule, Tier, parse_file_name
from exporter.calico.policy_file import Instruction, PolicyDebugError, PolicyFile
from exporter.calico.rules import decode_rule_hits
from exporter.snapshot.pinned_maps import columns_of
from tests.recorded import NAMES, law_of_recordings

# One of each release: host endpoints, staged policies, a tier that passes, a Log rule.
EXAMPLES = [
    ("v3.29.7/57-hep-traffic.after", "eth0_ingress_v4.json"),
    ("v3.30.7/49-staged-policy.after", "calibf331a988cf_egress_v4.json"),
    ("v3.31.6/57-hep-traffic.after", "eth0_ingress_v6.json"),
    ("v3.32.1/64-wildcard-hep.after", "calibf331a988cf_ingress_v4.json"),
]
ABOUT = PolicyFileName("cali1", "ingress", 4)
NO_OPERATION = [191, 0, 0, 0, 0, 0, 0, 0]
FILE = '{"ifacename":"cali1","hook":"tc egress","policyInfo":[%s],"error":""}'


def at(*comments, labels=(), inst=NO_OPERATION):
    """An instruction as Felix writes it: what is empty is left out."""
    noted = {"labels": list(labels), "comments": list(comments)}
    return {"inst": list(inst)} | {key: value for key, value in noted.items() if value}


def load(number, *comments, source=0):
    """The two instructions that load a number, or with source 1 a map, into R2."""
    first, second = number.to_bytes(8, "little")[:4], number.to_bytes(8, "little")[4:]
    return [at(*comments, inst=[0x18, source << 4 | 2, 0, 0, *first]), at(inst=[0, 0, 0, 0, *second])]


def parse(*instructions):
    """The tiers of a file with these instructions."""
    return parse_policy_file(ABOUT, (FILE % ",".join(map(json.dumps, instructions))).encode()).tiers


def rules_of(*comments):
    """The rules of a policy with these comments between its start and its end."""
    ((policy,),) = [
        tier.policies for tier in parse(at("Start of policy p", *comments, "End of policy p", "End of tier"))
    ]
    return policy.rules


def outcome(content):
    """The program, or None for the error that is meant. Any other is raised."""
    try:
        return parse_policy_file(ABOUT, content)
    except PolicyDebugError:
        return None


@pytest.fixture(scope="session")
def examples(recorded):
    return [recorded(recording).policy_files().files[name] for recording, name in EXAMPLES]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("calibf331a988cf_ingress_v4.json", PolicyFileName("calibf331a988cf", "ingress", 4)),
        ("eth0_xdp_v4.json", PolicyFileName("eth0", "xdp", 4)),
        ("bond0.12_egress_v6.json", PolicyFileName("bond0.12", "egress", 6)),
        ("a_ingress_v4_egress_v6.json", PolicyFileName("a_ingress_v4", "egress", 6)),
        ("\udcff\n_egress_v6.json", PolicyFileName("\udcff\n", "egress", 6)),
        ("_ingress_v4.json", None),
        ("cali1_ingress_v5.json", None),
        ("cali1_Ingress_v4.json", None),
        ("cali1_ingress_v4.json.tmp", None),
        ("cali1_ingress_v4.json\n", None),
        ("cali1_ingress_v４.json", None),  # noqa: RUF001  # a full-width four
        ("", None),
    ],
)
def test_a_file_is_named_for_its_interface_direction_and_family(name, expected):
    assert expected == parse_file_name(name)


@given(st.text() | st.from_regex(r"\A.*_(ingress|egress|xdp)_v[46]\.json\Z"))
def test_any_name_is_put_together_again_or_is_another_files(name):
    about = parse_file_name(name)
    assert about is None or name == f"{about.interface}_{about.direction}_v{about.family}.json"


@law_of_recordings(NAMES)
def every_recorded_file_is_parsed(recording):
    folder = recording.bundle.policies()
    assert (recording.bundle.policy_files().files.keys(), ()) == (folder.files.keys(), folder.problems)
    assert None not in folder.files.values()


@pytest.mark.parametrize(("recording", "name"), EXAMPLES)
def test_instructions_are_those_that_a_json_parser_finds(recorded, recording, name):
    content = recorded(recording).policy_files().files[name]
    expected = [
        Instruction(
            bytes(one["inst"]),
            tuple(one.get("labels", ())),
            tuple(one.get("comments", ())),
            one.get("annotation", ""),
        )
        for one in json.loads(content)["policyInfo"]
    ]
    assert expected == list(PolicyFile(content).instructions())


# The files of these were not kept.
WITHOUT_FILES = {"upgrade/5-v3.31.6-downgraded.after", "upgrade/5-v3.31.6-downgraded.before"}
# A flow of ns-d between the recording of the map and Calico's print of it.
MEANWHILE = {"upgrade/1-v3.29.7": {5656579411968113502: 1}}
# What Calico's tool prints, in the words of v3.32 and of those before.
PRINTED = [
    ("error", re.compile(r"Error: (?P<what>.+)")),
    ("tier", re.compile(r"(?:Tier:|// Start of tier) (?P<what>.*)")),
    ("policy", re.compile(r"(?:Policy:|// Start of policy) ?(?P<what>.*?)(?: +\d+)?")),
    ("rule", re.compile(r'(?:Rule: .*  Action: |// Start of rule .*action:")(?P<what>[\w-]+)(?:".*)?')),
    ("hits", re.compile(r"(?:Hit count:|// count =) (?P<what>\d+)")),
    ("end", re.compile(r"(?:End Tier:|// End of tier) (?P<what>.*?)(?:  \(action: |: )(?P<action>\w+)\)?")),
]


def printed(text):
    """What Calico's tool printed about each program, by interface and hook."""
    programs = {}
    for block in text.split("IfaceName: ")[1:]:
        interface, hook, *lines = block.splitlines()
        rows = programs[interface, hook.removeprefix("Hook: ")] = []
        for line in lines:
            matches = ((kind, pattern.fullmatch(line.strip())) for kind, pattern in PRINTED)
            rows += [(kind, *match.groups()) for kind, match in matches if match]
    return programs


def as_printed(program, hits, *, tiers):
    """A program and its hits as Calico's tool prints them; without `tiers` as v3.29 does."""
    yield from [("error", program.error)] if program.error else ()
    for tier in program.tiers:
        yield from [("tier", tier.name)] if tiers and tier.name else ()
        for policy in tier.policies:
            if policy.kind != "Profile":
                yield "policy", f"{policy.kind} {policy.name}".strip()
            for rule in policy.rules:
                yield "rule", {"pass": "next-tier"}.get(rule.action, rule.action)
                yield "hits", str(hits.get(rule.id, 0))
        yield from [("end", tier.name, tier.end_action)] if tiers and tier.name else ()


@law_of_recordings(set(NAMES) - WITHOUT_FILES)
def calico_bpf_policy_dump_equals_the_parsed_program(recording):
    name, source = recording.name, recording.bundle
    dump = source.map_dump("cali_rule_ctrs2", sum_cpus=True)
    hits = {**decode_rule_hits(columns_of(dump)), **MEANWHILE.get(name, {})}
    dumps = {one: text for one, text in recording.oracle.items() if one.startswith("policy-dump.")}
    for member, text in dumps.items():
        of_member = member.split(".")[1], 6 if member.endswith(".v6.txt") else 4
        found = {
            (one.about.interface, one.hook): list(as_printed(one, hits, tiers="v3.29" not in name))
            for one in source.policies().files.values()
            if of_member == (one.about.interface, one.about.family)
        }
        assert printed(text) == found


class Grammar(NamedTuple):
    """What tells one release's comments from another's."""

    kinds: bool  # a policy's kind and number where it starts, its name in the line of each rule
    actions: bool  # the action where a tier ends
    sets: str  # the comment that gives the numbers of a rule's IP sets
    brackets: str
    closes_logs: bool = True  # whether a Log rule has an end


GRAMMARS = {
    "v3.26": Grammar(kinds=False, actions=False, sets="", brackets="<>", closes_logs=False),
    "v3.29": Grammar(kinds=False, actions=False, sets="IPSets src_ip_set_ids:<{}> ", brackets="<>"),
    "v3.30": Grammar(kinds=False, actions=True, sets="IPSets src_ip_set_ids:<{}> ", brackets="{}"),
    "v3.32": Grammar(kinds=True, actions=True, sets="IPSets src_ip_set_ids:<{}> ", brackets="{}"),
    "v3.33": Grammar(kinds=True, actions=True, sets="Match: proto=udp src={{10.0.0.0/8,{}}}", brackets="{}"),
}


class DrawnRule(NamedTuple):
    action: str  # as Felix writes it
    id: int
    sets: dict  # number by name
    coded: bool  # one that cannot be reached has comments and no code


class DrawnPolicy(NamedTuple):
    kind: str
    name: str
    rules: list


class DrawnTier(NamedTuple):
    name: str
    policies: list
    action: str
    end_id: int | None  # None where its end cannot be reached
    split: bool  # whether the program is split between its end and the code of that


class Felix:
    """Writes policy as Felix does: comments stand on the next instruction that is written."""

    def __init__(self, grammar):
        self.grammar, self.instructions, self.comments, self.labels, self.written = grammar, [], [], ["start"], 0
        self.jumped_to = ["allowed_by_host_policy"]  # what code to come is labelled with

    def say(self, *comments):
        self.comments += comments

    def code(self, *instructions):
        first, *others = instructions or [at()]
        self.instructions += [at(*self.comments, labels=self.labels, inst=first["inst"]), *others]
        self.comments, self.labels = [], []

    def program(self, host, workload):
        self.code()
        self.endpoint(*host)
        self.code()
        self.labels, self.jumped_to = ["rule_7_no_match", *self.jumped_to], []
        self.endpoint(*workload)
        self.say("Deny jump to 1")
        self.code(*load(9, source=1))
        return self.instructions

    def endpoint(self, tiers, profiles):
        for tier in tiers:
            self.tier(tier)
        for profile in profiles:
            for rule in profile.rules:
                self.rule(profile.name, rule)

    def tier(self, tier):
        self.say(f"Start of tier {tier.name}")
        for policy in tier.policies:
            self.policy(policy)
        self.say(f"End of tier {tier.name}: {tier.action}" if self.grammar.actions else f"End of tier {tier.name}")
        if tier.split:
            self.split()
        if tier.end_id is not None:
            self.code(at(), *load(9, source=1), *load(tier.end_id))

    def split(self):
        self.say("Splitting program after 7992 jumps")
        self.code(at(), *load(9, source=1))
        self.labels = [*self.labels, *self.jumped_to]
        self.code(at(inst=[0xB7, 0, 0, 0, 1, 0, 0, 0]))  # R0 = 1, which tells the second program where to go on
        self.say("Tail call to policy program at index 1000 * 1 + 3 = 1003")
        self.code()
        self.say("##### Start of program 1 #####", "Load packet metadata saved by previous program")
        self.labels = [*self.labels, "start"]
        self.code()

    def policy(self, policy):
        about = f"{policy.kind} {policy.name} {self.written}" if self.grammar.kinds else f"policy {policy.name}"
        self.say(f"Start of {about}")
        for rule in policy.rules:
            self.rule(policy.name, rule)
        self.say(f"End of {about}")
        self.written += 1

    def rule(self, owner, rule):
        named = f"{owner} " if self.grammar.kinds else ""
        first, *others = [*comments_on(rule.sets, self.grammar), "If protocol != udp, skip to next rule"]
        self.say(f"Start of rule {named}{text_of(rule, self.grammar)} ", first, f"Rule MatchID: {rule.id}", *others)
        if rule.coded:
            self.code(at(), *load(rule.id))
        if rule.action != "log" or self.grammar.closes_logs:
            self.say(f"End of rule {named}q-{self.written}")


def text_of(rule, grammar):
    """A rule's text, with what looks like a comment and like an action in it."""
    opening, closing = grammar.brackets
    first = f'action:"{rule.action}"  ' if rule.action else ""
    quoted = r"Start of rule action:\"none\""
    return f'{first}protocol:{opening}name:"udp"{closing} original_src_selector:"{quoted}"'


def comments_on(sets, grammar):
    """The comments that number these IP sets."""
    if not sets or not grammar.sets:
        return []
    listed = ",".join(f"0x{number:x}" for number in sets.values())
    each = [f"If source doesn't match ipset {name} (0x{number:x}), skip to next rule" for name, number in sets.items()]
    return [grammar.sets.format(listed), *each]


def expected_policy(policy, grammar):
    words = {"": "allow", "next-tier": "pass"}
    rules = (
        Rule(
            place, words.get(one.action, one.action), one.id, text_of(one, grammar), (*comments_on(one.sets, grammar),)
        )
        for place, one in enumerate(policy.rules)
    )
    kind = policy.kind if grammar.kinds or policy.kind == "Profile" else ""
    return Policy(kind, policy.name if grammar.kinds or kind != "Profile" else "", tuple(rules))


def expected_tiers(host, workload, grammar):
    for before_workload, (tiers, profiles) in ((True, host), (False, workload)):
        for tier in tiers:
            policies = tuple(expected_policy(one, grammar) for one in tier.policies)
            yield Tier(tier.name, policies, tier.action if grammar.actions else "", tier.end_id or 0, before_workload)
        if profiles:
            policies = tuple(expected_policy(one, grammar) for one in profiles)
            yield Tier("", policies, before_workload=before_workload)


IDS = st.integers(0, (1 << 64) - 1)
SETS = st.dictionaries(st.from_regex(r"\As:[\w-]{1,6}\Z"), st.integers(1, (1 << 64) - 1), max_size=2)


@st.composite
def drawn_programs(draw):
    """A release's grammar, and tiers and profiles: first those of host endpoints, then the workload's."""
    grammar = draw(st.sampled_from(sorted(GRAMMARS)).map(GRAMMARS.__getitem__))
    rule = st.builds(
        DrawnRule, st.sampled_from(["allow", "deny", "next-tier", "pass", "log", ""]), IDS, SETS, st.booleans()
    )
    names = st.sampled_from(["a", "ns-a/a.b-c", "ns/default.x", "rule", "policy", "tier"])
    if not grammar.kinds:
        names |= st.sampled_from(["my policy", "tier x", "rule action:1", "p: deny", ""])
    kinds = st.sampled_from(["NetworkPolicy", "GlobalNetworkPolicy", "KubernetesNetworkPolicy"])
    policies = st.builds(DrawnPolicy, kinds, names, st.lists(rule, max_size=3))
    staged = st.builds(DrawnPolicy, st.just(""), st.just(""), st.just([]))
    tier_names = st.sampled_from(["default", "a:b", "a: b", "x y", "deny", "tier"])
    if grammar.actions:
        tier_names |= st.sampled_from(["x: deny", ": pass", "x: "])
    tiers = st.lists(
        st.builds(
            DrawnTier,
            tier_names,
            st.lists(policies | staged, max_size=3),
            st.sampled_from(["deny", "pass"]),
            st.none() | IDS,
            st.booleans(),
        ),
        max_size=2,
    )
    owners = st.lists(
        st.sampled_from(["kns.a", "ksa.a.default", "sg-1"]), max_size=3 if grammar.kinds else 1, unique=True
    )
    closing = rule if grammar.closes_logs else rule.filter(lambda one: one.action != "log")
    of_profiles = st.tuples(st.lists(rule, max_size=2), closing).map(lambda found: [*found[0], found[1]])
    endpoints = [
        (draw(tiers), [DrawnPolicy("Profile", owner, draw(of_profiles)) for owner in draw(owners)]) for _ in range(2)
    ]
    return grammar, *endpoints


@given(drawn_programs())
def test_any_program_in_any_releases_words_comes_back(drawn):
    grammar, *endpoints = drawn
    assert tuple(expected_tiers(*endpoints, grammar)) == parse(*Felix(grammar).program(*endpoints))


def test_a_staged_policy_is_an_empty_one_and_takes_nobodys_rules(recorded):
    for recording in ("v3.30.7/49-staged-policy.after", "v3.32.1/49-staged-policy.after"):
        staged, other = recorded(recording).policies().files["calibf331a988cf_egress_v4.json"].tiers[0].policies
        assert Policy("", "", ()) == staged
        assert ("security.gate", 3) == (other.name, len(other.rules))


@pytest.mark.parametrize(("recording", "expected"), [("v3.31.6", 0), ("v3.32.1", 0), ("v3.29.7", 4421916344533550796)])
def test_a_log_rule_takes_a_place_and_has_no_id_since_v3_30(recorded, recording, expected):
    found = recorded(f"{recording}/05-eot-egress-deny.after").policies().files["calibf331a988cf_ingress_v4.json"]
    rules = found.tiers[0].policies[0].rules
    assert (5, "log", expected) == (rules[5].position, rules[5].action, rules[5].id)
    assert (6, "deny") == (rules[6].position, rules[6].action)


# Recorded with v3.32.1 and a host endpoint for all interfaces: its last rule matches everything.
def test_a_pods_program_begins_with_the_policy_of_host_endpoints(recorded):
    found = recorded("v3.32.1/64-wildcard-hep.after").policies().files["calibf331a988cf_ingress_v4.json"]
    expected = [
        ("default", "deny", 0, True),
        ("security", "deny", 8714826741386839106, False),
        ("", "", 0, False),
    ]
    assert expected == [(one.name, one.end_action, one.end_id, one.before_workload) for one in found.tiers]
    assert ["allhosts-forward", "security.gate", "kns.ns-a"] == [one.policies[0].name for one in found.tiers]


def test_a_program_that_could_not_be_loaded_says_why(recorded):
    found = recorded("v3.29.7/57-hep-traffic.after").policies().files["eth0_xdp_v4.json"]
    expected = "failed to load BPF policy program IPV4: invalid argument"
    assert ("tc xdp", expected, ()) == (found.hook, found.error, found.tiers)


# No release that writes these was recorded: from felix/bpf/polprog/pol_prog_builder.go.
UNRECORDED = {
    "v3.26": (
        [
            "Start of tier default",
            "Start of policy default.my-policy",
            'Start of rule action:"log" protocol:<name:"udp" > rule_id:"a" ',
            "Rule MatchID: 5",
            'Start of rule action:"deny" src_ip_set_ids:"s:a" rule_id:"b" ',
            "Rule MatchID: 6",
            "If source doesn't match ipset s:a, skip to next rule",
            "End of rule b",
            "End of policy default.my-policy",
            "End of tier default",
        ],
        Policy(
            "",
            "default.my-policy",
            (
                Rule(0, "log", 5, 'action:"log" protocol:<name:"udp" > rule_id:"a"'),
                Rule(1, "deny", 6, 'action:"deny" src_ip_set_ids:"s:a" rule_id:"b"'),
            ),
        ),
    ),
    "v3.33": (
        [
            "Start of tier default",
            "Start of NetworkPolicy ns-a/my-policy 3",
            'Start of rule ns-a/my-policy action:"deny"  src_ip_set_ids:"s:a"',
            "Match: proto=udp src={10.0.0.0/8,0x1a2b}",
            "Rule MatchID: 6",
            "End of rule ns-a/my-policy b",
            "End of NetworkPolicy ns-a/my-policy 3",
            "End of tier default: pass",
        ],
        Policy(
            "NetworkPolicy",
            "ns-a/my-policy",
            (Rule(0, "deny", 6, 'action:"deny"  src_ip_set_ids:"s:a"', ("Match: proto=udp src={10.0.0.0/8,0x1a2b}",)),),
        ),
    ),
}


@pytest.mark.parametrize("release", UNRECORDED)
def test_a_release_that_was_not_recorded_is_read_by_its_source(release):
    comments, expected = UNRECORDED[release]
    (found,) = parse(at(*comments))
    assert (expected,) == found.policies


def test_the_end_of_a_tier_without_code_has_no_id_whatever_is_loaded_later():
    assert [0, 0, 0] == [
        one.end_id
        for one in parse(
            at("Start of tier a", "End of tier a: deny", "Start of tier b", "Start of policy p", "Start of rule a:1"),
            *load(7),
            at("End of rule", "End of policy p", "End of tier b: pass"),
            at("Start of rule kns.a action:1"),
            *load(8),
        )
    ]


@pytest.mark.parametrize(
    ("name", "end", "action"),
    [
        ("a", "", ""),
        ("a", ": deny", "deny"),
        ("a", ": pass", "pass"),
        ("a", ": ", "deny"),  # v3.30 and later write what they do not know so, and deny
        ("a: b", ": pass", "pass"),
        ("x: deny", ": deny", "deny"),
        ("x: deny", "", ""),
        ("a: b", "", ""),
    ],
)
def test_a_tier_ends_with_its_name_and_since_v3_30_its_action(name, end, action):
    (found,) = parse(at(f"Start of tier {name}", f"End of tier {name}{end}"))
    assert (name, action) == (found.name, found.end_action)


def test_a_map_that_is_loaded_is_no_id():
    (found,) = parse(at("Start of tier a", "End of tier a: deny"), *load(7, source=1), *load(8))
    assert 8 == found.end_id


def test_a_number_loaded_into_another_register_is_no_id():
    other = [{**one, "inst": [one["inst"][0], one["inst"][1] and 1, *one["inst"][2:]]} for one in load(7)]
    (found,) = parse(at("Start of tier a", "End of tier a: deny"), *other, *load(8))
    assert 8 == found.end_id


# After the last tier of a pod without profiles comes "no profile matched", which has no comment.
def test_a_number_loaded_after_the_end_of_a_tier_is_not_its_id():
    (found,) = parse(at("Start of tier a", "End of tier a: deny"), *load(7), *load(0))
    assert 7 == found.end_id


@pytest.mark.parametrize("number", [0, 1, 0xFFFFFFFF, 1 << 32, 1 << 63, (1 << 64) - 1, 0x18021802180218])
def test_the_id_of_a_tiers_end_is_both_halves_of_what_is_loaded(number):
    (found,) = parse(at("Start of tier a", "End of tier a: deny"), *load(number))
    assert number == found.end_id


@pytest.mark.parametrize("number", ["0", "1", "18446744073709551615"])
def test_the_id_of_a_rule_is_its_match_id(number):
    (rule,) = rules_of("Start of rule action:1", f"Rule MatchID: {number}")
    assert int(number) == rule.id


@pytest.mark.parametrize(
    "comment", ["MatchID:", "MatchID: ", "MatchID: -1", "MatchID: 0x1", "MatchID: 1 2", "MatchID: ²", "matchID: 1", "1"]
)
def test_a_match_id_that_is_no_number_is_none(comment):
    (rule,) = rules_of("Start of rule action:1", f"Rule {comment}")
    assert 0 == rule.id


@pytest.mark.parametrize("number", ["18446744073709551616", "9" * 20, "9" * 21, "9" * 22, "9" * 5000])
def test_a_match_id_that_no_key_can_hold_is_none(number):
    (rule,) = rules_of("Start of rule action:1", f"Rule MatchID: {number}")
    assert 0 == rule.id


@pytest.mark.parametrize(
    "comment",
    [
        "If dest doesn't match ipset s:a (0x1f), jump to next ipset",
        "If source matches ipset s:a (0x1f), skip to next rule",
        "IPSets src_ip_set_ids:<0x1f> ",
        "Match: !src={0x1f}",
    ],
)
def test_a_comment_with_the_number_of_an_ip_set_stays_with_its_rule(comment):
    first, second = rules_of("Start of rule action:1", comment, "Start of rule action:1")
    assert ((comment,), ()) == (first.ip_sets, second.ip_sets)


@pytest.mark.parametrize(
    "comment",
    [
        "If dest doesn't match ipset s:a, skip to next rule",  # before v3.29
        "If source not in {10.0.0.0/8}, skip to next rule",
        "If dest port is not within any of the named ports {s:0x}, skip to next rule",
        "Match: proto=tcp src={10.0.0.0/8}",
        "Splitting program after 0x1f jumps",
    ],
)
def test_a_comment_without_the_number_of_an_ip_set_is_not_kept(comment):
    (rule,) = rules_of("Start of rule action:1", comment)
    assert () == rule.ip_sets


def test_comments_of_many_rules_on_one_instruction_are_read_in_their_order():
    first, second = rules_of(
        'Start of rule p action:"allow"',
        "Rule MatchID: 1",
        "End of rule p x",
        'Start of rule p action:"next-tier"',
        "Rule MatchID: 2",
    )
    expected = (Rule(0, "allow", 1, 'action:"allow"'), Rule(1, "pass", 2, 'action:"next-tier"'))
    assert expected == (first, second)


def test_profiles_of_host_endpoints_and_of_the_workload_are_apart():
    profile = ["Start of rule kns.a action:1", "End of rule kns.a x"]
    expected = [(True, 1), (False, 1)]
    tiers = parse(at(*profile), at(*profile, labels=["allowed_by_host_policy"]))
    assert expected == [(tier.before_workload, len(tier.policies[0].rules)) for tier in tiers]


def test_profiles_of_host_endpoints_are_in_no_tier_of_the_workload():
    profile = ["Start of rule kns.a action:1", "End of rule kns.a x"]
    found = parse(at(*profile), at("Start of tier a", "End of tier a: deny", labels=["allowed_by_host_policy"]))
    assert [("", True, 1), ("a", False, 0)] == [(one.name, one.before_workload, len(one.policies)) for one in found]


@pytest.mark.parametrize("name", ["my policy", "ns/my policy 1", "a  b"])
def test_a_policys_name_may_have_blanks(name):
    policy = [f"Start of NetworkPolicy {name} 7", f"End of NetworkPolicy {name} 7"]
    ((found,),) = [tier.policies for tier in parse(at("Start of tier a", *policy, "End of tier a: deny"))]
    assert Policy("NetworkPolicy", name, ()) == found


@pytest.mark.parametrize(("name", "other"), [("hook", "error"), ("error", "hook")])
def test_fields_come_in_any_order_and_may_be_missing_or_null(name, other):
    content = f' {{\n"{name}":"x" ,\t"policyInfo" : null, "unknown":{{"a":[1]}}, "{other}":null}}\r\n'
    program = parse_policy_file(ABOUT, content.encode())
    assert ("x", "", ()) == (getattr(program, name), getattr(program, other), program.tiers)


def as_base64(content):
    whole = json.loads(content)
    for one in whole["policyInfo"]:
        one["inst"] = base64.b64encode(bytes(one["inst"])).decode()
    return json.dumps(whole).encode()


def test_instructions_in_base64_say_the_same(examples):
    for content in examples:
        assert parse_policy_file(ABOUT, content) == parse_policy_file(ABOUT, as_base64(content))


def test_a_file_cut_anywhere_is_an_error():
    whole = (FILE % json.dumps(at("Start of tier é", labels=["start"]))).encode()
    assert outcome(whole)
    assert not any(outcome(whole[:length]) for length in range(len(whole)))


@given(st.data())
def test_a_recorded_file_cut_anywhere_is_an_error(examples, data):
    content = data.draw(st.sampled_from(examples)).rstrip()
    length = data.draw(st.integers(0, len(content) - 1))
    assert outcome(content[:length]) is None


@pytest.mark.parametrize("rest", ["x", "{}", "\0", "]", ",", "\ufeff", "}"])
def test_a_file_with_something_after_its_end_is_an_error(rest):
    with pytest.raises(PolicyDebugError):
        parse_policy_file(ABOUT, (FILE % "" + rest).encode())


@pytest.mark.parametrize(
    "inst",
    [
        None,
        [],
        [0] * 7,
        [0] * 9,
        [256] + [0] * 7,
        [-1] + [0] * 7,
        ["0"] * 8,
        [0.0] * 8,
        [[0]] * 8,
        {},
        {"a": 1},
        True,
        1.5,
        "",
        "AAAAAAAAAAA",  # no padding
        "AAAAAAAAAAA=AAAA",
        "AAAA",
        "é",
        "\ud800",
        [10**400] + [0] * 7,
    ],
    ids=repr,
)
def test_an_instruction_that_is_not_8_bytes_is_an_error(inst):
    with pytest.raises(PolicyDebugError, match="has not the shape of one"):
        parse(at(), {"inst": inst})


@pytest.mark.parametrize("wrong", [[1], [None], [[]], [{}], 1, 1.5, True], ids=repr)
@pytest.mark.parametrize("field", ["labels", "comments", "annotation"])
def test_a_note_that_is_no_text_is_an_error(field, wrong):
    with pytest.raises(PolicyDebugError, match="has not the shape of one"):
        parse(at() | {field: wrong})


@pytest.mark.parametrize("element", ["null", "[]", "0", '"AAAAAAAAAAA="', "{}", '{"comments":[]}'])
def test_an_instruction_without_code_is_an_error(element):
    assert outcome((FILE % element).encode()) is None


@pytest.mark.parametrize("wrong", ["[1]", '{"a":1}', "1", "true"])
@pytest.mark.parametrize("field", ["hook", "error"])
def test_a_field_that_is_no_text_is_an_error(field, wrong):
    with pytest.raises(PolicyDebugError, match=f"its field {field} is no text"):
        parse_policy_file(ABOUT, f'{{"policyInfo":[],"{field}":{wrong}}}'.encode())


BOMBS = {
    "nothing": b"",
    "zeros": b"\0" * 100,
    "a mark": b"\xef\xbb\xbf" + (FILE % "").encode(),
    "utf-16": (FILE % "").encode("utf-16"),
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "lists": b"[" * 200_000,
    "lists in a field": b'{"a":' + b"[" * 200_000,
    "objects in a field": b'{"a":' * 200_000,
    "lists in an instruction": (FILE % ('{"inst":' + "[" * 200_000)).encode(),
    "instructions in an instruction": (FILE % '{"policyInfo":[' * 100).encode(),
    "a long number": b'{"a":' + b"1" * 5000 + b"}",
    "a long number in an instruction": (FILE % f'{{"inst":[{"1" * 5000}]}}').encode(),
    "an open text": b'{"hook":"' + b"x" * 1_000_000,
    "an open escape": b'{"hook":"' + b"\\" * 999_999,
    "blanks": b" " * 1_000_000,
    "blanks inside": b"{" + b"\t" * 1_000_000,
    "bytes that are no text": b"\xff" * 1_000_000,
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.timeout(10)
def test_what_is_no_policy_debug_file_is_an_error_and_soon(kind):
    with pytest.raises(PolicyDebugError):
        parse_policy_file(ABOUT, BOMBS[kind])


@pytest.mark.timeout(10)
def test_a_file_of_many_instructions_is_parsed_soon():
    one = json.dumps(at("Start of policy p", "Start of rule a:1", "End of rule", "End of policy p", "End of tier t"))
    content = (FILE % ",".join([one] * 20_000)).encode()
    assert 20_000 == len(parse_policy_file(ABOUT, content).tiers)


def test_a_name_that_is_no_text_can_still_be_written():
    ((found,),) = [tier.policies for tier in parse(at("Start of policy \0\ud800é", "End of policy", "End of tier"))]
    assert Policy("", "\0\\ud800é", ()) == found


@given(st.binary() | st.binary().map(lambda found: b"{" + found))
def test_any_bytes_are_a_program_or_an_error(content):
    assert isinstance(outcome(content), PolicyProgram | None)


@given(st.data())
def test_any_recorded_file_changed_anywhere_is_a_program_or_an_error(examples, data):
    content = data.draw(st.sampled_from(examples))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 100)))
        put = data.draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"]", b"}", b"null", content[:50], content[-50:]])
        )
        content = content[:start] + put + content[end:]
    assert isinstance(outcome(content), PolicyProgram | None)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WORDS = [
    *("Start of", "End of", "tier", "rule", "policy", "NetworkPolicy", "a", "a/b", ": deny", ": pass", 'action:"deny"'),
    *("Rule MatchID:", "7", "0", "IPSets", "If", "Match:", "ipset", "0x1f", "(0x1f)", "", " "),
]
COMMENTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
INSTRUCTIONS = st.fixed_dictionaries(
    {"inst": st.sampled_from([NO_OPERATION, [0x18, 2, 0, 0, 1, 2, 3, 4], [0x18, 0x12, 0, 0, 1, 2, 3, 4], [0] * 8])},
    optional={
        "labels": st.lists(st.sampled_from(["start", "allowed_by_host_policy"]), max_size=2),
        "comments": st.lists(COMMENTS | st.text(), max_size=5),
        "annotation": st.text(),
    },
)

ODD_INSTRUCTIONS = st.fixed_dictionaries(
    {"inst": ANY_JSON.filter(lambda one: type(one) is not int)},
    optional=dict.fromkeys(("labels", "comments", "annotation"), ANY_JSON),
)


@given(
    st.dictionaries(st.sampled_from(["ifacename", "hook", "error", "policyInfo", "more"]) | st.text(), ANY_JSON),
    st.lists(INSTRUCTIONS | ODD_INSTRUCTIONS | ANY_JSON, max_size=4),
)
def test_any_json_is_a_program_or_an_error(fields, instructions):
    for whole in (fields, fields | {"policyInfo": instructions}, instructions):
        assert isinstance(outcome(json.dumps(whole).encode()), PolicyProgram | None)


@given(st.lists(INSTRUCTIONS))
def test_any_comments_in_any_order_are_a_program(instructions):
    for tier in parse(*instructions):
        assert 0 <= tier.end_id < 1 << 64
        for policy in tier.policies:
            assert list(range(len(policy.rules))) == [rule.position for rule in policy.rules]


@pytest.mark.parametrize("recording", ["v3.29.7/06-no-profile-match.after", "v3.32.1/06-no-profile-match.after"])
def test_a_program_counts_under_zero_if_it_loads_zero_as_an_id(recorded, recording):
    source = recorded(recording)
    for name, content in source.policy_files().files.items():
        codes = [one.code for one in PolicyFile(content).instructions()]
        pairs = [first[:2] + first[4:] + second[4:] for first, second in pairwise(codes)]
        assert (b"\x18\x02" + bytes(8) in pairs) == source.policies().files[name].counts_zero
