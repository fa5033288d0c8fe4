import pytest

from exporter.diagnosis.counters import PARTS, counters_by_endpoint, dropped_in_all
from exporter.node import NodeError

WORKLOAD, HOST, UNMANAGED = 0x7, 0xE, 0x400
CALIS = {5: "cali5", 7: "cali7", 9: "cali9"}


@pytest.fixture
def snapshot_of(make):
    """A snapshot of a node with a host interface, three workloads, a plain link, and these counters."""

    def at(rows, **facts):
        states = {3: ("eth0", HOST), **{ifindex: (name, WORKLOAD) for ifindex, name in CALIS.items()}}
        links = [make.link(ifindex, name) for ifindex, name in {2: "docker0", 3: "eth0", **CALIS}.items()]
        maps = [make.counters("cali_counters6", 60, rows), make.ifstate("cali_iface4", 40, states)]
        return make.snapshot(make.node(maps, **{"links": links} | facts), parts=PARTS)

    return at


def titles(every):
    return [one.endpoint.title for one in every]


def test_who_drops_most_comes_first_then_by_name(snapshot_of):
    rows = {(9, 1): {4: 5}, (5, 0): {4: 10}, (5, 1): {5: 1}, (7, 0): {0: 1000, 2: 50}, (3, 2): {4: 5}}
    assert ["cali5", "cali9", "eth0", "cali7"] == titles(counters_by_endpoint(snapshot_of(rows)))


def test_every_endpoint_of_calicos_is_there_and_a_plain_link_only_once_it_counts(snapshot_of):
    assert ["cali5", "cali7", "cali9", "eth0"] == titles(counters_by_endpoint(snapshot_of({})))
    assert "docker0" in titles(counters_by_endpoint(snapshot_of({(2, 0): {0: 1}})))


def test_an_unknown_index_comes_last_among_equals_and_first_when_it_drops(snapshot_of):
    links = NodeError("no netlink")
    assert "ifindex:77" == titles(counters_by_endpoint(snapshot_of({(77, 0): {0: 1}}, links=links)))[-1]
    assert "ifindex:77" == titles(counters_by_endpoint(snapshot_of({(77, 0): {4: 1}}, links=links)))[0]


def test_an_index_that_the_kernel_does_not_have_is_left_out(snapshot_of):
    assert {"cali5", "cali7", "cali9", "eth0"} == set(titles(counters_by_endpoint(snapshot_of({(77, 0): {4: 1}}))))


def test_a_hook_without_an_entry_is_absent_and_one_of_zeros_is_not(snapshot_of):
    by_name = {one.endpoint.interface: one for one in counters_by_endpoint(snapshot_of({(5, 0): {0: 7}, (7, 1): {}}))}
    assert {0: (7, *[0] * 26)} == by_name["cali5"].hooks
    assert {1: (0,) * 27} == by_name["cali7"].hooks
    assert {} == by_name["cali9"].hooks


def test_drops_are_summed_over_hooks_by_reason_without_what_is_no_drop(snapshot_of):
    rows = {(5, 0): {0: 100, 1: 9, 2: 9, 3: 9, 4: 1, 5: 2, 17: 9}, (5, 1): {4: 10, 24: 9}, (5, 2): {4: 100, 26: 3}}
    snapshot = snapshot_of(rows)
    first = counters_by_endpoint(snapshot)[0]
    assert {"policy": 111, "too_short": 2, "host_ip_unknown": 3} == first.dropped(snapshot.counters.get().layout)


def test_a_pod_is_ranked_by_its_own_name(make, snapshot_of):
    status = make.folder(**{"k8s a%2Faaa eth0": b'{"ifaceName":"cali9"}'})
    assert ["a/aaa", "cali5", "cali7", "eth0"] == titles(counters_by_endpoint(snapshot_of({}, endpoint_status=status)))


def test_drops_of_all_are_by_reason_most_first(snapshot_of):
    snapshot = snapshot_of({(5, 0): {4: 1, 5: 7}, (7, 1): {4: 3}, (3, 0): {8: 5}})
    every = counters_by_endpoint(snapshot)
    assert [("too_short", 7), ("malformed_ip", 5), ("policy", 4)] == list(
        dropped_in_all(every, snapshot.counters.get().layout).items()
    )
    assert {} == dropped_in_all([], snapshot.counters.get().layout)


def test_nothing_counted_is_lost_between_the_map_and_its_endpoints(recorded, make):
    snapshot = make.snapshot(recorded("v3.32.1/57-hep-traffic.after"), parts=PARTS)
    every = counters_by_endpoint(snapshot)
    assert sum(map(sum, snapshot.counters.get().rows.values())) == sum(
        sum(row) for one in every for row in one.hooks.values()
    )


def test_the_recorded_order_is_by_drops(recorded, make):
    snapshot = make.snapshot(recorded("v3.32.1/02-ingress-deny.after"), parts=PARTS)
    drops = [sum(one.dropped(snapshot.counters.get().layout).values()) for one in counters_by_endpoint(snapshot)]
    assert sorted(drops, reverse=True) == drops
    assert drops[0] > 0
