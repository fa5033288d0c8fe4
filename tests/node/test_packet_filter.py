"""Which packets the kernel's filter passes, by a small interpreter of classic BPF, which the kernel runs elsewhere."""

import operator
from ipaddress import ip_address

import pytest

from exporter.node.packet_filter import DROP_ALL, MAX_ADDRESSES, SNAP_LENGTH, Watched, WatchedNode, packed
from exporter.node.packet_headers import parse_packet
from tests.node.captured import ACK, RST, SYN, icmp, ipv4, tcp, udp

POD, POD6, PEER, PEER6 = "10.65.0.2", "fd00:65::2", "10.65.0.3", "fd00:65::3"
SERVICE, SERVICE6, NODE, NODE6 = "10.96.0.7", "fd00:96::7", "192.0.2.1", "2001:db8::1"
OTHER, OTHER6 = "10.65.0.99", "fd00:65::63"
WATCHED = Watched(5, "cali5", (POD, POD6), (SERVICE, SERVICE6), ((NODE, 30080), (NODE6, 30080)))
HOST, OUTGOING, OTHER_HOST = 0, 4, 3
LOOPBACK = 1
TESTS = {0x15: operator.eq, 0x35: operator.ge, 0x45: operator.and_}
WATCHED_NODE = WatchedNode(
    frozenset({"cali5"}),
    frozenset(ip_address(one).packed for one in (POD, POD6, SERVICE)),
    frozenset({(ip_address(NODE).packed, 30080)}),
)


def passes(program, data, ifindex=9, packet_type=HOST, protocol=None):
    """The bytes of the packet that the program passes."""
    protocol = protocol or (0x86DD if data[0] >> 4 == 6 else 0x0800)
    auxiliary = {0: protocol, 4: packet_type, 8: ifindex}
    place = accumulator = 0
    for _ in range(len(program) + 1):
        code, if_true, if_false, operand = program[place]
        place += 1
        if code == 0x06:
            return operand
        if code == 0x05:
            place += operand
        elif code in TESTS:
            place += if_true if TESTS[code](accumulator, operand) else if_false
        elif code == 0x80:
            accumulator = len(data)
        elif operand >= 0xFFFFF000:
            accumulator = auxiliary[operand - 0xFFFFF000]
        else:
            size, offset = {0x20: 4, 0x28: 2, 0x30: 1}[code], operand - 0xFFF00000
            if offset + size > len(data):
                return 0  # the kernel's answer to a load beyond the packet
            accumulator = int.from_bytes(data[offset : offset + size], "big")
    raise AssertionError("the program does not end")


@pytest.mark.parametrize(
    ("packet", "passed"),
    [
        (udp(PEER, POD, 1, 2), True),
        (udp(POD, PEER, 1, 2), True),
        (udp(PEER6, POD6, 1, 2), True),
        (udp(POD6, PEER6, 1, 2), True),
        (udp(PEER, SERVICE, 1, 80), True),
        (udp(PEER6, SERVICE6, 1, 80), True),
        (udp(SERVICE, PEER, 80, 1), False),
        (udp(PEER, OTHER, 1, 2), False),
        (udp(PEER6, OTHER6, 1, 2), False),
        (tcp(PEER, NODE, 1, 30080, SYN), True),
        (tcp(PEER, NODE, 1, 30081, SYN), False),
        (tcp(PEER, NODE, 30080, 22, SYN), False),
        (icmp(PEER, NODE, 8), False),
        (udp(PEER6, NODE6, 1, 2), True),  # its ports may be behind other headers
        (ipv4(PEER, POD, 47), True),
        (ipv4(PEER, OTHER, 47), False),
    ],
)
def test_what_is_the_pods_passes_and_nothing_else(packet, passed):
    program = WATCHED.program(LOOPBACK)
    for packet_type in (HOST, OUTGOING):
        assert (SNAP_LENGTH if passed else 0) == passes(program, packet, packet_type=packet_type)
    assert 0 == passes(program, packet, packet_type=OTHER_HOST)
    assert 0 == passes(program, packet, ifindex=1)
    assert 0 == passes(program, packet, protocol=0x0806)


@pytest.mark.parametrize("data", [b"", b"\x45", udp(OTHER, PEER, 1, 2), udp(OTHER6, PEER6, 1, 2)])
def test_all_of_the_pods_interface_passes(data):
    program = WATCHED.program(LOOPBACK)
    assert SNAP_LENGTH == passes(program, data, ifindex=5, protocol=0x0800)
    assert 0 == passes(program, data, ifindex=6, protocol=0x0800)


def test_at_the_limit_of_addresses_each_one_is_compared():
    numbers = range(MAX_ADDRESSES // 2)
    four, six = [f"10.0.0.{one}" for one in numbers], [f"fd00::{one:x}" for one in numbers]
    program = Watched(5, "cali5", (POD,), (*four, *six)).program(LOOPBACK)
    assert len(program) < 4096
    for address in (*four, *six):
        source = PEER6 if ":" in address else PEER
        assert SNAP_LENGTH == passes(program, udp(source, address, 1, 2))
    assert 0 == passes(program, udp(PEER, "10.0.0.200", 1, 2))
    assert 0 == passes(program, udp(PEER6, "fd00::ff", 1, 2))


def test_a_pod_without_addresses_has_its_interface_alone():
    program = Watched(5, "cali5", ()).program(LOOPBACK)
    assert (SNAP_LENGTH, 0) == (passes(program, udp(POD, PEER, 1, 2), ifindex=5), passes(program, udp(POD, PEER, 1, 2)))


def test_the_first_program_drops_all_and_both_have_the_kernels_layout():
    assert 0 == passes(DROP_ALL, udp(POD, PEER, 1, 2), ifindex=5)
    assert bytes.fromhex("0600000000000000") == packed(DROP_ALL)
    assert 8 * len(WATCHED.program(LOOPBACK)) == len(packed(WATCHED.program(LOOPBACK)))


FIN = 0x01


@pytest.mark.parametrize(
    ("packet", "passed"),
    [
        (tcp(POD, PEER, 1, 80, SYN), True),
        (tcp(PEER, POD, 80, 1, SYN | ACK), True),
        (tcp(PEER, POD, 80, 1, RST), True),
        (tcp(PEER6, POD6, 80, 1, RST | ACK), True),
        (tcp(POD6, PEER6, 1, 80, SYN), True),
        (tcp(POD, PEER, 1, 80, ACK), False),
        (tcp(POD, PEER, 1, 80, ACK | FIN), False),
        (tcp(POD6, PEER6, 1, 80, ACK), False),
        (udp(OTHER, PEER, 1, 2), True),
        (udp(OTHER6, PEER6, 1, 2), True),
        (icmp(PEER, NODE, 8), True),
        (ipv4(PEER, POD, 47), True),
        (ipv4(POD, PEER, 6, fragment=9) + bytes(20), True),
        (ipv4(POD, PEER, 17, words=4), True),
        (ipv4(POD, PEER, 17)[:12], True),
        (tcp(POD6, PEER6, 1, 80, ACK)[:50], True),
        (b"\x45", True),
    ],
)
def test_of_a_node_all_passes_but_the_inside_of_connections(packet, passed):
    program = WATCHED_NODE.program(1)
    protocol = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    for packet_type in (HOST, OUTGOING):
        assert (SNAP_LENGTH if passed else 0) == passes(program, packet, packet_type=packet_type, protocol=protocol)
    assert 0 == passes(program, packet, packet_type=OTHER_HOST, protocol=protocol)
    assert 0 == passes(program, packet, ifindex=1, protocol=protocol)
    assert 0 == passes(program, packet, protocol=0x0806)


@pytest.mark.parametrize(
    ("packet", "interface", "kept"),
    [
        (udp(OTHER, PEER, 1, 2), "cali5", True),
        (udp(OTHER, PEER, 1, 2), "eth0", False),
        (udp(PEER, POD, 1, 2), "eth0", True),
        (udp(PEER, SERVICE, 1, 80), "eth0", True),
        (udp(PEER6, POD6, 1, 2), "eth0", True),
        (udp(POD, PEER, 1, 2), "eth0", False),
        (tcp(PEER, NODE, 1, 30080, SYN), "eth0", True),
        (tcp(PEER, NODE, 1, 22, SYN), "eth0", False),
        (udp("192.0.2.2", NODE, 40000, 4789), "eth0", False),
    ],
)
def test_of_a_node_the_flows_of_pods_are_kept(packet, interface, kept):
    assert kept == WATCHED_NODE.keeps(parse_packet(packet, ipv6=packet[0] >> 4 == 6), interface)
