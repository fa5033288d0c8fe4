"""The drops of the last ten minutes: what was counted and nothing else, with gaps, and in bounded memory."""

import gc
import itertools
import re
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapError
from exporter.node.endpoints import Endpoint
from exporter.page import history as module
from exporter.page.graph import HEIGHT, MAX_LINES, WIDTH, graph, trends
from exporter.page.history import MAX_SERIES, SECONDS, History
from exporter.page.views import Wanted, endpoint_named, endpoint_view, node_view
from exporter.snapshot.snapshot import Part

WORKLOAD = 0x7
POINT = re.compile(r"([MHV])([\d.]+)(?: ([\d.]+))?")


@pytest.fixture
def at(make, snapshot_at):
    """The snapshot at a second of a node with these counters of the workloads cali5, cali6 and so on."""

    def of(second, rows):
        numbers = sorted({ifindex for ifindex, _ in rows} | {5})
        states = {number: (f"cali{number}", WORKLOAD) for number in numbers}
        maps = [make.counters("cali_counters6", 60, rows), make.ifstate("cali_iface4", 40, states)]
        return snapshot_at(make.node(maps, links=[make.link(number, f"cali{number}") for number in numbers]), second)

    return of


@pytest.fixture
def recorded_of(at):
    """The history, and the last snapshot, of a node that was read at these seconds: {second: counters}."""

    def of(moments, started=-SECONDS):
        snapshots = [at(second, rows) for second, rows in moments.items()]
        history = History(started, 0.0)
        for before, now in itertools.pairwise(snapshots):
            if now.at - before.at <= 35:
                history.add(before, now)
        return history, snapshots[-1]

    return of


def levels(path):
    """The level lines of a path: where each begins and ends, and its height."""
    x = y = None
    for kind, one, other in POINT.findall(path):
        if kind == "M":
            x, y = float(one), float(other)
        elif kind == "V":
            y = float(one)
        else:
            yield x, float(one), y
            x = float(one)


def test_a_line_is_level_between_two_snapshots_and_as_high_as_what_was_counted(recorded_of):
    history, now = recorded_of({0: {(5, 0): {4: 0}}, 5: {(5, 0): {4: 20}}, 15: {(5, 0): {4: 40}}})
    drawn = graph(history, endpoint_named(now, "cali5"), 15.0)
    (line,) = drawn.lines
    assert ("outbound", "policy", 2.0, 4.0, 40.0, 4.0) == (
        line.direction,
        line.reason,
        line.now,
        line.most,
        line.packets,
        drawn.top,
    )
    assert [(WIDTH - 15, WIDTH - 10, 0.0), (WIDTH - 10, WIDTH, HEIGHT / 2)] == list(levels(line.path))
    assert [("00:00:00", "00:00:05", [4.0]), ("00:00:05", "00:00:15", [2.0])] == [
        (one.start, one.end, list(one.rates)) for one in drawn.columns
    ]


def test_where_nothing_was_recorded_there_is_no_line(recorded_of):
    rows = {second: {(5, 0): {4: second}} for second in (0, 5, 10, 100, 105)}
    history, now = recorded_of(rows)
    drawn = graph(history, endpoint_named(now, "cali5"), 105.0)
    assert [(WIDTH - 105, WIDTH - 95), (WIDTH - 5, WIDTH)] == [(x, end) for x, end, _ in levels(drawn.lines[0].path)]
    assert 2 == drawn.lines[0].path.count("M")
    assert ["Where a line is broken, nothing was recorded: nobody had the page open for 90 s."] == list(drawn.notes)
    assert 15 == drawn.lines[0].packets


def test_nothing_is_now_when_the_last_interval_is_long_over(recorded_of):
    history, now = recorded_of({0: {(5, 0): {4: 0}}, 5: {(5, 0): {4: 20}}})
    assert graph(history, endpoint_named(now, "cali5"), 60.0).lines[0].now is None


def test_a_restart_and_a_reset_are_said(recorded_of):
    history, now = recorded_of({0: {(5, 0): {4: 9}}, 5: {(5, 0): {4: 20}}, 10: {(5, 0): {4: 3}}}, started=-60.0)
    drawn = graph(history, endpoint_named(now, "cali5"), 10.0)
    started, reset = drawn.notes
    assert "This exporter started at 23:59:00 UTC" in started
    assert "Counters of this endpoint were reset before 00:00:10 UTC." == reset
    assert [WIDTH - 70, WIDTH] == [x for x, _ in drawn.marks]
    assert [11 / 5, 3 / 5] == [pytest.approx(rate) for one in drawn.columns for rate in one.rates]


def test_snapshots_that_cannot_be_compared_are_a_gap(at):
    before, now = at(0, {(5, 0): {4: 1}}), at(5, {(5, 0): {4: 9}})
    history = History(0.0, 0.0)
    history.add(before, replace(now, counters=Part(error=MapError("gone"))))
    history.add(replace(before, at=None), now)
    history.add(now, before)
    assert not history.intervals


def test_what_is_older_than_ten_minutes_is_forgotten(recorded_of):
    seconds = range(0, 1300, 5)
    history, now = recorded_of({second: {(5, 0): {4: min(second, 50)}, (6, 1): {5: second}} for second in seconds})
    assert SECONDS / 5 == len(history.intervals)
    assert {} == dict(history.series(endpoint_named(now, "cali5")))
    assert {SECONDS} == {sum(one) for one in history.series(endpoint_named(now, "cali6")).values()}


def test_the_least_of_many_reasons_are_one_line(recorded_of):
    slots = {slot: 100 - slot for slot in range(4, 14)}
    history, now = recorded_of({0: {(5, 0): {}}, 5: {(5, 0): slots}})
    lines = graph(history, endpoint_named(now, "cali5"), 5.0).lines
    assert (MAX_LINES, "all others") == (len(lines), lines[-1].title)
    assert sum(slots.values()) == pytest.approx(sum(line.packets for line in lines))


def test_a_trend_is_of_the_reason_that_is_asked_for(recorded_of):
    history, now = recorded_of({0: {(5, 0): {4: 0}}, 5: {(5, 0): {4: 10, 5: 20}, (6, 0): {5: 5}}})
    every, policy = trends(history, now.at, ""), trends(history, now.at, "policy")
    assert {5: 6.0, 6: 1.0} == {key[0][0]: one.most for key, one in every.items()}
    assert {5: 2.0} == {key[0][0]: one.most for key, one in policy.items()}


def test_more_series_than_are_kept_are_said_and_those_with_most_drops_are_kept(recorded_of, monkeypatch):
    monkeypatch.setattr(module, "MAX_SERIES", 2)
    history, now = recorded_of({0: {(5, 0): {4: 0}}, 5: {(5, 0): {4: 1, 5: 3, 6: 2}}})
    assert {"too_short", "checksum"} == {reason for _, reason in history.series(endpoint_named(now, "cali5"))}
    assert "lines may be missing" in " ".join(graph(history, endpoint_named(now, "cali5"), 5.0).notes)


@given(st.lists(st.integers(0, 2**63), min_size=2, max_size=20))
def test_a_graph_of_any_counts_stays_in_its_picture(make, snapshot_at, counts):
    history = History(0.0, 0.0)
    snapshots = [
        snapshot_at(make.node([make.counters("cali_counters6", 60, {(5, 0): {4: count}})]), 1 + 5 * number)
        for number, count in enumerate(counts)
    ]
    for before, now in itertools.pairwise(snapshots):
        history.add(before, now)
    drawn = graph(history, endpoint_named(snapshots[-1], "ifindex:5"), snapshots[-1].at)
    for line in drawn.lines:
        assert all(0 <= x <= end <= WIDTH and 0 <= y <= HEIGHT for x, end, y in levels(line.path))
        assert line.most <= drawn.top * 1.001


def test_the_page_of_an_endpoint_has_every_value_of_its_graph_as_text(recorded_of, html, parsed):
    history, now = recorded_of({0: {(5, 0): {4: 0}}, 5: {(5, 0): {4: 20}}, 15: {(5, 0): {4: 40}}})
    endpoint = endpoint_named(now, "cali5")
    text = parsed(html.endpoint_page(endpoint_view(None, now, endpoint, None, history))).text
    assert "00:00:00 to 00:00:05 UTC: policy outbound 4/s" in text
    assert "00:00:05 to 00:00:15 UTC: policy outbound 2/s" in text
    assert "policy outbound 2/s 4/s 40" in text
    body = html.node_page(node_view(None, now, Wanted(), history), Wanted()).decode()
    assert "<title>at most 4 dropped per second</title>" in body


def test_a_full_history_takes_less_than_a_megabyte(at, monkeypatch):
    """1000 series, which is 250 pods that drop for two reasons in both directions all the time."""
    rows = {(number, hook): {4: 0, 5: 0} for number in range(5, 5 + MAX_SERIES // 4) for hook in (0, 1)}
    before = at(0, rows)
    now = at(5, {key: {4: 7, 5: 9} for key in rows})
    gc.collect()
    tracemalloc.start()
    try:
        history = History(0.0, 0.0)
        dropped = history._compare(before, now, 5.0)  # once: it takes longest
        monkeypatch.setattr(history, "_compare", lambda *_: dict(dropped))
        for number in range(130):
            history.add(replace(before, at=5.0 * number), replace(now, at=5.0 * number + 5))
        dropped.clear()
        monkeypatch.undo()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (MAX_SERIES, 120) == (len(history._series), len(history.intervals))
    assert 4 * 120 * MAX_SERIES < held < 2**20


def test_an_endpoint_without_drops_has_no_series():
    assert {} == dict(History(0.0, 0.0).series(Endpoint(1, "lo", "host")))
