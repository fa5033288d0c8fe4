"""Every reason for which Calico drops a packet has words of its own, and no other has."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.counters import DROPPED, SLOTS
from exporter.calico.reasons import REASONS, page_of, reason_of

PAGE = Path(__file__).parents[2] / "docs" / "reasons.md"
NAMES = sorted({slot.reason for slot in SLOTS if slot.category == DROPPED})


def test_every_drop_of_every_layout_has_its_words_and_nothing_else_has():
    assert NAMES == sorted(REASONS)


@pytest.mark.parametrize("name", NAMES)
def test_the_words_are_parts_of_a_sentence_that_fit_on_a_line_or_two(name):
    for words in (reason_of(name).meaning, reason_of(name).check):
        assert words == words.strip()
        assert words.isprintable()
        assert words[-1] not in ".,;:"
        assert words[0].islower() or words.split()[0].isupper()
        assert 20 <= len(words) <= 200


def test_no_two_reasons_mean_the_same_or_are_checked_alike():
    assert len(NAMES) == len({one.meaning for one in REASONS.values()})
    assert len(NAMES) == len({one.check for one in REASONS.values()})


@given(st.text().filter(lambda name: name not in REASONS))
def test_a_reason_that_only_a_layout_file_names_is_said_to_be_unknown(name):
    assert "does not know" in reason_of(name).meaning
    assert "--calico.layout-file" in reason_of(name).check


def test_the_page_has_each_reason_and_each_of_its_parts():
    parts = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    assert list(REASONS) == list(parts)
    for name, text in parts.items():
        said = dict(re.findall(r"^\* ([^:]+): (.+)$", text, re.MULTILINE))
        assert ["Counts", "Likely causes", "What to check", "Which setting matters"] == list(said)
        assert f"{REASONS[name].check}." == said["What to check"]


def test_a_reason_leads_to_its_part_of_the_page():
    assert page_of("qos_limit").endswith("/docs/reasons.md#qos_limit")
    assert page_of("of_an_odd_build").endswith("/docs/reasons.md")
