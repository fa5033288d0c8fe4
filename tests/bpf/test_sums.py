"""Values added as large integers are what each count added on its own is, modulo 2**64."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.sums import CpuSums

LARGE = st.sampled_from([0, 1, (1 << 56) - 1, 1 << 56, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
WORD = st.integers(0, (1 << 64) - 1) | st.integers(0, 1000) | LARGE
# Most machines' CPUs are not there: zero, and last.
COUNTS = st.lists(WORD, max_size=8)


def packed(rows, cpus, words):
    return b"".join(struct.pack(f"={cpus * words}Q", *(one for cpu in row for one in cpu)) for row in rows)


def sums(rows, cpus, words):
    raw = CpuSums(cpus, 8 * words).rows(packed(rows, cpus, words), len(rows))
    return [list(one) for one in struct.iter_unpack(f"={words}Q", raw)]


def expected(rows):
    return [[sum(counts) % (1 << 64) for counts in zip(*row, strict=True)] for row in rows]


@st.composite
def tables(draw):
    cpus, words = draw(st.integers(1, 6) | st.sampled_from([255, 256, 257])), draw(st.integers(1, 4))
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        counting = draw(st.integers(0, min(cpus, 4)))
        value = st.lists(WORD, min_size=words, max_size=words)
        head = draw(st.lists(value, min_size=counting, max_size=counting))
        rows.append([*head, *[[0] * words] * (cpus - counting)])
    # Rows are added some dozens at once.
    times = draw(st.sampled_from([1, 1, 8, 16, 17]))
    return rows * times, cpus, words


@given(tables())
def test_sums_are_those_of_each_count(table):
    rows, cpus, words = table
    assert expected(rows) == sums(rows, cpus, words)


@given(tables())
def test_the_exact_way_and_the_fast_one_agree(table):
    rows, cpus, words = table
    exact = CpuSums(cpus, 8 * words)
    exact._high = -1
    raw = packed(rows, cpus, words)
    assert exact.rows(raw, len(rows)) == CpuSums(cpus, 8 * words).rows(bytearray(raw), len(rows))


@pytest.mark.parametrize("cpus", [1, 2, 128, 255, 256, 257, 1000])
def test_no_sum_carries_into_the_next_count(cpus):
    """Of values that are as large as they may be without the exact way, and of one that is larger by one."""
    largest = (1 << 64 - cpus.bit_length()) - 1
    for value in (largest, largest + 1, (1 << 64) - 1):
        rows = [[[value, 1, value]] * cpus]
        assert expected(rows) == sums(rows, cpus, 3)


def test_a_cpu_that_counts_after_others_did_not_is_added():
    rows = [[[1]] + [[0]] * 7, [[0]] * 7 + [[5]], [[0]] * 3 + [[2]] + [[0]] * 4, [[0]] * 8]
    assert [[1], [5], [2], [0]] == sums(rows, 8, 1)


def test_only_the_rows_that_are_there_are_summed():
    raw = packed([[[1], [2]], [[3], [4]]], 2, 1)
    assert struct.pack("=Q", 3) == CpuSums(2, 8).rows(raw, 1)
    assert b"" == CpuSums(2, 8).rows(raw, 0)
