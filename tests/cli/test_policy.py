"""`policy`: the rules in the order in which a packet meets them, with the hits that Calico's own tool prints."""

import json
import re
import tarfile

import pytest

from exporter.snapshot.bundle import Bundle
from tests.cli.conftest import run_program
from tests.cli.edits import (
    broken_policy_files,
    edits,
    failing,
    rewritten,
    unpinned,
    with_ip_sets,
    without_policy_files,
)
from tests.recorded import NAMES, PAIRS, law_of_pairs, law_of_recordings

# Of the downgraded node no policy files were recorded, and before 46 they were switched off.
WITHOUT_FILES = [name for name in NAMES if "downgraded" in name or name == "v3.30.7/46-flowlogs-enabled.before"]
DUMPED = [name for name in NAMES if name not in WITHOUT_FILES]
# One flow of ns-d/open, allowed by its profile, between the recording of the map and Calico's print of it.
MEANWHILE = {("upgrade/1-v3.29.7", str(0x4E8035015E25BB5E)): 1}
HERE = "v3.32.1/05-eot-egress-deny.after"
HEP, OLD = "v3.32.1/57-hep-traffic.after", "v3.29.7/57-hep-traffic.after"
CLIENT, SERVER = "calibf331a988cf", "cali34769d6a557"


def shown_of(path, *arguments):
    """What `policy` prints about a bundle, in which nothing is wrong."""
    result = run_program("policy", "--bundle", path, *arguments)
    assert (0, "") == (result.exit_code, result.stderr)
    return result.stdout


def programs_of(path, *arguments):
    """The programs of its JSON."""
    return json.loads(shown_of(path, "-o", "json", *arguments))["programs"]


@pytest.fixture
def show(recording):
    """What `policy` prints about a recording, in which nothing is wrong."""
    return lambda name, *arguments: shown_of(recording(name), *arguments)


@pytest.fixture
def programs(show):
    """The programs of its JSON."""
    return lambda name, *arguments: json.loads(show(name, "-o", "json", *arguments))["programs"]


def of(programs):
    """The programs by interface, IP family and hook, each once."""
    keys = [(one["interface"], one["ip_family"], one["hook"]) for one in programs]
    assert len(keys) == len(set(keys))
    return dict(zip(keys, programs, strict=True))


def rules(program):
    """(policy, rule) of a program in its order."""
    return [(policy, rule) for tier in program["tiers"] for policy in tier["policies"] for rule in policy["rules"]]


# Calico's own print, before v3.32 the comments as they are, from v3.32 on a table.

PRINTED = re.compile(
    r"Hook: tc (?P<hook>\w+)|// Start of rule (?P<text>.*?) *|      Rule: (?P<policy>\S*)  Action: (?P<action>\S+)"
    r"|(?:// count = |      Hit count: )(?P<hits>\d+)"
)
WORDS = {"next-tier": "pass"}


def printed(text):
    """What Calico printed of an interface: {hook: [(policy or text, action, hits)]}."""
    hooks, row = {}, None
    for match in filter(None, map(PRINTED.fullmatch, text.splitlines())):
        if match["hook"]:
            found = hooks.setdefault({"xdp": "xdp"}.get(match["hook"], f"tc_{match['hook']}"), [])
        elif match["hits"]:
            # Of a Log rule, which has no id, it prints what id 0 counted.
            found.append((*row, 0 if row[1] == "log" else int(match["hits"])))
        else:
            action = match["action"] or re.search(r'action:"([^"]*)"', match["text"])[1]
            # Of a node that came from an older release, names are those that v3.31 gave them.
            policy = re.sub(r"^(|.*/)default\.", r"\1", match["policy"] or "")
            row = (match["text"] or policy, WORDS.get(action, action))
    return hooks


def dumps(oracle):
    """(interface, IP family, what Calico printed) of each policy dump in a recording."""
    for name, text in oracle.items():
        match = re.fullmatch(r"policy-dump\.(.*?)(\.v6)?\.txt", name)
        if match:
            yield match[1], 6 if match[2] else 4, text


@law_of_recordings(DUMPED)
def every_rule_that_calico_prints_is_there_in_its_order_with_its_hits(recording):
    found = of(programs_of(recording.path))
    for interface, family, text in dumps(recording.oracle):
        ours = {}
        for (whose, version, hook), program in found.items():
            if (whose, version) == (interface, family):
                rows = ours.setdefault(hook, [])
                for policy, rule in rules(program):
                    title = "/".join(filter(None, (policy["namespace"], policy["name"])))
                    hits = (rule["hits"] or 0) + MEANWHILE.get((recording.name, rule["id"]), 0)
                    rows.append((rule["text"] if "// Start of" in text else title, rule["action"], hits))
                    assert (rule["hits"] is None) == (rule["action"] == "log" or hook == "xdp")
        assert printed(text) == ours


def fnv(text):
    number = 0xCBF29CE484222325
    for byte in text.encode():
        number = (number ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return number


@law_of_recordings([name for name in DUMPED if "v3.29.7" not in name and "flowlogs" not in name])
def ends_of_tiers_have_the_hits_that_calico_counts_under_their_id(recording):
    info, keys, values = (recording.members[f"maps/cali_rule_ctrs2/{one}"] for one in ("info.json", "keys", "values"))
    copies = json.loads(info)["copies"] * 8
    ids = [int.from_bytes(keys[place : place + 8], "little") for place in range(0, len(keys), 8)]
    slices = [values[place : place + copies] for place in range(0, len(values), copies)]
    hits = {
        number: sum(int.from_bytes(one[cpu : cpu + 8], "little") for cpu in range(0, copies, 8))
        for number, one in zip(ids, slices, strict=True)
    }
    for program in programs_of(recording.path):
        for tier in program["tiers"]:
            if tier["end_id"]:
                word = {"inbound": "I", "outbound": "E"}[tier["direction"]]
                assert fnv(f"{tier['end_action'][0].upper()}P{word}|{tier['tier']}") == int(tier["end_id"])
            counted = tier["end_id"] and program["hook"] != "xdp"
            assert (hits.get(int(tier["end_id"]), 0) if counted else None) == tier["end_hits"]
        missing = program["no_profile_match_hits"]
        assert missing is None or hits.get(0, 0) == missing


def test_known_ends_of_tiers_and_missing_profiles_are_there(programs):
    client = of(programs(HERE))[CLIENT, 4, "tc_ingress"]
    assert [("security", "deny", None), ("default", "deny", 7), ("", "", None)] == [
        (one["tier"], one["end_action"], one["end_hits"]) for one in client["tiers"]
    ]
    opened = of(programs("v3.32.1/06-no-profile-match.after"))["cali86e35d8c298", 4, "tc_egress"]
    assert ([], 9) == (opened["tiers"], opened["no_profile_match_hits"])
    assert {None} == {one["no_profile_match_hits"] for one in programs("v3.29.7/06-no-profile-match.after")}


@law_of_pairs(PAIRS)
def two_bundles_show_the_hits_between_them(pair):
    seen = {number: int(by) for number, by in re.findall(r"rule 0x\w+ (\d+): \+(\d+)", pair.diff)}
    found = {}
    for program in programs_of(pair.before.path, "--bundle", pair.after.path):
        found |= {rule["id"]: rule["hits"] for _, rule in rules(program) if rule["hits"] is not None}
        found |= {tier["end_id"]: tier["end_hits"] for tier in program["tiers"] if tier["end_hits"] is not None}
    assert {number: hits for number, hits in seen.items() if number in found} == {
        number: hits for number, hits in found.items() if hits
    }


# The table.


def shown(text):
    """(what, action, hits) of each row of the tables that counts something, or could."""
    rows, start = [], None
    for line in text.splitlines():
        if re.fullmatch(r" *ACTION  +HITS  MATCH *", line):
            start, end = line.index("ACTION"), line.index("HITS") + 4
        elif re.match(r"    (  rule \d|end of tier |no profile matched)", line):
            rows.append((line[:start].strip(), *line[start:end].split()))
    return rows


def expected(programs):
    """The same rows from the JSON."""
    for program in programs:
        for tier in program["tiers"]:
            for policy in tier["policies"]:
                yield from ((f"rule {rule['rule']}", rule["action"], rule["hits"]) for rule in policy["rules"])
            if tier["tier"]:
                yield f"end of tier {tier['tier']}", tier["end_action"], tier["end_hits"]
        if program["no_profile_match_hits"] is not None:
            yield "no profile matched", "deny", program["no_profile_match_hits"]


TABLES = [
    HERE, HEP, "v3.29.7/32-log-rule.after", "v3.30.7/50-tier-default-pass.after", "v3.31.6/49-staged-policy.after",
    "v3.32.1/64-wildcard-hep.after",
]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("arguments", [["--family", "4"], ["--family", "6"], ["--family", "4", "--nonzero"]])
def test_table_and_json_have_the_same_rows(show, programs, name, arguments):
    rows = list(expected(programs(name, *arguments[:2])))
    kept = [
        (what, action, "-" if hits is None else str(hits)) for what, action, hits in rows if hits or len(arguments) == 2
    ]
    # Before v3.30 the end of a tier does not say what it does.
    assert [tuple(filter(None, row)) for row in kept] == shown(show(name, *arguments))


def test_ipv4_and_ipv6_are_one_table_where_their_rules_are_the_same(show):
    text = show(HERE, "--pod", "client")
    assert ["inbound (tc_egress), IPv4 and IPv6", "outbound (tc_ingress), IPv4 and IPv6"] == [
        line for line in text.splitlines() if " (tc_" in line
    ]


def test_a_pod_is_titled_with_its_name_and_a_host_with_its_interface(show):
    assert (
        "ns-a/client  calibf331a988cf  (ifindex 5, workload, 10.65.0.2, fd00:65::2)"
        == show(HERE, "--pod", "client").splitlines()[0]
    )
    assert "eth0  (ifindex 3, host)" == show(HEP, "--interface", "eth0").splitlines()[0]


def test_what_never_counts_says_so_and_is_no_zero(show):
    text = show(HEP, "--interface", "eth0", "--direction", "inbound", "--family", "4")
    assert [("rule 0", "deny", "-"), ("end of tier default", "pass", "-")] == shown(text)[-2:]
    assert ("rule 5", "log", "-") in shown(show(HERE, "--pod", "client"))


def test_before_v3_30_the_end_of_a_tier_says_that_it_is_not_counted_on_its_own(show):
    lines = show("v3.29.7/05-eot-egress-deny.after", "--interface", CLIENT).splitlines()
    assert 3 == sum(
        line.lstrip().startswith("end of tier") and line.rstrip().endswith("before v3.30 not counted on its own")
        for line in lines
    )


def test_a_tier_whose_end_nothing_reaches_says_so(show):
    (line,) = (
        line
        for line in show(HERE, "--pod", "client", "--direction", "outbound").splitlines()
        if "end of tier security" in line
    )
    assert line.rstrip().endswith("nothing gets here")


def test_rules_of_a_host_endpoint_in_a_pods_program_are_told_apart(show):
    text = show("v3.32.1/64-wildcard-hep.after", "--pod", "plain", "--direction", "outbound")
    assert "tier default, inbound policy of the host endpoint *" in text


def test_a_program_that_is_not_in_place_says_why(show, programs):
    why = "failed to load BPF policy program IPV4: invalid argument"
    assert f"not in place: {why}" in show(OLD, "--interface", "eth0")
    assert {why, why.replace("4", "6"), ""} == {one["error"] for one in programs(OLD)}


# What is chosen.


def test_each_direction_and_family_is_a_part_and_together_they_are_the_whole(programs):
    whole = of(programs(HEP))
    parts = {}
    for direction in ("inbound", "outbound"):
        for family in (4, 6):
            part = of(programs(HEP, "--direction", direction, "--family", str(family)))
            assert {(direction, family)} == {(one["direction"], one["ip_family"]) for one in part.values()}
            assert not part.keys() & parts.keys()
            parts |= part
    assert whole == parts
    assert [*whole.values()] == programs(HEP, "--direction", "all", "--family", "all")


@pytest.mark.parametrize(
    "selectors", [["--pod", "client"], ["--pod", "ns-a/client"], ["--ip", "10.65.0.2"], ["--interface", CLIENT]]
)
def test_an_endpoint_is_chosen_by_its_names_and_addresses(programs, selectors):
    assert [one for one in programs(HERE) if one["interface"] == CLIENT] == programs(HERE, *selectors)


def test_endpoints_come_by_name_and_inbound_before_outbound(programs):
    told = programs(HERE)
    titles = [f"{one['namespace']}/{one['pod']}" for one in told]
    assert sorted(titles) == titles
    assert ["inbound", "inbound", "outbound", "outbound"] * 4 == [one["direction"] for one in told]


@pytest.mark.parametrize(
    ("selectors", "code", "message"),
    [
        (["--pod", "nobody"], 1, "no pod nobody on this node"),
        (["--interface", "eth9"], 1, "Calico knows no interface eth9 on this node"),
        (
            ["--interface", "eth0"],
            1,
            "Calico has written no policy file for this endpoint: run `check` for what is known about it",
        ),
        (["--ip", "10.65.0.99"], 1, "no endpoint on this node has the address"),
        (["--ip", "x"], 2, "is not an IP address"),
        (["--direction", "ingress"], 2, "--direction"),
        (["--family", "5"], 2, "--family"),
    ],
)
def test_what_is_not_there_or_not_meant_is_said(run, recording, selectors, code, message):
    result = run("policy", "--bundle", recording(HERE), *selectors)
    assert (code, "") == (result.exit_code, result.stdout)
    assert message in result.stderr


def test_a_name_that_fits_several_pods_is_wrong_usage_with_the_list(run, changed, named):
    result = run(
        "policy", "--pod", "web", "--bundle", changed(HERE, named("k8s ns-b%2Fweb eth0", "k8s ns-a%2Fweb eth0"))
    )
    assert (2, "") == (result.exit_code, result.stdout)
    assert "fits several: ns-a/web (" in result.stderr


def test_nonzero_leaves_out_what_has_no_hit_and_says_how_much(show, programs):
    text = show(HERE, "--nonzero", "--family", "4")
    whole, kept = (list(expected(programs(HERE, "--family", "4"))), shown(text))
    assert len(kept) == sum(bool(hits) for *_, hits in whole)
    assert f"not shown: {len(whole) - len(kept)} without a hit\n" in text


def test_nonzero_keeps_no_heading_with_nothing_below(show):
    lines = show(HERE, "--nonzero").splitlines()
    depths = [len(line) - len(line.lstrip()) if line.strip() and "HITS" not in line else None for line in lines[:-2]]
    rows = [
        (depth, "rule" in line or "end of tier" in line)
        for depth, line in zip(depths, lines, strict=False)
        if depth is not None
    ]
    for (depth, is_row), (below, _) in zip(rows, [*rows[1:], (0, False)], strict=True):
        assert is_row or below > depth or depth == below == 0


def test_nonzero_leaves_rules_without_a_hit_out_of_json(programs):
    whole, kept = programs(HERE), programs(HERE, "--nonzero")
    assert [[rule for _, rule in rules(one) if rule["hits"]] for one in whole] == [
        [rule for _, rule in rules(one)] for one in kept
    ]


# IP sets.

NUMBER = 0xC356BBAF47FD848B  # of the set of pods with the label app=client
MEMBERS = {4: [("10.65.0.2", 32), ("10.0.0.0", 8)], 6: [("fd00:65::2", 128)]}


def test_ip_sets_are_named_with_their_members(run, changed):
    sets = edits(*(with_ip_sets(family, {NUMBER: inside, 1: [inside[0]]}) for family, inside in MEMBERS.items()))
    arguments = ["--ip-sets", "--pod", "server", "--direction", "inbound", "--bundle", changed(HERE, sets)]
    result = run("policy", *arguments)
    assert (0, "") == (result.exit_code, result.stderr)
    words = " ".join(result.stdout.split())
    assert "= {10.0.0.0/8, 10.65.0.2/32, fd00:65::2/128}" in words
    told = json.loads(run("policy", "-o", "json", *arguments).stdout)["programs"]
    found = {
        one["ip_family"]: listed["members"] for one in told for _, rule in rules(one) for listed in rule["ip_sets"]
    }
    assert {4: ["10.0.0.0/8", "10.65.0.2/32"], 6: ["fd00:65::2/128"]} == found
    assert {f"{NUMBER:#x}"} == {
        listed["number"] for one in told for _, rule in rules(one) for listed in rule["ip_sets"]
    }


def test_a_set_with_many_members_says_how_many_more_there_are(run, changed):
    many = [(f"10.1.{number}.0", 24) for number in range(25)]
    bundle = changed(HERE, with_ip_sets(4, {NUMBER: many}))
    result = run("policy", "--ip-sets", "--family", "4", "--pod", "server", "--bundle", bundle)
    assert "and 5 more}" in " ".join(result.stdout.split())
    told = json.loads(run("policy", "-o", "json", "--ip-sets", "--family", "4", "--bundle", bundle).stdout)["programs"]
    assert {25} == {len(listed["members"]) for one in told for _, rule in rules(one) for listed in rule["ip_sets"]}


@pytest.mark.parametrize(("family", "sentences"), [("4", 1), ("6", 1), ("all", 2)])
def test_without_a_map_of_ip_sets_that_is_a_sentence_and_the_rest_is_whole(run, recording, family, sentences):
    bundle = ["--bundle", recording(HERE), "--family", family]
    result, plain = run("policy", "--ip-sets", *bundle), run("policy", *bundle)
    assert (0, plain.stdout) == (result.exit_code, result.stdout)
    assert sentences == len(result.stderr.splitlines())
    assert all(re.match(r"without the members of IPv[46] sets: ", line) for line in result.stderr.splitlines())
    told = json.loads(run("policy", "--ip-sets", "-o", "json", *bundle).stdout)["programs"]
    assert {None} == {listed["members"] for one in told for _, rule in rules(one) for listed in rule["ip_sets"]}


def test_ip_sets_are_not_asked_for_where_no_rule_needs_them(run, recording):
    result = run("policy", "--ip-sets", "--pod", "client", "--bundle", recording(HERE))
    assert (0, "") == (result.exit_code, result.stderr)


# Instructions.


@pytest.mark.parametrize("name", [HERE, "v3.29.7/05-eot-egress-deny.after"])
def test_instructions_are_those_of_the_file_with_their_comments(run, recording, name):
    with tarfile.open(recording(name)) as archive:
        given = json.loads(archive.extractfile(f"policy/{CLIENT}_egress_v4.json").read())["policyInfo"]
    arguments = [
        "--instructions",
        "--interface",
        CLIENT,
        "--direction",
        "outbound",
        "--family",
        "4",
        "--bundle",
        recording(name),
    ]
    (program,) = json.loads(run("policy", "-o", "json", *arguments).stdout)["programs"]
    assert [len(given), [one.get("comments") or [] for one in given]] == [
        len(program["instructions"]),
        [one["comments"] for one in program["instructions"]],
    ]
    assert all(len(bytes.fromhex(one["code"])) == 8 for one in program["instructions"])
    text = run("policy", *arguments).stdout.partition(f"\n{CLIENT}_egress_v4.json:\n")[2].splitlines()
    assert [one["code"] for one in program["instructions"]] == [
        match[1] for match in map(re.compile(r" *\d+  ([0-9a-f]{16})\b.*").fullmatch, text) if match
    ]
    assert [word.strip() for one in program["instructions"] for word in one["comments"]] == [
        line.strip().removeprefix("//").strip() for line in text if line.strip().startswith("//")
    ]


# What is missing.


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_without_policy_files_it_is_a_sentence_with_a_remedy(run, recording, name):
    result = run("policy", "--bundle", recording(name))
    assert (1, "") == (result.exit_code, result.stdout)
    assert "bpfPolicyDebugEnabled: true" in result.stderr
    assert 1 == len(result.stderr.splitlines())


@pytest.mark.parametrize(
    "command",
    [
        ("policy",),
        ("why", "--pod", "server"),
        ("trace", "--from", "plain", "--to", "server", "--protocol", "udp", "--port", "9999"),
    ],
)
def test_where_calicos_run_directory_is_not_there_that_is_the_reason_and_no_setting_of_calicos(run, changed, command):
    def edit(members):
        head = json.loads(members["bundle.json"])
        head["errors"]["run_dir"] = "Calico's run directory /x does not exist: name it with --calico.run-dir"
        head["folders"]["policy_files"]["present"] = False
        files = [one for one in members if one.startswith("policy/")]
        return {"bundle.json": json.dumps(head).encode(), **dict.fromkeys(files)}

    result = run(*command, "--bundle", changed(HERE, edit))
    assert "Calico's run directory /x does not exist" in result.output
    assert "bpfPolicyDebugEnabled" not in result.output


def test_where_none_of_an_endpoints_files_can_be_read_they_are_not_said_to_be_absent(run, changed):
    result = run("policy", "--interface", SERVER, "--bundle", changed(HERE, broken_policy_files(SERVER)))
    assert 1 == result.exit_code
    assert result.stderr.endswith("Error: none of this endpoint's policy files could be read\n")


def test_a_file_that_cannot_be_read_is_a_sentence_and_the_others_are_shown(run, changed, programs):
    result = run("policy", "-o", "json", "--bundle", changed(HERE, broken_policy_files(f"{SERVER}_ingress_v4")))
    assert 0 == result.exit_code
    assert f"{SERVER}_ingress_v4.json was left out: it is cut off, still being written or not JSON\n" == result.stderr
    whole = of(programs(HERE))
    assert {key: one for key, one in whole.items() if key != (SERVER, 4, "tc_egress")} == of(
        json.loads(result.stdout)["programs"]
    )


def test_an_endpoint_without_a_file_is_a_sentence(run, changed):
    result = run("policy", "--pod", "server", "--bundle", changed(HERE, without_policy_files(SERVER)))
    assert (1, "") == (result.exit_code, result.stdout)
    assert "Calico has written no policy file for this endpoint" in result.stderr


@pytest.mark.parametrize("edit", [unpinned("cali_rule_ctrs2"), failing("maps/cali_rule_ctrs2", "reading was refused")])
def test_without_the_map_of_hits_the_rules_are_shown_without_them(run, changed, programs, edit):
    result = run("policy", "-o", "json", "--bundle", changed(HERE, edit))
    assert (0, 1) == (result.exit_code, len(result.stderr.splitlines()))
    assert result.stderr.startswith("without hits: ")
    told = json.loads(result.stdout)["programs"]
    assert {None} == {rule["hits"] for one in told for _, rule in rules(one)}
    assert {None} == {tier["end_hits"] for one in told for tier in one["tiers"]}
    assert [[rule["text"] for _, rule in rules(one)] for one in programs(HERE)] == [
        [rule["text"] for _, rule in rules(one)] for one in told
    ]
    table = shown(run("policy", "--bundle", changed(HERE, edit)).stdout)
    assert {"-"} == {hits for *_, hits in table}


def test_policy_files_that_could_not_be_listed_are_a_sentence(run, changed):
    result = run("policy", "--bundle", changed(HERE, failing("policy_files", "the folder could not be listed")))
    assert (1, "", "Error: the folder could not be listed\n") == (result.exit_code, result.stdout, result.stderr)


# What was not so once.


# Once programs of several endpoints with the same rules were one table.
@pytest.mark.parametrize("direction", ["inbound", "outbound"])
def test_every_endpoint_with_a_policy_has_its_own_table(show, programs, direction):
    name = "v3.32.1/64-wildcard-hep.after"
    interfaces = {one["interface"] for one in programs(name, "--direction", direction)}
    text = show(name, "--direction", direction)
    assert {one for one in interfaces if re.search(rf"^(\S+  )?{one}  \(ifindex", text, re.MULTILINE)} == interfaces


# Once with a selector every heading was kept.
def test_nonzero_keeps_no_heading_of_a_selected_endpoint_either(show):
    assert "inbound, to the pod" not in show("v3.32.1/01-egress-deny.before", "--pod", "open", "--nonzero")


# Once unknown hits were taken for none.
def test_what_is_not_known_to_have_hits_is_not_said_to_have_none(run, changed):
    result = run("policy", "--nonzero", "--bundle", changed(HERE, unpinned("cali_rule_ctrs2")))
    assert "without a hit" not in result.stdout


# Once files that could not be read were taken for none.
def test_where_no_file_can_be_read_calico_is_not_said_to_have_written_none(run, changed):
    result = run("policy", "--bundle", changed(HERE, broken_policy_files()))
    assert 1 == result.exit_code
    assert "Calico has written no policy files" not in result.stderr


# Once a number that was not known was looked up as 0.
def test_members_of_a_set_whose_number_is_not_known_are_not_known(run, changed):
    edit = edits(with_ip_sets(4, {0: [("10.9.9.9", 32)]}), rewritten(b"0xc356bbaf47fd848b", b"unknown"))
    result = run("policy", "-o", "json", "--ip-sets", "--family", "4", "--bundle", changed(HERE, edit))
    told = json.loads(result.stdout)["programs"]
    assert [None] == [listed["members"] for one in told for _, rule in rules(one) for listed in rule["ip_sets"]]


# Once one table for both families kept the numbers of IPv4 only.
def test_a_set_that_has_another_number_for_ipv6_has_its_own_members(run, changed):
    sets = (with_ip_sets(4, {NUMBER: MEMBERS[4]}), with_ip_sets(6, {0xC356BBAF47FD848C: MEMBERS[6]}))
    edit = edits(*sets, rewritten(b"0xc356bbaf47fd848b", b"0xc356bbaf47fd848c", "_v6.json"))
    result = run("policy", "--ip-sets", "--pod", "server", "--bundle", changed(HERE, edit))
    assert "fd00:65::2/128" in result.stdout


# What is not so yet.


def test_a_set_without_a_member_in_an_empty_map_has_none(run, changed):
    bundle = changed(HERE, with_ip_sets(4, {}))
    told = json.loads(run("policy", "-o", "json", "--ip-sets", "--family", "4", "--bundle", bundle).stdout)["programs"]
    assert [[]] == [listed["members"] for one in told for _, rule in rules(one) for listed in rule["ip_sets"]]


def test_where_one_familys_members_are_not_known_the_table_does_not_seem_complete(run, changed):
    bundle = changed(HERE, with_ip_sets(4, {NUMBER: MEMBERS[4]}))
    text = run("policy", "--ip-sets", "--pod", "server", "--bundle", bundle).stdout
    assert "= {10.0.0.0/8, 10.65.0.2/32}" not in " ".join(text.split())


def test_instructions_cost_one_reading_of_the_folder(run, recording, monkeypatch):
    asked, policy_files = [], Bundle.policy_files
    monkeypatch.setattr(Bundle, "policy_files", lambda bundle: asked.append(1) or policy_files(bundle))
    counts = []
    for more in (["--pod", "client", "--family", "4", "--direction", "inbound"], []):
        asked.clear()
        run("policy", "--instructions", "--bundle", recording(HERE), *more)
        counts.append(len(asked))
    assert counts[0] == counts[1]
