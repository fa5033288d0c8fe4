"""The flow of a captured packet: from its headers, cut off and malformed ones too."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.node.packet_headers import (
    CONTINUES,
    FRAGMENT,
    MALFORMED,
    OPENS,
    OTHER,
    SHORT,
    Header,
    parse_packet,
)
from tests.node.captured import ACK, RST, SYN, icmp, ipv4, ipv6, packed, tcp, udp

A, B, A6, B6 = "10.65.0.2", "10.65.0.3", "fd00:65::2", "fd00:65::3"


def parsed(data):
    return parse_packet(data, ipv6=data[:1] >= b"\x60")


@pytest.mark.parametrize(("source", "destination", "family"), [(A, B, 4), (A6, B6, 6)])
def test_ports_addresses_and_what_a_packet_is_to_its_flow(source, destination, family):
    def header(kind, protocol, port=0, other=0, icmp_type=None, identity=0):
        ends = packed(source), packed(destination)
        return Header(kind, family, protocol, *ends, port, other, icmp_type, identity)

    number = 1 if family == 4 else 0
    ping, query, answer = (1, 8, 0) if family == 4 else (58, 128, 129)
    ends = source, destination
    assert header(OPENS, 17, 40000, 53, identity=number) == parsed(udp(*ends, 40000, 53))
    assert header(OPENS, 6, 1, 2, identity=7) == parsed(tcp(*ends, 1, 2, SYN))
    for flags in (SYN | ACK, ACK, RST, RST | ACK):
        assert header(CONTINUES, 6, 1, 2, identity=7) == parsed(tcp(*ends, 1, 2, flags))
    assert header(OPENS, ping, 9, 9, (query, 0), number) == parsed(icmp(*ends, query))
    assert header(CONTINUES, ping, 9, 9, (answer, 0), number) == parsed(icmp(*ends, answer))
    build = ipv4 if family == 4 else ipv6
    assert header(OPENS, 47, identity=number) == parsed(build(*ends, 47, b"gre"))
    assert header(OPENS, 132, 1, 2, identity=number) == parsed(build(*ends, 132, struct.pack(">HHQ", 1, 2, 0)))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", SHORT),
        (ipv4(A, B, 17)[:12], SHORT),
        (ipv4(A, B, 17, bytes(7)), SHORT),
        (ipv4(A, B, 6, bytes(19)), SHORT),
        (ipv6(A6, B6, 17)[:39], SHORT),
        (ipv6(A6, B6, 0, bytes(7)), SHORT),
        (ipv4(A, B, 17, bytes(16), words=4), MALFORMED),
        (ipv4(A, B, 17, bytes(16), fragment=100), FRAGMENT),
        (ipv6(A6, B6, 44, struct.pack(">BBHI", 17, 0, 8, 1) + bytes(8)), FRAGMENT),
        (icmp(A, B, 3), OTHER),
        (icmp(A6, B6, 135), OTHER),
        (icmp(A6, B6, 1), OTHER),
        (ipv6(A6, B6, 60, bytes([60]) + bytes(200)), OTHER),
    ],
)
def test_a_packet_without_a_flow_is_named_by_what_it_is(data, kind):
    assert Header(kind) == parsed(data)


def test_headers_before_the_ports_are_passed_over():
    ports = struct.pack(">HHHH", 1, 2, 8, 0)
    first_fragment = struct.pack(">BBHI", 17, 0, 1, 5)  # more fragments follow
    hop_by_hop = bytes([44, 1]) + bytes(14)
    header = parsed(ipv6(A6, B6, 0, hop_by_hop + first_fragment + ports))
    assert (OPENS, 17, 1, 2) == (header.kind, header.protocol, header.source_port, header.destination_port)
    header = parsed(ipv4(A, B, 17, ports, words=8))
    assert (OPENS, 17, 1, 2) == (header.kind, header.protocol, header.source_port, header.destination_port)


@given(st.binary(max_size=128), st.booleans())
def test_any_bytes_have_a_header(data, of_ipv6):
    header = parse_packet(data, ipv6=of_ipv6)
    assert (header.kind in {OPENS, CONTINUES}) == bool(header.family)


@given(st.binary(max_size=88), st.sampled_from([1, 6, 17, 47, 58, 132, 0, 43, 44, 60]))
def test_any_payload_is_parsed_and_none_of_it_kept(rest, protocol):
    for data in (ipv4(A, B, protocol, rest), ipv6(A6, B6, protocol, rest)):
        header = parsed(data)
        assert all(len(one) <= 16 for one in header if isinstance(one, bytes))
