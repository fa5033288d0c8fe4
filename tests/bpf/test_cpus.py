import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf import walk
from exporter.bpf.maps import MapError
from exporter.bpf.walk import parse_cpu_list, possible_cpus


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 1),
        ("0\n", 1),
        ("0-1\n", 2),
        ("0-3,8-11\n", 8),
        ("0,2,4", 3),
        ("5", 1),
        ("0-0", 1),
        ("0-8191", 8192),
        (" 0-1 ", 2),
    ],
)
def test_a_cpu_list_counts_every_cpu_of_every_range(text, expected):
    assert expected == parse_cpu_list(text)


@pytest.mark.parametrize(
    "text", ["", "\n", ",", "0,", "-", "-1", "a", "0-", "0-b", "3-0", "0--1", "0-1-2", "0-3:1/2", "0x1", "1.5", "0;1"]
)
def test_any_other_text_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_cpu_list(text)


@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)), min_size=1))
def test_the_count_is_the_sum_of_the_ranges(ranges):
    text = ",".join(f"{first}-{first + more}" for first, more in ranges)
    assert sum(more + 1 for _, more in ranges) == parse_cpu_list(text)


@given(st.text())
def test_any_text_is_a_count_of_at_least_one_or_a_value_error(text):
    try:
        count = parse_cpu_list(text)
    except ValueError:
        return
    assert count >= 1


def test_this_machine_has_a_cpu():
    assert possible_cpus() >= 1


@pytest.mark.parametrize("text", [None, "", "all of them", "3-0", "\u00bd"])
def test_a_count_that_cannot_be_read_is_a_map_error(tmp_path, monkeypatch, text):
    monkeypatch.setattr(walk, "POSSIBLE", tmp_path / "possible")
    if text is not None:
        (tmp_path / "possible").write_text(text, encoding="utf-8")
    with pytest.raises(MapError, match="number of possible CPUs"):
        possible_cpus()


def test_where_no_more_files_may_be_opened_the_limit_is_the_remedy(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(walk, "POSSIBLE", tmp_path / "possible")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(MapError, match=r"possible: Too many open files: .*ulimit -n"):
        possible_cpus()
