"""Which zeros of rules are exposed, and that policies as a whole never fall."""

import pytest

from exporter.metrics.rule_hits import HITS, RuleHitSamples
from exporter.snapshot.rules import END_OF_TIER, TIER, PolicyName, RuleName, RuleTable
from tests.metrics.conftest import series_of

GATE = PolicyName("GlobalNetworkPolicy", "", "gate", "default", "inbound")
OTHER = PolicyName("NetworkPolicy", "shop", "allow", "default", "inbound")
END = RuleName(PolicyName(TIER, "", "", "default", "inbound"), END_OF_TIER, "deny")
PASSED = RuleName(PolicyName(TIER, "", "", "security", "inbound"), END_OF_TIER, "pass")
DENIES, PASSES, ALLOWS = RuleName(GATE, "0", "deny"), RuleName(GATE, "1", "pass"), RuleName(OTHER, "0", "allow")


def table(ids):
    """The rules of a node from {name: its ids}."""
    return RuleTable(tuple(ids), tuple(ids.values()), frozenset(), {}, ends_have_ids=True)


def shown(samples, *facts):
    """{(policy, rule, action): value}."""
    found = series_of([samples.of(*facts)], HITS)
    return {(policy, rule, action): value for (_, _, policy, _, _, rule, action), value in found.items()}


@pytest.mark.parametrize(
    ("zeros", "names"),
    [
        ("all", {DENIES, PASSES, ALLOWS, END, PASSED}),
        ("core", {DENIES, END, PASSED}),
        ("none", set()),
    ],
)
def test_zeros_are_those_of_deny_rules_and_tier_ends_all_or_none(zeros, names):
    rules = table({one: (number,) for number, one in enumerate((DENIES, PASSES, ALLOWS, END, PASSED), 1)})
    samples = RuleHitSamples(zeros, "rule")
    zero = {(one.policy.name, one.rule, one.action) for one in names}
    assert dict.fromkeys(zero, 0) == shown(samples, rules, {})
    # What counts is exposed whatever it is, and its zero is not when Felix has reset it.
    assert shown(samples, rules, {3: 5})["allow", "0", "allow"] == 5
    assert dict.fromkeys(zero, 0) == shown(samples, rules, {})


def test_a_policy_has_one_series_for_each_action_and_a_tiers_end_its_own():
    rules = table({DENIES: (1, 2), RuleName(GATE, "2", "deny"): (3,), PASSES: (4,), END: (5,)})
    samples = RuleHitSamples("core", "policy")
    end = ("", END_OF_TIER, "deny")
    assert {("gate", "", "deny"): 0, end: 0} == shown(samples, rules, {1: 7, 3: 7, 5: 7})
    expected = {("gate", "", "deny"): 6, ("gate", "", "pass"): 4, end: 5}
    assert expected == shown(samples, rules, {1: 8, 2: 2, 3: 10, 4: 4, 5: 12})


def test_a_policy_never_falls_when_a_rule_is_deleted_or_felix_resets_the_hits():
    samples = RuleHitSamples("core", "policy")
    whole, less = table({DENIES: (1,), RuleName(GATE, "1", "deny"): (2,)}), table({DENIES: (1,)})
    found = [
        shown(samples, rules, hits)["gate", "", "deny"]
        for rules, hits in (
            (whole, {1: 100, 2: 100}),
            (whole, {1: 110, 2: 105}),  # 15
            (less, {1: 110}),  # a rule is deleted
            (less, {1: 112}),  # 2
            (less, {}),  # Felix restarts
            (less, {1: 3}),  # 3
            (whole, {1: 3, 2: 4}),  # the rule is there again and has counted from 0: 4
        )
    ]
    assert [0, 15, 15, 17, 17, 20, 24] == found


def test_a_policy_whose_file_is_rewritten_does_not_count_anything_twice():
    samples = RuleHitSamples("core", "policy")
    gate, nothing = table({DENIES: (1,)}), table({})
    shown(samples, gate, {1: 10})
    assert {("gate", "", "deny"): 5} == shown(samples, gate, {1: 15})
    assert {} == shown(samples, nothing, {1: 15})
    assert {("gate", "", "deny"): 5} == shown(samples, gate, {1: 15})
