"""Why a rule did not match: Felix's comments as what was found."""

import pytest

from exporter.calico.policy_path import in_words


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("If protocol != udp, skip to next rule", "protocol != udp"),
        ("If protocol != , skip to next rule", "the protocol does not match"),  # 58, for one
        ("If protocol == , skip to next rule", "the protocol does not match"),
        (
            "If destPreNAT not in {10.0.0.0/8}, skip to next rule",
            "destination before service translation not in {10.0.0.0/8}",
        ),
        ("If source doesn't match ipset s:a (0x1f), skip to next rule", "source is not in the IP set"),
        ("If dest matches ipset s:a (0x1f), skip to next rule", "destination is in the IP set"),
        ("If dest doesn't match any of the IP sets, skip to next rule", "destination is in none of the IP sets"),
        ("If ICMP type != 8 or code != 0, skip to next rule", "ICMP type != 8 or code != 0"),
    ],
)
def test_a_criterion_that_did_not_hold_is_said_in_words(comment, words):
    assert words == in_words(comment)
