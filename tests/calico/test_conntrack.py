import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico import LayoutError
from exporter.calico.conntrack import (
    Leg,
    Side,
    decode_conntrack,
)
from exporter.calico.conntrack_rows import (
    CLOSING,
    ESTABLISHED,
    NAT_FORWARD,
    NAT_REVERSE,
    NORMAL,
    SYN_SENT,
    UNREPLIED,
    keys_of,
    pick,
    scan_conntrack,
)
from exporter.calico.tables import Columns
from tests.service_tables import ACK, APPROVED, FIN, OPENER, RST, SYN, WORKLOAD, columns, flow, forward, packed

A, B = ("10.65.0.2", 40000), ("10.65.0.3", 9999)
A6, B6 = ("fd00:65::2", 40000), ("fd00:65::3", 9999)
OPENED = {"bits": APPROVED | OPENER, "ifindex": 7, "packets": 10, "size": 800}
LAYOUTS = [(2, A, B), (3, A, B), (4, A, B), (4, A6, B6)]
SIZES = {(2, 4): (16, 64), (3, 4): (16, 88), (4, 4): (16, 88), (4, 6): (40, 128)}


def decoded(*entries):
    return list(decode_conntrack(columns(*entries)))


@pytest.mark.parametrize(("version", "source", "destination"), LAYOUTS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_denied_flow_goes_from_its_opener_and_only_that_leg_is_approved(version, source, destination, turned):
    if turned:
        source, destination = (destination[0], source[1]), (source[0], destination[1])
    (found,) = decoded(flow(17, source, destination, OPENED, {}, last_seen=123, version=version))
    assert (found.kind, found.protocol, found.last_seen) == (NORMAL, 17, 123)
    assert (found.source, found.destination) == (Side(*source), Side(*destination))
    assert (found.half_approved, found.forth.ifindex, found.back.ifindex) == (True, 7, 0)
    counts = (None, None) if version == 2 else (10, 800)
    assert (found.forth.packets, found.forth.bytes) == counts
    assert not found.replied
    assert (found.service, found.backend) == (None, None)


@pytest.mark.parametrize(
    ("forth", "back", "expected"),
    [
        (APPROVED | OPENER, 0, True),
        (APPROVED | OPENER, APPROVED, False),
        (OPENER, APPROVED, False),  # the node to its own pod: policy is not asked
        (OPENER, 0, False),
    ],
)
def test_only_the_openers_approval_alone_is_half(forth, back, expected):
    (found,) = decoded(flow(17, A, B, {"bits": forth}, {"bits": back}))
    assert found.half_approved is expected


@pytest.mark.parametrize(("version", "source", "destination"), LAYOUTS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_reverse_entry_has_the_service_and_a_forward_one_the_backend(version, source, destination, turned):
    if turned:
        source, destination = (destination[0], source[1]), (source[0], destination[1])
    service = ("10.96.0.7" if ":" not in source[0] else "fd00:96::7", 80)
    there, back = decoded(
        forward(6, source, service, destination, version=version),
        flow(6, source, destination, OPENED, {}, service=service, version=version),
    )
    assert (there.kind, there.source, there.destination, there.backend) == (
        NAT_FORWARD,
        Side(*source),
        Side(*service),
        Side(*destination),
    )
    assert (there.forth, there.back, there.half_approved, there.timeout) == (None, None, False, None)
    assert (back.kind, back.source, back.destination, back.service) == (
        NAT_REVERSE,
        Side(*source),
        Side(*destination),
        Side(*service),
    )
    assert back.half_approved


def test_a_clients_port_may_be_translated():
    (found,) = decoded(forward(17, A, ("10.96.0.7", 53), B, given_port=20001))
    assert (found.source, found.destination, found.backend) == (Side(*A), Side("10.96.0.7", 53), Side(*B))


# A process of the node that asks a service: the whole source is translated.
def test_where_the_client_is_translated_too_the_backend_is_not_known():
    key, value = forward(17, A, ("10.96.0.7", 53), B)
    (found,) = decoded((key, value[:24] + forward(17, ("10.65.0.1", 1), ("10.96.0.7", 53), B)[1][24:]))
    assert found.backend is None
    assert {found.source, found.destination} == {Side(*A), Side("10.96.0.7", 53)}


def test_addresses_are_ordered_as_the_programs_order_them():
    for source, destination in [(("10.0.0.2", 1), ("9.0.0.3", 2)), (("10.0.0.2", 5), ("10.0.0.2", 4))]:
        (found,) = decoded(flow(17, source, destination, OPENED, {}))
        assert (found.source, found.destination) == (Side(*source), Side(*destination))


@pytest.mark.parametrize(
    ("forth", "back", "state", "timeout"),
    [
        (SYN, 0, SYN_SENT, 20),
        (SYN | ACK, SYN, SYN_SENT, 20),
        (SYN | ACK, SYN | ACK, ESTABLISHED, 3600),
        (SYN | ACK | FIN, SYN | ACK, CLOSING, 3600),
        (SYN | ACK | FIN, SYN | ACK | FIN, CLOSING, 30),
        (SYN | ACK | FIN, SYN | ACK | FIN | RST, CLOSING, 40),
        (SYN, RST, CLOSING, 40),
    ],
)
def test_a_tcp_flow_has_a_state_and_a_time_to_live(forth, back, state, timeout):
    (found,) = decoded(flow(6, A, B, {"bits": forth | OPENER}, {"bits": back}))
    assert (found.state, found.flow_state, found.timeout) == (state, state, timeout)
    (translated,) = decoded(flow(6, A, B, {"bits": forth | OPENER}, {"bits": back}, service=("10.96.0.7", 80)))
    assert (translated.state, translated.flow_state) == (NAT_REVERSE, state)


@pytest.mark.parametrize(("protocol", "timeout"), [(17, 60), (1, 5), (58, 5), (132, 600), (47, 600)])
@pytest.mark.parametrize(("packets", "state"), [(0, UNREPLIED), (3, ESTABLISHED)])
def test_other_flows_are_established_by_a_reply(protocol, timeout, packets, state):
    (found,) = decoded(flow(protocol, A, B, OPENED, {"packets": packets}))
    assert (found.state, found.timeout, found.replied) == (state, timeout, packets > 0)


def test_each_bit_of_a_leg_has_a_name():
    names = ("syn_seen", "fin_seen", "rst_seen", "approved", "opener", "from_workload")
    for bit, name in zip((SYN, FIN, RST, APPROVED, OPENER, WORKLOAD), names, strict=True):
        assert [one for one in names if getattr(Leg(bit, 0), one)] == [name]
    assert Leg(SYN | ACK, 0).established
    assert not Leg(SYN, 0).established


def test_all_32_flags_are_read():
    (found,) = decoded(flow(17, A, B, OPENED, {}, flags=0x89ABCDEF))
    assert found.flags & ~0x100 == 0x89ABCDEF & ~0x100


def test_the_first_time_is_the_creation_only_where_every_entry_has_one():
    old = [flow(17, A, (B[0], port), OPENED, {}, first=port, last_seen=9000, version=3) for port in (1, 2)]
    assert [one.created_at for one in decoded(*old)] == [1, 2]
    with_rst = [flow(6, A, B, OPENED, {}, first=77), flow(17, A, B, OPENED, {})]
    assert [one.created_at for one in decoded(*with_rst)] == [None, None]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_picked_entries_are_those_at_their_positions(version):
    rows = [flow(17, A, (B[0], port), OPENED, {}, version=version) for port in range(5)]
    assert pick(columns(*rows), [1, 3]) == columns(rows[1], rows[3])
    assert pick(columns(*rows), []) == columns(sizes=SIZES[version, 4])


def test_an_entry_of_an_unknown_type_is_left_out():
    key, value = flow(17, A, B, OPENED, {})
    assert decoded((key, value[:16] + b"\3" + value[17:])) == []


@pytest.mark.parametrize("family", [4, 6])
@given(st.data())
def test_any_flows_are_those_that_were_made_in_any_order(family, data):
    version = data.draw(st.sampled_from([one for one, number in SIZES if number == family]))
    address, port = st.ip_addresses(v=family).map(str), st.integers(0, 0xFFFF)
    end, bits = st.tuples(address, port), st.integers(0, 127)
    row = st.tuples(st.integers(0, 255), end, end, bits, bits, st.none() | end, st.integers(0, 2**64 - 1))
    drawn = data.draw(st.lists(row.filter(lambda one: one[1] != one[2])))
    entries, expected = [], []
    for protocol, source, destination, forth, back, service, last_seen in drawn:
        legs = {"bits": forth | OPENER}, {"bits": back & ~OPENER}
        entries.append(
            flow(protocol, source, destination, *legs, service=service, last_seen=last_seen, version=version)
        )
        asked = service and Side(str(ipaddress.ip_address(service[0])), service[1])
        expected.append(
            (protocol, Side(*source), Side(*destination), legs[0]["bits"], legs[1]["bits"], asked, last_seen)
        )
    order = list(range(len(entries)))
    random.Random(1).shuffle(order)
    rows = columns(*(entries[number] for number in order), sizes=SIZES[version, family])
    found = [
        (one.protocol, one.source, one.destination, one.forth.bits, one.back.bits, one.service, one.last_seen)
        for one in decode_conntrack(rows)
    ]
    assert found == [expected[number] for number in order]


@pytest.mark.parametrize("family", [4, 6])
@given(st.data())
def test_an_entry_has_one_of_the_two_keys_of_its_ends(family, data):
    end = st.tuples(st.ip_addresses(v=family).map(str), st.integers(0, 0xFFFF))
    one, other = data.draw(end), data.draw(end)
    ends = [(packed(address), port) for address, port in (one, other)]
    assert flow(17, one, other, {"bits": OPENER}, {})[0] in keys_of(17, *ends)


ANY_SIZE = st.sampled_from([16, 40, 64, 88, 128]) | st.integers(0, 140)


@given(st.binary(max_size=400), st.binary(max_size=1200), ANY_SIZE, ANY_SIZE)
def test_any_bytes_of_any_size_are_entries_or_a_layout_error(keys, values, key_size, value_size):
    try:
        found = list(decode_conntrack(Columns(keys, values, key_size, value_size)))
    except LayoutError:
        return
    assert len(found) <= len(keys) // key_size


@pytest.mark.parametrize("sizes", SIZES.values())
@given(st.data())
def test_any_bytes_of_a_known_size_are_entries_that_can_be_described(sizes, data):
    count = data.draw(st.integers(0, 4))
    keys, values = (data.draw(st.binary(min_size=count * size, max_size=count * size)) for size in sizes)
    rows = Columns(keys, values, *sizes)
    entries = list(decode_conntrack(rows))
    for one in entries:
        assert one.state.isascii()
        assert one.protocol_name.isascii()
        assert (one.timeout is None) == (one.kind == NAT_FORWARD)
        assert one.half_approved in (True, False)


def test_other_sizes_are_an_error_that_says_so_before_the_first_entry():
    with pytest.raises(
        LayoutError, match="keys of 16 and values of 96 bytes, expected 16 and 64 or 16 and 88 or 40 and 128"
    ):
        decode_conntrack(Columns(b"", b"", 16, 96))


# The scan reads in a fraction of the time what decoding reads.
@pytest.mark.parametrize("sizes", SIZES.values())
@given(st.data())
def test_a_scan_says_what_decoding_says(sizes, data):
    count = data.draw(st.integers(0, 4))
    key = st.binary(min_size=sizes[0], max_size=sizes[0]).map(lambda raw: bytes([raw[0] % 20, 0, 0, 0]) + raw[4:])
    value = st.binary(min_size=sizes[1], max_size=sizes[1])
    value = st.builds(lambda raw, kind: raw[:16] + bytes([kind]) + raw[17:], value, st.integers(0, 2))
    keys, values = (b"".join(data.draw(st.lists(one, min_size=count, max_size=count))) for one in (key, value))
    rows = Columns(keys, values, *sizes)
    decoded = [(one.protocol, one.state, one.half_approved) for one in decode_conntrack(rows)]
    assert [(protocol, state, half) for protocol, state, _, _, half in scan_conntrack(rows)] == decoded


def test_a_scan_has_the_addresses_of_the_key_and_says_where_the_type_is_unknown():
    key, value = flow(17, A, B, OPENED, {})
    ((protocol, state, *ends, half),) = scan_conntrack(columns((key, value[:16] + b"\3" + value[17:])))
    assert (protocol, state, half, set(ends)) == (17, "unknown", False, {packed(A[0]), packed(B[0])})
