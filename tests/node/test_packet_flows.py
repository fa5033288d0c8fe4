"""Flows that opened while packets were captured, and what was seen of them beyond the hook."""

import pytest

from exporter.node import packet_flows
from exporter.node.packet_flows import FlowTable
from exporter.node.packet_headers import FRAGMENT, MALFORMED, SHORT, parse_packet
from tests.node.captured import ACK, RST, SYN, icmp, ipv4, tcp, udp

POD, PEER, SERVICE, BACKEND = "10.65.0.2", "10.65.0.3", "10.96.0.7", "10.65.0.4"
IN, OUT = False, True


def captured(*packets):
    """The capture of (bytes, interface, outgoing) by the pod's interface cali5."""
    table = FlowTable(lambda header, interface: True)
    for data, interface, outgoing in packets:
        table.add(parse_packet(data, ipv6=data[:1] >= b"\x60"), interface, outgoing=outgoing)
    return table.capture(1.0, 0, full=False)


def only(*packets):
    (flow,) = captured(*packets).flows
    return flow


def test_packets_of_one_flow_are_counted_where_they_came_in():
    flow = only(*[(udp(PEER, POD, 4, 53), "cali7", IN)] * 3)
    assert (4, 17, PEER, 4, POD, 53, None, "cali7", 3) == (
        flow.family,
        flow.protocol,
        flow.source,
        flow.source_port,
        flow.destination,
        flow.destination_port,
        flow.icmp,
        flow.interface,
        flow.packets,
    )
    assert (frozenset(), frozenset(), False) == (flow.passed_to, flow.answered_by, flow.same_passed)


def test_retransmissions_are_counted_and_what_follows_a_handshake_is_not():
    flow = only(
        *[(tcp(POD, PEER, 4, 80, SYN), "cali5", IN)] * 3,
        (tcp(PEER, POD, 80, 4, SYN | ACK), "cali7", IN),
        (tcp(POD, PEER, 4, 80, ACK), "cali5", IN),
    )
    assert (3, {(PEER, 80)}) == (flow.packets, flow.answered_by)


@pytest.mark.parametrize("flags", [SYN | ACK, RST | ACK])
def test_an_answer_of_a_backend_names_the_backend(flags):
    flow = only(
        (tcp(POD, SERVICE, 4, 80, SYN), "cali5", IN),
        (tcp(POD, BACKEND, 4, 8080, SYN), "cali9", OUT),
        (tcp(BACKEND, POD, 8080, 4, flags), "cali9", IN),
    )
    assert ({(BACKEND, 8080)}, {(BACKEND, 8080)}, True) == (flow.passed_to, flow.answered_by, flow.same_passed)


def test_another_packet_of_the_same_port_is_not_the_same():
    flow = only(
        (tcp(POD, SERVICE, 4, 80, SYN, sequence=1), "cali5", IN),
        (tcp(POD, BACKEND, 4, 8080, SYN, sequence=2), "cali9", OUT),
    )
    assert (False, {(BACKEND, 8080)}) == (flow.same_passed, flow.passed_to)


def test_an_answering_datagram_opens_no_flow_and_pings_are_told_by_their_number():
    flow = only((udp(PEER, POD, 4, 53), "cali7", IN), (udp(POD, PEER, 53, 4), "cali5", IN))
    assert (1, {(POD, 53)}) == (flow.packets, flow.answered_by)
    one, other = captured(
        (icmp(PEER, POD, 8, 1), "cali7", IN), (icmp(PEER, POD, 8, 2), "cali7", IN), (icmp(POD, PEER, 0, 2), "cali5", IN)
    ).flows
    assert ((8, 0), frozenset(), {(POD, 2)}) == (one.icmp, one.answered_by, other.answered_by)


@pytest.mark.parametrize(
    ("packet", "answer"),
    [
        (tcp(POD, PEER, 4, 80, SYN), tcp(PEER, POD, 80, 4, SYN | ACK)),
        (udp(POD, PEER, 4, 80), udp(PEER, POD, 80, 4)),
    ],
)
def test_an_answer_of_the_node_itself_goes_out_only(packet, answer):
    flow = only((packet, "cali5", IN), (answer, "cali5", OUT))
    assert ({(PEER, 80)}, frozenset()) == (flow.answered_by, flow.passed_to)


def test_what_goes_out_opens_no_flow():
    assert () == captured((udp(PEER, POD, 4, 53), "cali5", OUT)).flows


def test_unreadable_packets_are_counted_by_interface_and_kind_where_they_came_in():
    cut, malformed, later = (
        ipv4(POD, PEER, 17)[:12],
        ipv4(POD, PEER, 17, words=4),
        ipv4(POD, PEER, 17, fragment=9),
    )
    capture = captured(
        *[(cut, "cali5", IN)] * 2,
        (malformed, "cali5", IN),
        (later, "cali5", IN),
        (cut, "cali7", IN),
        (cut, "cali7", OUT),
    )
    assert {"cali5": {SHORT: 2, MALFORMED: 1, FRAGMENT: 1}, "cali7": {SHORT: 1}} == capture.unreadable
    assert 6 == capture.packets


def test_flows_that_are_not_to_be_kept_leave_nothing_behind(monkeypatch):
    monkeypatch.setattr(packet_flows, "MAX_FLOWS", 3)
    table = FlowTable(lambda header, interface: interface == "cali5" or header.destination_port == 53)
    for port in range(5):
        table.add(parse_packet(udp("192.0.2.1", "192.0.2.2", port, 4789), ipv6=False), "eth0", outgoing=False)
        table.add(parse_packet(udp("192.0.2.2", "192.0.2.1", port, 4789), ipv6=False), "eth0", outgoing=True)
    kept = ("cali5", POD, 80), ("eth0", PEER, 53)
    for interface, source, port in kept:
        table.add(parse_packet(udp(source, BACKEND, 7, port), ipv6=False), interface, outgoing=False)
    capture = table.capture(1.0, 0, full=False)
    assert [(POD, 80), (PEER, 53)] == [(one.source, one.destination_port) for one in capture.flows]
    assert (12, 0, {}) == (capture.packets, capture.left_out, table._passed)


def test_more_flows_than_are_kept_are_counted(monkeypatch):
    monkeypatch.setattr(packet_flows, "MAX_FLOWS", 3)
    packets = [
        (udp(POD, PEER, port, 53), interface, out)
        for port in range(5)
        for interface, out in (("cali5", IN), ("c", OUT))
    ]
    capture = captured(*packets, (udp(POD, PEER, 0, 53), "cali5", IN))
    assert (3, 2, 2) == (len(capture.flows), capture.left_out, capture.flows[0].packets)
    assert all(one.passed_to for one in capture.flows)


def test_of_one_flow_only_so_much_is_kept():
    packets = [(tcp(POD, SERVICE, 4, 80, SYN, sequence=number + 1), "cali5", IN) for number in range(30)]
    packets += [(tcp(POD, BACKEND, 4, port, SYN, sequence=99), "cali9", OUT) for port in range(30)]
    flow = only(*packets)
    assert (30, 8, False) == (flow.packets, len(flow.passed_to), flow.same_passed)
