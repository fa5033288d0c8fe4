"""Whatever a person gives as an end, a protocol or a port becomes a packet or one sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.protocols import ICMP, ICMP6, TCP, UDP
from exporter.diagnosis.selection import NotHere, WrongUsage
from exporter.diagnosis.trace import PARTS
from exporter.diagnosis.trace_packet import Described, named, number_of, protocol_of, resolve
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from tests.recorded import recording

OPTIONS = ("--from", "--to")
ODD = st.text(max_size=40) | st.sampled_from(
    ["", "/", "a/", "interface:", "interface:\0", "::1%x", "0.0.0.0", "::ffff:10.65.0.3", "1" * 5000, "ns-b/server"]
)


@pytest.fixture(scope="module")
def snapshot():
    return take_snapshot(recording("v3.32.1/02-ingress-deny.after").bundle, Settings(), Memory(), PARTS)


@given(ends=st.tuples(ODD, ODD), protocol=st.integers(0, 255), port=st.none() | st.integers(0, 65535))
def test_any_ends_are_a_packet_or_a_sentence(snapshot, ends, protocol, port):
    described = Described(protocol, port)

    def found():
        described.check()
        return resolve(snapshot, described, ends, OPTIONS)

    result = value_or_sentence(found)
    if not isinstance(result, str):
        packet, source, destination = result
        assert packet.family in (4, 6)
        assert named(source)
        assert named(destination)


def value_or_sentence(find):
    """What it finds, or its error as text."""
    try:
        return find()
    except (WrongUsage, NotHere) as error:
        return str(error)


@given(text=st.text() | st.sampled_from(["9" * 5000, "٣", "-1", "+6", "1_0", " 6", "0x6"]))
def test_any_protocol_is_a_number_or_a_sentence(text):
    found = value_or_sentence(lambda: protocol_of(text))
    assert len(found) < 200 if isinstance(found, str) else 0 <= found <= 255


@pytest.mark.parametrize(("text", "expected"), [("TCP", TCP), ("udp", UDP), ("1", ICMP), ("0058", ICMP6), ("255", 255)])
def test_a_protocol_has_a_name_or_a_number(text, expected):
    assert expected == protocol_of(text)


@pytest.mark.parametrize("text", ["", "65536", "000000999999", "9" * 5000, "٣", "-1", "1.0"])
def test_what_is_no_port_is_none(text):
    assert number_of(text, 65535) is None
    assert 80 == number_of("80", 65535)


def test_a_pod_is_found_by_its_interface_too(snapshot):
    ends = "interface:cali34769d6a557", "10.65.0.4"
    packet, source, destination = resolve(snapshot, Described(TCP, 80), ends, OPTIONS)
    assert ("10.65.0.3", "10.65.0.4", 40000, 80) == (
        packet.source,
        packet.destination,
        packet.source_port,
        packet.destination_port,
    )
    assert ("ns-b/server (10.65.0.3)", "ns-c/plain (10.65.0.4)") == (named(source), named(destination))
