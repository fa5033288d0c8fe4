"""What each endpoint counted in each direction: nothing is lost or made up, and who drops now comes first."""

from collections import Counter
from dataclasses import replace

import pytest

from exporter.diagnosis.changes import compare_counters
from exporter.diagnosis.counters import counters_by_endpoint, dropped_in_all
from exporter.page.traffic import for_reason, total, traffic
from exporter.page.views import PARTS
from tests.recorded import PAIRS, law_of_pairs

WORKLOAD, HOST = 0x7, 0xE
SECONDS = 4


@pytest.fixture
def node(make):
    """A node of the workload interfaces cali5 and cali7 and the host's eth0 with these counters."""

    def of(rows):
        names = {5: ("cali5", WORKLOAD), 7: ("cali7", WORKLOAD), 2: ("eth0", HOST)}
        maps = [make.counters("cali_counters6", 60, rows), make.ifstate("cali_iface4", 40, names)]
        return make.node(maps, links=[make.link(number, name) for number, (name, _) in names.items()])

    return of


@pytest.fixture
def rows_of(node, snapshot_at):
    """The rows of two snapshots, four seconds apart, of nodes with these counters."""

    def of(before, now):
        return traffic(
            snapshot_at(node(before), 10) if before is not None else None, snapshot_at(node(now), 10 + SECONDS)
        )

    return of


@law_of_pairs(PAIRS)
def the_rows_of_a_recording_add_up_to_what_counters_shows(pair):
    before = replace(pair.before.with_parts(PARTS), at=0.0)
    now = replace(pair.after.with_parts(PARTS), at=float(SECONDS))
    rows, layout = traffic(before, now), now.counters.get().layout
    assert dropped_in_all(counters_by_endpoint(now), layout) == total(row.cumulative for row in rows).dropped
    changes = [change.counters for change in compare_counters(before, now)]
    assert dropped_in_all(changes, layout) == total(row.recent for row in rows).dropped
    packets = sum(row[0] for one in counters_by_endpoint(now) for row in one.hooks.values())
    assert packets == total(row.cumulative for row in rows).packets


def test_a_workloads_tc_ingress_is_its_outbound_and_a_hosts_its_inbound(rows_of):
    rows = rows_of({}, {(5, 0): {4: 3}, (5, 1): {5: 2}, (2, 0): {6: 1}})
    told = {(row.endpoint.interface, row.direction): row.cumulative.dropped for row in rows}
    assert {
        ("cali5", "outbound"): {"policy": 3},
        ("cali5", "inbound"): {"too_short": 2},
        ("eth0", "inbound"): {"checksum": 1},
    } == told


def test_xdp_and_tc_of_one_direction_are_one_row(rows_of):
    (row,) = rows_of({}, {(2, 0): {0: 5, 4: 3}, (2, 2): {0: 7, 4: 4}})
    assert ("inbound", {"policy": 7}, 12) == (row.direction, row.cumulative.dropped, row.cumulative.packets)


@pytest.mark.parametrize(("slot", "hook", "flows"), [(1, 0, 6), (2, 1, 6), (3, 0, 0), (1, 2, 0), (2, 2, 0), (4, 0, 0)])
def test_flows_are_what_policy_and_failsafe_accept_at_tc(rows_of, slot, hook, flows):
    (row,) = rows_of({}, {(2, hook): {slot: 6}})
    assert flows == row.cumulative.flows


def test_a_rate_is_what_was_counted_by_the_seconds_between_the_snapshots(rows_of):
    (row,) = rows_of({(5, 0): {0: 100, 2: 10, 4: 7}}, {(5, 0): {0: 180, 2: 12, 4: 8}})
    assert (SECONDS, 0.25, 0.5, 20.0) == (
        row.seconds,
        row.per_second(row.recent.drops),
        row.per_second(row.recent.flows),
        row.per_second(row.recent.packets),
    )


def test_without_an_earlier_snapshot_there_is_no_rate(rows_of):
    (row,) = rows_of(None, {(5, 0): {4: 7}})
    assert (None, None) == (row.seconds, row.per_second(row.recent.drops))
    assert {"policy": 7} == row.cumulative.dropped


def test_who_drops_most_now_comes_first_then_who_ever_did(rows_of):
    before = {(5, 0): {4: 1000}, (7, 0): {4: 1}, (7, 1): {4: 0}, (2, 0): {4: 5}}
    now = {(5, 0): {4: 1000}, (7, 0): {4: 3}, (7, 1): {4: 8}, (2, 0): {4: 5}}
    order = [(row.endpoint.interface, row.direction) for row in rows_of(before, now)]
    assert [("cali7", "inbound"), ("cali7", "outbound"), ("cali5", "outbound"), ("eth0", "inbound")] == order


def test_of_a_reason_only_its_droppers_and_its_drops_are_left(rows_of):
    rows = rows_of({(5, 0): {4: 1, 5: 9}}, {(5, 0): {4: 3, 5: 99}, (7, 0): {4: 50}, (2, 0): {5: 1}})
    told = [(row.endpoint.interface, row.cumulative.dropped, row.recent.dropped) for row in for_reason(rows, "policy")]
    assert [("cali7", {"policy": 50}, {"policy": 50}), ("cali5", {"policy": 3}, {"policy": 2})] == told


def test_each_row_has_a_key_of_its_own_that_stays(recorded, snapshot_at):
    one, other = (
        [row.direction_key for row in traffic(None, snapshot_at(recorded("v3.32.1/02-ingress-deny.after"), at))]
        for at in (1, 2)
    )
    assert one == other
    assert {1} == set(Counter(one).values())
