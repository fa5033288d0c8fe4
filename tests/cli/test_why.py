"""`why`: what dropped an endpoint's packets and which rules can have, in sentences, in JSON and as an exit code."""

import json
import re
from threading import Event

import pytest

from exporter.bpf.maps import MapDenied
from exporter.cli import snapshots
from tests.cli.changing_node import ChangingNode
from tests.cli.edits import (
    added,
    broken_policy_files,
    edits,
    hit,
    made_at,
    removed,
    renamed,
    renumbered,
    unpinned,
    without,
    without_policy_files,
)

PODS = {"client": "calibf331a988cf", "server": "cali34769d6a557", "plain": "cali14a81566bd7", "open": "cali86e35d8c298"}
HERE = "v3.32.1/02-ingress-deny"
CLIENT, SERVER = 5, 7


@pytest.fixture
def why(run, recording):
    """The answer about an endpoint of a pair of recordings, or of the later one alone."""

    def ask(pair, *arguments, one=False):
        whens = ("after",) if one else ("before", "after")
        bundles = [word for when in whens for word in ("--bundle", recording(f"{pair}.{when}"))]
        return run("why", *bundles, *arguments)

    return ask


@pytest.fixture
def changing_node(monkeypatch, changed):
    """A node whose snapshots are those of a recorded node after the next edits; then Ctrl-C is pressed."""

    def of(*several):
        frames = [one if isinstance(one, BaseException) else changed(f"{HERE}.before", edits(*one)) for one in several]
        one = ChangingNode(*frames)
        monkeypatch.setattr(snapshots.time, "sleep", one.wait)
        monkeypatch.setattr(snapshots, "open_source", one.open_source)
        return one

    return of


def told(result):
    """The JSON of an answer, which fits its exit code."""
    assert "" == result.stderr
    answer = json.loads(result.stdout)
    assert (3 if answer["loses_packets"] else 0) == result.exit_code
    return answer


def words(result):
    """What was printed, with single blanks: how it is folded is another matter."""
    return " ".join(result.stdout.split())


# What was done to recorded nodes, and what an operator reads about it.

KNOWN = [
    ("v3.32.1/01-egress-deny", "client", [
        "ns-a/client (calibf331a988cf), in between: 10 packets dropped.",
        "10 packets (outbound, tc_ingress), reason policy: a rule, a tier's end or a missing profile match denied",
        "deny 10 GlobalNetworkPolicy security.gate, tier security, rule 0: udp, to port 6666",
        "the other endpoint that shares it dropped nothing by policy in this time: it denied these packets",
    ]),
    ("v3.32.1/02-ingress-deny", "server", [
        "10 packets (inbound, tc_egress), reason policy",
        "deny 10 GlobalNetworkPolicy security.gate, tier security, rule 0: udp, to port 9999",
        "the other endpoint that shares it dropped nothing by policy in this time: it denied these packets",
    ]),
    ("v3.32.1/04-eot-ingress-deny", "server", [
        "deny 6 end of tier security: what no rule of the tier matched",
        "the other endpoint that shares it dropped nothing by policy in this time: it denied these packets",
    ]),
    ("v3.32.1/05-eot-egress-deny", "client", [
        "deny 7 end of tier default: what no rule of the tier matched",
        "no other endpoint of this node carries it: it denied these packets",
        "pass 7 GlobalNetworkPolicy security.gate, tier security, rule 2: everything",
    ]),
    ("v3.32.1/06-no-profile-match", "open", [
        "deny 9 no profile matched",
        "no other endpoint of this node carries it: it denied these packets",
    ]),
    ("v3.32.1/29-longname-deny", "client", [
        "deny 3 NetworkPolicy ns-a/this-is-a-very-long-network-policy-name-that-needs-hashing-0001, tier default",
    ]),
    ("v3.32.1/32-log-rule", "server", ["deny 5 GlobalNetworkPolicy security.gate, tier security, rule 6"]),
    ("v3.32.1/46-flowlogs-enabled", "client", [
        "15 packets (outbound, tc_ingress)", "deny 7 end of tier default", "it denied 7 of its packets",
        "it denied 5 of its packets", "it denied 3 of its packets",
    ]),
    ("v3.32.1/65-qos", "plain", ["35 packets (outbound, tc_ingress), reason qos_limit", "qos.projectcalico.org"]),
    ("v3.32.1/11-raw-short_ip", "plain", ["5 packets (outbound, tc_ingress), reason too_short"]),
    ("v3.32.1/14-raw-ihl4", "plain", ["8 packets (outbound, tc_ingress), reason malformed_ip"]),
    ("v3.32.1/18-raw-frag2", "plain", ["12 packets (outbound, tc_ingress), reason fragment_out_of_order"]),
    ("v3.31.6/66-blackhole-route", "client", ["4 packets (outbound, tc_ingress), reason blackhole_route"]),
    ("v3.32.1/42-pod-readd", "open", ["3 packets dropped.", "It appeared in this time"]),
    ("v3.32.1/44-felix-restart", "client", ["4 packets dropped.", "Rule counts fell in this time"]),
]  # fmt: skip


@pytest.mark.parametrize(("pair", "pod", "sentences"), KNOWN)
def test_what_dropped_the_packets_of_a_recorded_pod_is_said_and_is_exit_code_3(why, pair, pod, sentences):
    result = why(pair, "--pod", pod)
    assert (3, "") == (result.exit_code, result.stderr)
    for sentence in sentences:
        assert sentence in words(result)


HOST = [
    ("57-hep-traffic", ["6 packets (inbound, xdp)", "5 packets (inbound, tc_ingress)"]),
    ("57-hep-traffic", ["deny 5 GlobalNetworkPolicy hep-policy"]),
    ("58-hep-forward", ["deny 6 GlobalNetworkPolicy hep-prednat", "deny 5 GlobalNetworkPolicy hep-forward"]),
    ("59-hep-egress", ["5 packets (outbound, tc_egress)", "deny 5 GlobalNetworkPolicy hep-policy"]),
    ("64-wildcard-hep", ["this number is for the whole node, and 6 other endpoints share the rule: it may be theirs"]),
]  # fmt: skip


@pytest.mark.parametrize(("experiment", "sentences"), HOST)
def test_a_host_interface_is_explained_as_a_pod_is(why, experiment, sentences):
    result = why(f"v3.32.1/{experiment}", "--interface", "eth0")
    assert (3, "") == (result.exit_code, result.stderr)
    for sentence in ["eth0, in between: ", *sentences]:
        assert sentence in words(result)


def test_a_pod_that_lost_nothing_is_exit_code_0_and_shows_who_did(why):
    result = why(HERE, "--pod", "plain")
    assert (0, "") == (result.exit_code, result.stderr)
    assert "no packet was dropped for a reason that Calico counts." in words(result)
    assert "A packet that its receiver's policy denies counts as accepted here." in words(result)
    assert "ns-b/server (cali34769d6a557): 10 packets, inbound (policy 10)" in words(result)


def test_a_spoofed_source_is_a_note_only(why):
    result = why("v3.32.1/09-raw-spoof", "--pod", "plain")
    assert 0 == result.exit_code
    assert "Note: At tc_ingress (outbound) packets were counted only in the total" in words(result)
    assert "they may be lost on another node, or beyond Calico." in words(result)


def test_before_v3_30_ends_of_tiers_are_said_to_have_no_number(why):
    result = why("v3.29.7/05-eot-egress-deny", "--ip", "10.65.0.2")
    assert 3 == result.exit_code
    assert "before Calico v3.30 ends of tiers and missing profile matches have none" in words(result)


def test_a_program_that_could_not_be_loaded_is_a_problem(why):
    result = why("v3.29.7/57-hep-traffic", "--interface", "eth0")
    assert "Problem: Its inbound IPv4 policy is not in place: failed to load BPF policy program IPV4" in words(result)


TOLD = [
    HERE, "v3.29.7/50-tier-default-pass", "v3.31.6/65-qos", "v3.32.1/42-pod-readd", "v3.32.1/57-hep-traffic",
    "v3.32.1/64-wildcard-hep",
]  # fmt: skip


@pytest.mark.parametrize("interface", [*PODS.values(), "eth0", "lo"])
@pytest.mark.parametrize("pair", TOLD)
@pytest.mark.parametrize("one", [False, True])
def test_text_and_json_say_the_same(why, pair, interface, one):
    answer = told(why(pair, "--interface", interface, "-o", "json", one=one))
    text = words(why(pair, "--interface", interface, one=one))
    packets = sum(drop["packets"] for drop in answer["drops"])
    assert (f"{packets} packet" in text) if packets else ("no packet was dropped" in text)
    for drop in answer["drops"]:
        assert f", {drop['hook']}), reason {drop['reason']}: {drop['meaning']}. To check: {drop['check']}." in text
        for rule in answer["rules"]:
            if (rule["hook"], drop["reason"]) == (drop["hook"], "policy"):
                assert re.search(rf"{rule['action']} {rule['hits']} .*{re.escape(rule['match'])}", text)
    for problem in answer["problems"]:
        assert f"Problem: {problem}." in text
    for note in answer["notes"]:
        assert f"Note: {note}." in text
    for other in answer["others"]:
        assert other["interface"] in text
    assert (not one) == answer["window"]
    assert answer["interface"] == interface


def test_one_bundle_is_explained_since_its_counters_began(why):
    result = why(HERE, "--pod", "client", one=True)
    assert 3 == result.exit_code
    assert "ns-a/client (calibf331a988cf), since its counters began: 10 packets dropped." in words(result)
    assert "do not compare them" in words(result)
    assert told(why(HERE, "--pod", "client", "-o", "json", one=True))["seconds"] is None


def test_the_time_between_two_bundles_is_said(run, changed):
    bundles = [
        changed(f"{HERE}.{when}", made_at(f"2026-01-02T12:{minute}:00+00:00"))
        for when, minute in (("before", "00"), ("after", "10"))
    ]
    arguments = [word for one in bundles for word in ("--bundle", one)]
    assert "in 10 min: 10 packets dropped." in words(run("why", "--pod", "server", *arguments))
    assert 600 == told(run("why", "--pod", "server", "-o", "json", *arguments))["seconds"]


# Packets that are lost without being counted, and what else is wrong with an endpoint.


def alone(run, changed, edit, *arguments, name=f"{HERE}.before"):
    """The answer about the server of one bundle after this edit."""
    return run("why", "--interface", PODS["server"], *arguments, "--bundle", changed(name, edit))


@pytest.mark.parametrize("hooks", [(0,), (1,), (0, 1)])
def test_a_missing_entry_is_a_black_hole_and_exit_code_3(run, changed, hooks):
    result = alone(run, changed, without(SERVER, *hooks))
    assert 3 == result.exit_code
    for hook in hooks:
        name = ("tc_ingress (outbound)", "tc_egress (inbound)")[hook]
        assert f"Problem: Its counter entry at {name} is missing: from Calico v3.31 on every packet" in words(result)
    answer = told(alone(run, changed, without(SERVER, *hooks), "-o", "json"))
    assert ([], [("tc_ingress", "tc_egress")[hook] for hook in hooks]) == (answer["drops"], answer["black_hole"])


def test_before_25_slots_a_missing_entry_is_an_idle_hook(run, recording):
    bundle = recording("v3.29.7/04-eot-ingress-deny.before")
    answer = told(run("why", "-o", "json", "--interface", PODS["open"], "--bundle", bundle))
    assert ([], False) == (answer["black_hole"], answer["loses_packets"])


def test_without_the_map_of_hits_the_drops_are_explained_all_the_same(run, changed):
    bundles = [changed(f"{HERE}.{when}", unpinned("cali_rule_ctrs2")) for when in ("before", "after")]
    result = run("why", "--pod", "server", *(word for one in bundles for word in ("--bundle", one)))
    assert 3 == result.exit_code
    assert "Which rules counted is not known: Calico has pinned no" in words(result)
    assert "10 packets (inbound, tc_egress), reason policy" in words(result)


@pytest.mark.parametrize("edit", [without_policy_files(), broken_policy_files()])
def test_without_policy_files_the_drops_are_explained_all_the_same(run, changed, edit):
    result = alone(run, changed, edit, name=f"{HERE}.after")
    assert 3 == result.exit_code
    assert "Which rules counted is not known" in words(result)


def test_a_pod_that_went_is_explained_still(run, changed, recording):
    bundles = ["--bundle", recording(f"{HERE}.before"), "--bundle", changed(f"{HERE}.after", removed(SERVER))]
    for selectors in (["--pod", "server"], ["--interface", PODS["server"]], ["--ip", "10.65.0.3"]):
        assert "It is gone now: what it counted last is not known" in words(run("why", *selectors, *bundles))


# Whom it explains.


@pytest.mark.parametrize("selectors", [["--pod", "server"], ["--pod", "ns-b/server"], ["--ip", "fd00:65::3"]])
def test_an_endpoint_is_chosen_by_its_names_and_addresses(why, selectors):
    assert why(HERE, "--interface", PODS["server"]).stdout == why(HERE, *selectors).stdout


@pytest.mark.parametrize(
    ("selectors", "code", "message"),
    [
        ([], 2, "give --pod, --ip or --interface"),
        (["--interface", "eth0", "--interface", "lo"], 2, "why explains one endpoint, and 2 fit"),
        (["--pod", "nobody"], 1, "no pod nobody on this node"),
        (["--interface", "eth9"], 1, "Calico knows no interface eth9 on this node"),
        (["--ip", "10.65.0.99"], 1, "no endpoint on this node has the address 10.65.0.99"),
        (["--ip", "server"], 2, "--ip server is not an IP address"),
        (["--pod", "a/b/c"], 2, "is not [NAMESPACE/]NAME"),
        (["--pod", "server", "--for", "10"], 2, "--for watches a node"),
        (["--pod", "server", "-o", "table"], 2, "-o"),
    ],
)
def test_what_is_not_there_or_not_meant_is_said(why, selectors, code, message):
    result = why(HERE, *selectors)
    assert (code, "") == (result.exit_code, result.stdout)
    assert message in result.stderr


def test_a_name_that_fits_several_pods_is_wrong_usage_with_the_list(run, changed, named):
    bundle = changed(f"{HERE}.after", named("k8s ns-b%2Fweb eth0", "k8s ns-a%2Fweb eth0"))
    result = run("why", "--pod", "web", "--bundle", bundle)
    assert (2, "") == (result.exit_code, result.stdout)
    assert "fits several: ns-a/web (" in result.stderr


def test_a_third_bundle_is_wrong_usage(run, recording):
    result = run("why", "--pod", "server", *["--bundle", recording(f"{HERE}.after")] * 3)
    assert (2, "") == (result.exit_code, result.stdout)


def test_a_time_in_the_environment_is_no_reproach_with_bundles(run, recording):
    bundle = recording(f"{HERE}.after")
    result = run("why", "--pod", "client", "--bundle", bundle, env={"CALICO_BPF_EXPORTER_WHY_FOR": "5"})
    assert 3 == result.exit_code


# A node, watched.


def test_a_node_is_watched_as_long_as_it_says_and_says_so_first(run, changing_node):
    for arguments, seconds, message in (
        ([], 30, "30 s"),
        (["--for", "2m"], 120, "2 min"),
        (["--for", "0.5"], 0.5, "0.5 s"),
    ):
        node = changing_node([], [added(SERVER, 1, 4, 5)])
        result = run("why", "--pod", "server", *arguments)
        assert (3, pytest.approx([seconds], abs=0.5)) == (result.exit_code, node.waited)
        assert f"watching for {message}; Ctrl-C ends it sooner\n" == result.stderr
        assert "5 packets (inbound, tc_egress), reason policy" in words(result)


def test_a_slow_api_server_does_not_lengthen_the_watch(run, changing_node):
    node = changing_node([], [added(SERVER, 1, 4, 5)])
    node.cluster_pods = lambda: Event().wait(1) or None
    result = run("why", "--pod", "server", "--for", "3")
    assert (3, pytest.approx([2], abs=0.5)) == (result.exit_code, node.waited)


def test_ctrl_c_brings_the_answer_sooner(run, changing_node):
    changing_node([])
    result = run("why", "--pod", "server")
    assert 0 == result.exit_code
    assert "no packet was dropped" in words(result)


def test_a_snapshot_that_fails_is_a_sentence(run, changing_node):
    for frames in ([MapDenied("refused")], [[], MapDenied("refused")]):
        changing_node(*frames)
        result = run("why", "--pod", "server")
        assert (1, "") == (result.exit_code, result.stdout)
        assert "Error: refused" == result.stderr.splitlines()[-1]


# What was not so once.


def test_a_pod_that_went_loses_no_packets(run, changed, recording):
    bundles = ["--bundle", recording(f"{HERE}.before"), "--bundle", changed(f"{HERE}.after", removed(SERVER))]
    assert 0 == run("why", "--pod", "server", *bundles).exit_code


@pytest.mark.parametrize("selectors", [["--pod", "server"], ["--interface", PODS["server"]], ["--ip", "10.65.0.3"]])
def test_a_pod_made_again_is_explained_since_it_came(run, changed, recording, selectors):
    bundles = ["--bundle", recording(f"{HERE}.before"), "--bundle", changed(f"{HERE}.after", renumbered(SERVER, 27))]
    result = run("why", *selectors, *bundles)
    assert (3, "") == (result.exit_code, result.stderr)
    assert "10 packets (inbound, tc_egress), reason policy" in words(result)
    assert "It appeared in this time" in words(result)


def test_one_whose_index_another_has_by_now_is_said_to_be_gone(run, changed, recording):
    later = changed(f"{HERE}.after", edits(renamed(PODS["server"], "caliother"), without_policy_files("server")))
    result = run("why", "--interface", PODS["server"], "--bundle", recording(f"{HERE}.before"), "--bundle", later)
    assert "It is gone now" in words(result)


@pytest.mark.parametrize("pair", ["v3.32.1/42-pod-readd", "v3.32.1/44-felix-restart", HERE])
def test_no_rule_is_said_to_have_denied_more_than_was_dropped(why, pair):
    for pod in PODS:
        for one in (False, True):
            result = why(pair, "--pod", pod, one=one)
            dropped = re.search(r": (\d+) packets? dropped", words(result))
            message = [int(number) for number in re.findall(r"it denied (\d+) of its packets", words(result))]
            assert sum(message) <= int(dropped[1] if dropped else 0)


def test_no_sentence_is_said_twice(why):
    lines = why("v3.29.7/42-pod-readd", "--interface", PODS["open"]).stdout.splitlines()
    notes = [line for line in lines if line.startswith("Note: ")]
    assert len(notes) == len(set(notes))


def test_who_is_not_there_is_said_before_watching(run, changing_node):
    node = changing_node([], [])
    assert 1 == run("why", "--pod", "nobody").exit_code
    assert [] == node.waited


def test_without_the_interface_state_the_drops_are_explained(run, changed):
    result = alone(run, changed, unpinned("cali_iface4"), name=f"{HERE}.after")
    assert 3 == result.exit_code


def test_where_files_cannot_be_read_calico_is_not_said_to_have_written_none(run, changed):
    result = alone(run, changed, broken_policy_files(), name=f"{HERE}.after")
    assert "Calico writes no policy files" not in words(result)


def test_drops_that_no_deny_rule_explains_are_said_to_be_left_over(why):
    # 11 packets, of which two rules with a number denied 7: the rest was an end of a tier, which had none in v3.29.
    result = why("v3.29.7/50-tier-default-pass", "--ip", "10.65.0.2")
    assert "before Calico v3.30" in words(result)


# What is not so yet.

GATE_INBOUND = 5091920221193603583  # the id of rule 0, which client and server share


def test_hits_of_a_pod_that_went_while_it_watched_are_not_said_to_be_anothers(run, changing_node):
    gone = [removed(CLIENT), without_policy_files(PODS["client"])]
    changing_node([], [added(SERVER, 1, 4, 3), hit(GATE_INBOUND, 5), *gone])
    result = run("why", "--pod", "server")
    assert "no other endpoint of this node carries it" not in words(result)


def test_an_interface_is_not_said_to_be_unknown_where_the_state_cannot_be_read(run, changed):
    result = alone(run, changed, unpinned("cali_iface4"), name=f"{HERE}.after")
    assert "Calico's interface state does not know this interface" not in words(result)


# The two maps are not read at one moment: under load their numbers differ by what came in between.
def test_a_handful_of_many_drops_without_a_rule_is_no_reason_for_a_note(run, changing_node):
    changing_node([], [added(SERVER, 1, 4, 10000), hit(GATE_INBOUND, 9998)])
    assert "No deny rule of this endpoint explains" not in words(run("why", "--pod", "server"))


# Such as by a pod that came and went in between, which is in neither snapshot.
def test_a_rule_hit_far_more_often_than_packets_were_dropped_was_hit_by_others(run, changing_node):
    changing_node([], [added(SERVER, 1, 4, 10), hit(GATE_INBOUND, 50)])
    assert "it denied these packets" not in words(run("why", "--pod", "server"))
