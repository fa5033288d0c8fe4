"""Namespace filters: whose series there are, and that the drops of all others go on in a counter that never falls."""

import pytest

from exporter.metrics import counters
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.counters import CountersCollector
from exporter.metrics.other_drops import OTHER_DROPPED_PACKETS
from exporter.snapshot.memory import Memory
from tests.metrics.conftest import series_of

INGRESS, EGRESS = 0, 1
POLICY, TOO_SHORT = 4, 5
WORKLOAD, READY, HOST = 0x1, 0x6, 0x8
STATES = {
    3: ("eth0", HOST | READY),
    5: ("cali1", WORKLOAD | READY),
    6: ("cali2", WORKLOAD | READY),
    7: ("cali3", WORKLOAD | READY),
}
PODS = {"cali1": ("shop", "web"), "cali2": ("bank", "till")}  # cali3 has no name


@pytest.fixture
def collected(node, snapshot_of):
    """The samples of successive tables, by one collector with these filters."""

    def run(*tables, states=STATES, pods=PODS, **filters):
        collector = CountersCollector(CollectorOptions(**{key: frozenset(value) for key, value in filters.items()}))
        memory = Memory()
        return [collector.collect(snapshot_of(node(one, states, pods=pods), memory)) for one in tables]

    return run


def table(**drops):
    """Entries at the egress hook of each interface, with so many drops by policy."""
    index = {name: number for number, (name, _) in STATES.items()}
    return {(index[name], EGRESS): {POLICY: count} for name, count in drops.items()}


def dropping(samples):
    return {interface for interface, *_ in series_of(samples, counters.DROPPED_PACKETS)}


def other(samples):
    return series_of(samples, OTHER_DROPPED_PACKETS)


@pytest.mark.parametrize(
    ("filters", "interfaces"),
    [
        ({}, {"eth0", "cali1", "cali2", "cali3"}),
        ({"namespaces": ["shop"]}, {"eth0", "cali1", "cali3"}),
        ({"exclude_namespaces": ["shop"]}, {"eth0", "cali2", "cali3"}),
        ({"namespaces": ["shop", "bank"], "exclude_namespaces": ["bank"]}, {"eth0", "cali1", "cali3"}),
    ],
)
def test_a_filter_is_about_pods_with_a_name(collected, filters, interfaces):
    (samples,) = collected(table(eth0=1, cali1=1, cali2=1, cali3=1), **filters)
    assert interfaces == dropping(samples)
    assert bool(filters) == bool(other(samples))


def test_the_drops_of_others_are_counted_from_the_start_by_direction_and_reason(collected):
    before = {(5, EGRESS): {POLICY: 100, TOO_SHORT: 1}, (5, INGRESS): {POLICY: 7}, (6, EGRESS): {POLICY: 50}}
    after = {(5, EGRESS): {POLICY: 110, TOO_SHORT: 3}, (5, INGRESS): {POLICY: 7}, (6, EGRESS): {POLICY: 60}}
    first, second = collected(before, after, exclude_namespaces=["shop"])
    assert {("inbound", "policy"): 0, ("outbound", "policy"): 0} == other(first)
    expected = {("inbound", "policy"): 10, ("inbound", "too_short"): 2, ("outbound", "policy"): 0}
    assert expected == other(second)
    assert {"cali2"} == dropping(second) - {"eth0", "cali3"}


def test_it_never_falls_when_an_interface_goes_comes_back_or_starts_over(collected):
    tables = [
        table(cali1=100, cali2=100),
        table(cali1=110, cali2=105),  # 15
        table(cali1=110),  # an interface goes
        table(cali1=113),  # 3
        table(cali1=113, cali2=4),  # it is there again, with 4 from 0
        table(cali1=2, cali2=4),  # the counters start over: 2
    ]
    found = [other(one)["inbound", "policy"] for one in collected(*tables, namespaces=["elsewhere"])]
    assert [0, 15, 15, 18, 22, 24] == found


def test_what_a_pod_dropped_while_it_had_no_name_is_not_counted_again(node, snapshot_of):
    collector, memory = CountersCollector(CollectorOptions(exclude_namespaces=frozenset({"shop"}))), Memory()
    found = [
        other(collector.collect(snapshot_of(node(table(cali1=count), STATES, pods=pods), memory)))["inbound", "policy"]
        for count, pods in ((10, {}), (20, {}), (25, PODS), (27, PODS))
    ]
    assert [0, 0, 5, 7] == found
