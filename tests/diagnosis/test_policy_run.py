"""What decides in programs of shapes that no recording has.

Calico's own builder made them (felix/bpf/polprog at v3.32.1, one at v3.29.7) from the policy that each name describes:
tiers of one GlobalNetworkPolicy `gate`, whose rule 0 denies UDP unless the name says otherwise.
"""

import json
from pathlib import Path

import pytest

from exporter.calico.packet import DESTINATION_IS_HOST, TCP, UDP, Packet
from exporter.calico.policy_debug import parse_file_name
from exporter.diagnosis.policy_run import load_file, run_policy
from exporter.snapshot.rules import RuleOwners

PROGRAMS = json.loads(Path(__file__).with_name("built_programs.json").read_text())
NAMED_PORTS = "a rule of named ports that nothing reaches"
STEPPING_STONES = "a host endpoint whose profiles are behind stepping stones"
FORWARDS = "a host endpoint with policy for what it forwards alone"
FORWARDS_NOTHING = f"{FORWARDS}, for everything"


def loaded(title):
    interface = PROGRAMS[title]["ifacename"]
    return load_file(parse_file_name(f"{interface}_ingress_v4.json"), json.dumps(PROGRAMS[title]).encode())


def ran(title, protocol, flags=0):
    """The phase, the policy or tier, the rule and the action of what matched on the way of a packet."""
    file, packet = loaded(title), Packet(4, "192.0.2.7", "10.65.0.3", protocol, 40000, 80)
    owners = RuleOwners([], ("cali",), [file.parsed])
    run = run_policy(file, [packet.state(flags)], "", lambda _: False, owners, {})
    return run.verdict, [(one.phase, one.policy or one.tier, one.rule, one.action) for one in run.way if one.matched]


NO_PROFILE = ("", "no_profile_match", "deny")


@pytest.mark.parametrize(
    ("title", "protocol", "flags", "verdict", "way"),
    [
        (NAMED_PORTS, TCP, 0, "allow", [("workload", "gate", "0", "allow")]),
        (
            "a tier that passes to no profile",
            TCP,
            0,
            "deny",
            [("workload", "default", "end_of_tier", "pass"), ("workload", *NO_PROFILE)],
        ),
        ("a tier that passes to no profile", UDP, 0, "deny", [("workload", "gate", "0", "deny")]),
        (FORWARDS, TCP, 0, "deny", [("forward", "default", "end_of_tier", "deny")]),
        (FORWARDS, TCP, DESTINATION_IS_HOST, "deny", [("normal", *NO_PROFILE)]),
        (FORWARDS_NOTHING, TCP, 0, "deny", [("forward", "gate", "0", "deny")]),
        (FORWARDS_NOTHING, TCP, DESTINATION_IS_HOST, "deny", [("normal", *NO_PROFILE)]),
        (
            "a pod with policy of a host endpoint alone",
            TCP,
            0,
            "deny",
            [("forward", "default", "end_of_tier", "pass"), ("workload", *NO_PROFILE)],
        ),
        (
            "a pod with policy of a host endpoint alone",
            TCP,
            DESTINATION_IS_HOST,
            "deny",
            [("workload", *NO_PROFILE)],
        ),
        (
            STEPPING_STONES,
            TCP,
            DESTINATION_IS_HOST,
            "allow",
            [("normal", "default", "end_of_tier", "pass"), ("normal", "lan", "2", "allow")],
        ),
        (
            "v3.29: a tier that passes to one that denies",
            TCP,
            0,
            "deny",
            [("workload", "security", "end_of_tier", "pass"), ("workload", "default", "end_of_tier", "deny")],
        ),
    ],
)
def test_what_matched_has_its_name_whatever_the_shape_of_the_program(title, protocol, flags, verdict, way):
    assert (verdict, way) == ran(title, protocol, flags)


def test_a_tier_without_code_is_not_on_the_way():
    file = loaded(FORWARDS_NOTHING)
    packet = Packet(4, "192.0.2.7", "10.65.0.3", TCP, 40000, 80)
    run = run_policy(file, [packet.state(0)], "", lambda _: False, RuleOwners([], ("cali",), [file.parsed]), {})
    assert ["0"] == [one.rule for one in run.way]


def test_sets_of_named_ports_are_those_of_their_own_rule():
    rules = [rule for one in loaded(STEPPING_STONES).parsed.tiers for owner in one.policies for rule in owner.rules]
    assert [0, 2, 0, 0] == [len(one.ip_sets) for one in rules]
    (tier,) = loaded(NAMED_PORTS).parsed.tiers
    assert [(), ()] == [one.ip_sets for one in tier.policies[0].rules]
