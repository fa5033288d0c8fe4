"""Drops that no counter sees: found where the kernel's packets and the program's differ, and quiet elsewhere."""

import pytest

from exporter.diagnosis.check import findings
from exporter.diagnosis.explain import PARTS, explain
from exporter.diagnosis.uncounted import Sent, is_suspect, sent_by_pods, uncounted
from tests.parts import EVERY_PART

WORKLOAD, READY, HOST, UNMANAGED = 0x1, 0x6, 0x8, 0x400
LINKS = {1: "lo", 3: "eth0", 5: "cali5"}
SMALL, FULL = 80, 1500  # bytes in a packet


@pytest.fixture
def node(make):
    """A snapshot of a node whose pod sent this many packets, of which this many entered Calico's program."""

    def at(packets, program, size=SMALL, flags=WORKLOAD | READY, drops=None, entries=(), **facts):
        rows = {(5, 0): {0: program}, (5, 1): {}} | dict(entries)
        states = {1: ("lo", HOST | READY), 3: ("eth0", HOST | READY), 5: ("cali5", flags)}
        maps = [make.counters("cali_counters6", 60, rows), make.ifstate("cali_iface4", 40, states)]
        zero = (0, 0, 0, 0)
        nics = {name: make.nic((packets, packets * size, 0, 0), zero) for name in LINKS.values()}
        queues = {} if drops is None else {5: drops}
        links = [make.link(*one) for one in LINKS.items()]
        facts = {"links": links, "nics": nics, "queue_drops": queues} | facts
        return make.snapshot(make.node(maps, **facts), parts=PARTS | EVERY_PART)

    return at


def lost(before, after):
    return explain(before, after, after.endpoints.get().of(5)).uncounted


@pytest.mark.parametrize(
    ("packets", "program", "expected"),
    [
        (50, 0, 50),
        (50, 4, 46),
        (20, 0, 20),
        (50, 5, 0),
        (19, 0, 0),
        (0, 0, 0),
        (50, 50, 0),
        (50, 70, 0),  # the program counts what the kernel counted before
    ],
)
def test_twenty_packets_of_which_the_program_saw_under_a_tenth_are_lost(node, packets, program, expected):
    before, after = node(1000, 990), node(1000 + packets, 990 + program)
    assert expected == lost(before, after)
    assert (expected > 0) == explain(before, after, after.endpoints.get().of(5)).loses_packets
    assert frozenset({(5, "cali5")} if expected else ()) == uncounted(sent_by_pods(before), sent_by_pods(after))


def test_bulk_data_that_the_kernel_merged_is_not_lost(node):
    # 440 full segments reach the program as 10 packets of 64 KiB (generic receive offload).
    before, after = node(100, 100, FULL), node(540, 111, FULL)
    assert 0 == lost(before, after)
    assert frozenset() == uncounted(sent_by_pods(before), sent_by_pods(after))


def test_bulk_data_of_which_too_little_arrives_to_be_merged_is_lost(node):
    assert 4399 == lost(node(100, 100, FULL), node(4500, 101, FULL))


@pytest.mark.parametrize("flags", [WORKLOAD, HOST | READY, UNMANAGED | READY])
def test_an_interface_without_calicos_programs_loses_nothing(node, flags):
    assert 0 == lost(node(0, 0, flags=flags), node(50, 0, flags=flags))


def test_a_new_pod_is_not_compared(node, make):
    young = node(0, 0, links=[make.link(1, "lo"), make.link(3, "eth0")])
    after = node(50, 0)
    assert frozenset() == uncounted(sent_by_pods(young), sent_by_pods(after))
    assert 0 == lost(young, after)


def test_a_pod_recreated_under_its_name_is_another_one(node, make):
    links = [make.link(1, "lo"), make.link(3, "eth0"), make.link(4, "cali5")]
    assert 0 == lost(node(900, 900, links=links), node(50, 0))


def test_where_a_counter_was_reset_nothing_is_claimed(node):
    assert 0 == lost(node(1000, 990), node(1060, 3))


@pytest.mark.parametrize(
    ("packets", "program", "drops", "entries", "expected"),
    [
        (8, 0, 8, {}, 8),  # a program in front drops few packets
        (8, 0, 0, {}, 0),
        (8, 0, 8, {(5, 1): {0: 8, 4: 8}}, 0),  # they are those to the pod that policy denied
        (100, 60, 40, {}, 0),  # the program may have dropped what it counted only in its total
        (100, 20, 80, {}, 60),
        (100, 100, 30, {(5, 1): {0: 30, 4: 30}}, 0),
        (100, 100, 101, {}, 0),  # one between two readings
    ],
)
def test_what_a_queueing_discipline_dropped_beyond_what_entered_the_program_is_lost(
    node, packets, program, drops, entries, expected
):
    before, after = node(50, 50, drops=7), node(50 + packets, 50 + program, drops=7 + drops, entries=entries)
    if (5, 0) not in entries:
        assert expected == lost(before, after)


@pytest.mark.parametrize("missing", ["nics", "links", "queue_drops"])
def test_without_a_source_nothing_is_claimed(node, missing):
    from exporter.node import NodeError

    broken = {missing: NodeError("no")}
    assert (50 if missing == "queue_drops" else 0) == lost(node(0, 0), node(50, 0, **broken))


def test_check_names_the_pod_and_reads_again_only_if_something_is_suspect(node):
    before, after = node(100, 0), node(150, 0)
    assert (True, False) == (is_suspect(before), is_suspect(node(100, 90)))
    (found,) = (one for one in findings(after, before) if one.subject == "uncounted drops")
    assert ("missing", "cali5: 50 packets from it never reached Calico's program") == (found.state, found.found)
    assert [] == [one for one in findings(before, before) if one.subject == "uncounted drops"]


def test_a_fall_of_either_counter_is_a_reset():
    assert Sent(0, 0, 0) == Sent(5, 50, 4).since(Sent(9, 90, 1)) == Sent(5, 50, 4).since(Sent(1, 10, 9))
