"""What every command prints fits a terminal of any width: lines wrap between words, and no word, number or URL is cut.

The commands run in this process, which is told a width; `test_terminal.py` has real terminals.
"""

import os
import re
import shutil
from io import StringIO
from pathlib import Path

import pytest
from click import unstyle
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import columns as exporter_columns
from exporter import printable
from exporter.cli import counters_compare, demo
from exporter.columns import Cell, Column, lines_of
from exporter.kubectl.top import Dropper, _table
from exporter.printable import wrapped

RECORDINGS = Path(__file__).parents[1] / "recordings"
AFTER = sorted(RECORDINGS.glob("v*/*.after.tar.xz"))
WIDTHS = (60, 80, 101, 200)


@pytest.fixture
def printed(run, monkeypatch):
    """What a command prints in a terminal of this width, without its colours, or in a pipe."""

    def show(columns, *words):
        for module in (printable, exporter_columns, counters_compare):
            monkeypatch.setattr(module, "width_of", lambda _: columns)
        return unstyle(run(*words).output)

    return show


def words_of(text):
    """All its words, in an order that does not depend on how lines are wrapped."""
    return sorted(text.split())


def too_long(text, columns):
    """The lines that are wider than the terminal though another word could have gone to the next line."""
    lines = [line for line in text.splitlines() if len(line) > columns]
    return [line for line in lines if len(line.split()) > 1]


# Each recording has its turn with one command and one width, so that every command meets many of them.
COMMANDS = (["counters"], ["policy"], ["counters", "--nonzero"], ["check"], ["policy", "--nonzero"])
TURNS = [(AFTER[number], COMMANDS[number % 5], WIDTHS[number % 4]) for number in range(0, len(AFTER), 3)]


@pytest.mark.parametrize(("bundle", "command", "columns"), TURNS, ids=lambda one: getattr(one, "stem", str(one)))
def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(printed, bundle, command, columns):
    text, whole = (printed(width, *command, "--bundle", bundle) for width in (columns, None))
    assert [] == too_long(text, columns)
    assert set(text.split()) <= set(whole.split())
    if command[0] != "counters":  # Calico's captions are left out where they do not fit
        assert words_of(whole) == words_of(text)


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", [["counters"], ["why", "--pod", "client"], ["why", "--pod", "plain"]])
def test_what_was_counted_between_two_bundles_fits_too(printed, command, columns):
    bundles = [RECORDINGS / f"v3.32.1/46-flowlogs-enabled.{when}.tar.xz" for when in ("before", "after")]
    arguments = [*command, *(word for one in bundles for word in ("--bundle", one))]
    text, whole = printed(columns, *arguments), printed(None, *arguments)
    assert [] == too_long(text, columns)
    assert words_of(whole) == words_of(text)
    assert re.findall(r"https://\S+", whole) == re.findall(r"https://\S+", text)


def test_titles_of_a_policy_s_tree_are_whole_lines_and_its_matches_wrap_before_names(printed):
    bundle = RECORDINGS / "v3.32.1/29-longname-deny.after.tar.xz"
    lines = printed(60, "policy", "--pod", "server", "--bundle", bundle).splitlines()
    assert "    GlobalNetworkPolicy security.gate" in lines
    assert "    NetworkPolicy ns-b/allow-http" in lines
    assert any(re.fullmatch(r"      rule 0 +allow +1  tcp, from app ==", line) for line in lines)


@pytest.mark.parametrize("command", ["counters", "policy"])
def test_an_error_wraps_between_words(run, monkeypatch, command):
    monkeypatch.setattr(printable, "width_of", lambda _: 60)
    errors = run(command, "--pod", "nobody", "--bundle", AFTER[-1]).stderr
    assert [] == too_long(errors, 60)
    assert run("counters", "--bundle", RECORDINGS / "upgrade/2-v3.30.7.tar.xz").stderr.count("\n") > 1


def test_names_that_fit_no_line_stand_above_what_they_dropped():
    node, pod = "ip-10-0-12-34.eu-central-1.compute.internal", "cart-7d9f8b6c5d-x2x4z"
    droppers = [Dropper(node, "shop", pod, "cali1", way, "policy", 7, 0.7) for way in ("inbound", "outbound")]
    narrow, wide = _table(droppers, 80), _table(droppers, None)
    assert [f"shop/{pod}  {node}", "  inbound    policy        7         0.7"] == narrow[1:3]
    assert max(map(len, narrow)) <= 80
    assert [2, 2] == [text.count(f"shop/{pod}") for text in ("\n".join(wide), "\n".join([*narrow, *narrow]))]


@settings(deadline=None, max_examples=30)
@given(st.text(st.sampled_from("ab.:/ "), max_size=120), st.integers(10, 90), st.integers(0, 2))
def test_wrapping_keeps_every_word_and_the_width(text, width, hang):
    pieces = wrapped(text, width, hang=hang)
    assert text.split() == " ".join(pieces).split()
    assert all(len(piece) <= width or len(piece.split()) == 1 for piece in pieces)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(*[st.text(st.sampled_from("ab "), max_size=30)] * 3), min_size=1, max_size=4),
    st.integers(10, 120),
)
def test_columns_keep_every_word_at_any_width(rows, width):
    columns = [Column("A"), Column("B", right=True), Column("C")]
    cells = [[Cell(text.strip()) for text in row] for row in rows]
    text = "\n".join(lines_of(columns, cells, width))
    assert sorted(["A", "B", "C", *" ".join(map(" ".join, rows)).split()]) == words_of(text)


def test_the_demo_prints_sentences_of_at_most_80_columns_and_commands_that_are_whole():
    text = demo._TRY.format(port=65535, on_node="on_node", prometheus=demo._PROMETHEUS.format(ask="ask"))
    sentences = [line for line in (text + demo._NO_PROMETHEUS).splitlines() if not line.startswith("  ")]
    assert len(sentences) > 20
    assert [] == [line for line in sentences if len(line) > 80]


def test_a_terminal_has_at_least_40_columns_and_a_pipe_no_width(monkeypatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((30, 5)))
    pipe, terminal = StringIO(), StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    assert (40, None) == (printable.width_of(terminal), printable.width_of(pipe))
