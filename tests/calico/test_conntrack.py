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


def state_of(entry):
    ((_, state, *_),) = scan_conntrack(columns(entry))
    return state


@pytest.mark.parametrize(("version", "source", "destination"), LAYOUTS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_denied_flow_goes_from_its_opener_and_only_that_leg_is_approved(version, source, destination, turned):
    if turned:
        source, destination = (destination[0], source[1]), (source[0], destination[1])
    (found,) = decoded(flow(17, source, destination, OPENED, {}, last_seen=123, version=version))
    assert (found.family, found.protocol, found.last_seen) == (6 if ":" in source[0] else 4, 17, 123)
    assert (found.source, found.destination) == (Side(*source), Side(*destination))
    assert found.half_approved
    assert (found.forth.packets, found.back.packets) == ((None, None) if version == 2 else (10, 0))
    assert not found.replied
    assert found.service is None


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
def test_a_flow_to_a_service_is_its_reverse_entry_and_not_the_forward_one(version, source, destination, turned):
    if turned:
        source, destination = (destination[0], source[1]), (source[0], destination[1])
    service = ("10.96.0.7" if ":" not in source[0] else "fd00:96::7", 80)
    (found,) = decoded(
        forward(6, source, service, destination, version=version),
        flow(6, source, destination, OPENED, {}, service=service, version=version),
    )
    assert (found.source, found.destination, found.service) == (Side(*source), Side(*destination), Side(*service))
    assert found.half_approved


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
    entry = flow(6, A, B, {"bits": forth | OPENER}, {"bits": back})
    (found,) = decoded(entry)
    assert (state_of(entry), found.timeout) == (state, timeout)
    assert state_of(flow(6, A, B, {"bits": forth | OPENER}, {"bits": back}, service=("10.96.0.7", 80))) == NAT_REVERSE


@pytest.mark.parametrize(("protocol", "timeout"), [(17, 60), (1, 5), (58, 5), (132, 600), (47, 600)])
@pytest.mark.parametrize(("packets", "state"), [(0, UNREPLIED), (3, ESTABLISHED)])
def test_other_flows_are_established_by_a_reply(protocol, timeout, packets, state):
    entry = flow(protocol, A, B, OPENED, {"packets": packets})
    (found,) = decoded(entry)
    assert (state_of(entry), found.timeout, found.replied) == (state, timeout, packets > 0)


def test_each_bit_of_a_leg_says_one_thing():
    every = (SYN, ACK, FIN, RST, APPROVED, OPENER, WORKLOAD)
    assert [bit for bit in every if Leg(bit).approved] == [APPROVED]
    assert [bit for bit in every if Leg(bit).opener] == [OPENER]
    assert Leg(SYN | ACK).established
    assert not any(Leg(bit).established for bit in every)


def test_one_of_the_32_flags_says_who_opened_the_flow():
    legs = {"bits": APPROVED}, {"bits": 0}
    for flags in (0, 0x89ABCDEF & ~0x100):
        (found,) = decoded(flow(17, B, A, *legs, flags=flags))
        assert (found.source, found.forth.bits) == (Side(*B), APPROVED)


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
        assert one.timeout > 0
        assert one.half_approved in (True, False)
        assert one.family == (4 if sizes[0] == 16 else 6)


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
    decoded = [
        (one.protocol, packed(one.source.address), packed(one.destination.address), one.half_approved)
        for one in decode_conntrack(rows)
    ]
    scanned = [(protocol, *rest) for protocol, state, *rest in scan_conntrack(rows) if state != NAT_FORWARD]
    assert scanned == decoded


def test_a_scan_has_the_addresses_of_the_key_and_says_where_the_type_is_unknown():
    key, value = flow(17, A, B, OPENED, {})
    ((protocol, state, *ends, half),) = scan_conntrack(columns((key, value[:16] + b"\3" + value[17:])))
    assert (protocol, state, half, set(ends)) == (17, "unknown", False, {packed(A[0]), packed(B[0])})
