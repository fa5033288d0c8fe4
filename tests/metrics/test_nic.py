"""Collector `nic`: the kernel's counters of Calico's endpoints, turned to the endpoint's own view."""

import pytest

from exporter.metrics import nic
from exporter.metrics.nic import NicCollector
from exporter.metrics.scrape import run_collector
from exporter.node import NodeError
from exporter.node.nic import Nic, NicCounters

# Packets, bytes, drops and errors that the host side received, and those that it sent.
COUNTED = Nic(NicCounters(1, 2, 3, 4), NicCounters(5, 6, 7, 8))
FAMILIES = (nic.PACKETS, nic.BYTES, nic.DROPS, nic.ERRORS)


@pytest.fixture
def collect(node, snapshot_of):
    """The samples of the collector over a node whose interfaces have all counted the same."""

    def run(*names, counted=COUNTED, **facts):
        source = node({}, {3: ("eth0", 0xE), 5: ("cali1", 0x7)}, pods={"cali1": ("ns-a", "client")}, **facts)
        source.nic_rows = dict.fromkeys(names, counted)
        return NicCollector().collect(snapshot_of(source, parts=NicCollector.parts))

    return run


def test_what_a_workloads_host_side_received_its_pod_sent(collect, series):
    samples = collect("cali1")
    sent, received = ("cali1", "outbound", "ns-a", "client"), ("cali1", "inbound", "ns-a", "client")
    assert [{sent: one, received: one + 4} for one in (1, 2, 3, 4)] == [series(samples, one) for one in FAMILIES]


def test_what_a_host_interface_received_came_in(collect, series):
    samples = collect("eth0")
    into, out = ("eth0", "inbound", "", ""), ("eth0", "outbound", "", "")
    assert [{into: one, out: one + 4} for one in (1, 2, 3, 4)] == [series(samples, one) for one in FAMILIES]


def test_interfaces_that_are_not_calicos_are_left_to_others(collect, series):
    samples = collect("docker0", "eth0", "lo", links=[(1, "lo"), (3, "eth0"), (9, "docker0")])
    assert {"eth0"} == {labels[0] for labels in series(samples, nic.PACKETS)}


def test_zeros_are_shown(collect, series):
    samples = collect("eth0", counted=Nic(NicCounters(0, 0, 0, 0), NicCounters(0, 0, 0, 0)))
    assert [2, 2, 2, 2] == [len(series(samples, family)) for family in FAMILIES]


def test_counters_that_cannot_be_read_are_a_failure(node, read_of):
    source = node({}, {5: ("cali1", 0x7)})
    source.nic_rows = NodeError("gone")
    assert "gone" == run_collector(NicCollector(), read_of(source)).failure
