import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico import LayoutError
from exporter.calico.nat import Affinity, Backend, Frontend, decode_affinity, decode_backends, decode_frontends
from exporter.calico.tables import Columns
from tests.service_tables import affinity, backend, columns, frontend, recorded

# What the README of the recording says, with the ids that the node gave.
SERVICES = {
    ("10.96.0.1", 443, 6): (0, [("10.99.0.1", 6443)]),
    ("10.96.0.10", 53, 17): (1, [("10.244.145.192", 53)]),
    ("10.96.0.10", 53, 6): (2, [("10.244.145.192", 53)]),
    ("10.96.0.10", 9153, 6): (3, [("10.244.145.192", 9153)]),
    ("10.96.86.233", 80, 6): (7, []),
    ("10.96.143.136", 80, 6): (5, [("10.244.145.194", 8080)]),
    ("10.96.143.136", 5300, 17): (6, [("10.244.145.194", 5300)]),
    ("10.96.42.230", 80, 6): (4, [("10.244.145.199", 8080), ("10.244.145.200", 8080)]),
    ("10.99.0.2", 30080, 6): (4, [("10.244.145.199", 8080), ("10.244.145.200", 8080)]),
    ("255.255.255.255", 30080, 6): (4, [("10.244.145.199", 8080), ("10.244.145.200", 8080)]),
}


def test_a_real_nodes_frontends_and_backends_are_its_services():
    frontends = decode_frontends(recorded("cali_v4_nat_fe3"))
    backends = decode_backends(recorded("cali_v4_nat_be"))
    found = {
        (one.address, one.port, one.protocol): (one.id, [(to.address, to.port) for to in backends.get(one.id, ())])
        for one in frontends
    }
    assert found == SERVICES
    assert {one.count for one in frontends if one.id == 4} == {2}
    assert all(one.count == len(backends.get(one.id, ())) for one in frontends)
    assert all(
        (one.source_range, one.source_bits, one.affinity, one.flags) == ("0.0.0.0/0", 0, 0, 0) for one in frontends
    )
    assert {one.id: one.local for one in frontends} == {0: 0, 1: 1, 2: 1, 3: 1, 4: 2, 5: 1, 6: 1, 7: 0}
    assert decode_affinity(recorded("cali_v4_nat_aff")) == ()


def test_an_entry_is_read_byte_by_byte():
    key = bytes.fromhex("48000000 0a602ae6 5000 06 c0a80000 00")
    value = bytes.fromhex("04000000 03000000 01000000 302a0000 03000000")
    expected = Frontend("10.96.42.230", 80, 6, "192.168.0.0/16", 16, 4, 3, 1, 10800, 3)
    assert decode_frontends(columns((key, value))) == (expected,)
    assert (expected.external_local, expected.internal_local, expected.excluded) == (True, True, False)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (0, 1, 0)), (4, (0, 0, 1)), (8, (0, 0, 0))],
)
def test_each_flag_has_its_bit(flags, expected):
    (one,) = decode_frontends(columns(frontend("10.96.0.1", 443, 6, 0, 1, flags=flags)))
    assert (one.external_local, one.internal_local, one.excluded) == tuple(map(bool, expected))


def test_an_entry_outside_the_source_ranges_drops():
    rows = decode_frontends(
        columns(
            frontend("10.96.0.7", 80, 6, 9, 0xFFFFFFFF),
            frontend("10.96.0.7", 80, 6, 9, 2, source="192.168.0.0/16"),
            frontend("10.96.0.7", 80, 6, 9, 2, source="192.168.7.0/24"),
        )
    )
    assert [(one.source_range, one.drops) for one in rows] == [
        ("192.168.7.0/24", False),
        ("192.168.0.0/16", False),
        ("0.0.0.0/0", True),
    ]


def test_affinity_binds_a_client_to_a_backend():
    v4 = affinity("10.96.0.7", 80, 6, "10.65.0.2", "10.65.0.9", 8080, 1 << 40)
    assert decode_affinity(columns(v4)) == (Affinity("10.96.0.7", 80, 6, "10.65.0.2", Backend("10.65.0.9", 8080)),)
    v6 = affinity("fd00:96::7", 80, 6, "fd00:65::2", "fd00:65::9", 8080, 5)
    assert (len(v6[0]), len(v6[1])) == (40, 32)
    assert decode_affinity(columns(v6)) == (Affinity("fd00:96::7", 80, 6, "fd00:65::2", Backend("fd00:65::9", 8080)),)


@pytest.mark.parametrize(("size", "sizes"), [(4, ((16, 20), (8, 8))), (6, ((40, 20), (8, 20)))])
@given(data=st.data())
def test_any_services_are_decoded_in_any_order_of_entries(size, sizes, data):
    numbers, port = st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFF)
    address = st.ip_addresses(v=size).map(str)
    row = st.tuples(address, port, st.integers(0, 255), numbers, numbers)
    drawn = data.draw(st.lists(row, unique_by=lambda one: one[:3]))
    entries = [frontend(*one) for one in drawn]
    found = decode_frontends(columns(*entries, sizes=sizes[0]))
    assert sorted((one.address, one.port, one.protocol, one.id, one.count) for one in found) == sorted(drawn)
    random.Random(1).shuffle(entries)
    assert found == decode_frontends(columns(*entries, sizes=sizes[0]))

    to = data.draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), address, port), unique_by=lambda one: one[:2])
    )
    backends = decode_backends(columns(*(backend(*one) for one in to), sizes=sizes[1]))
    expected = [(one.address, one.port) for number in sorted(backends) for one in backends[number]]
    assert expected == [one[2:] for one in sorted(to)]


SIZES = st.sampled_from([8, 16, 20, 32, 40]) | st.integers(0, 50)


@pytest.mark.parametrize("decode", [decode_frontends, decode_backends, decode_affinity])
@given(st.binary(max_size=200), st.binary(max_size=200), SIZES, SIZES)
def test_any_bytes_are_a_table_or_a_layout_error(decode, keys, values, key_size, value_size):
    try:
        found = decode(Columns(keys, values, key_size, value_size))
    except LayoutError:
        return
    assert len(found) <= len(keys) // key_size


@pytest.mark.parametrize("decode", [decode_frontends, decode_backends, decode_affinity])
def test_other_sizes_and_columns_cut_off_are_errors_that_say_so(decode):
    with pytest.raises(LayoutError, match="keys of 12 and values of 20 bytes, expected"):
        decode(Columns(bytes(12), bytes(20), 12, 20))
    with pytest.raises(LayoutError, match="15 bytes of keys and 20 of values"):
        decode_frontends(Columns(bytes(15), bytes(20), 16, 20))
    with pytest.raises(LayoutError, match="16 bytes of keys and 8 of values"):
        decode_backends(Columns(bytes(16), bytes(8), 8, 8))
