import ipaddress
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico import LayoutError
from exporter.calico.ip_sets import decode_ip_sets

WORDS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


def key(number, member, port=0, protocol=0):
    """A key as `MakeBPFIPSetEntry` in felix/bpf/ipsets makes it."""
    net = ipaddress.ip_network(member)
    length = 64 + (net.prefixlen if protocol == 0 else net.max_prefixlen + 24)
    head = struct.pack("<I", length) + struct.pack(">Q", number) + net.network_address.packed
    return head + struct.pack("<HBB", port, protocol, 0)


def columns(*keys, size=20):
    return b"".join(keys), size


@pytest.mark.parametrize(
    ("arguments", "size", "expected"),
    [
        (("10.65.0.2/32",), 20, "10.65.0.2/32"),
        (("10.0.0.0/8",), 20, "10.0.0.0/8"),
        (("0.0.0.0/0",), 20, "0.0.0.0/0"),
        (("10.65.0.2", 8080, 6), 20, "10.65.0.2:8080/tcp"),
        (("10.65.0.2", 53, 17), 20, "10.65.0.2:53/udp"),
        (("10.65.0.2", 1, 132), 20, "10.65.0.2:1/sctp"),
        (("10.65.0.2", 0, 47), 20, "10.65.0.2:0/protocol 47"),
        (("10.65.0.2", 65535, 255), 20, "10.65.0.2:65535/protocol 255"),
        (("fd00:65::2/128",), 32, "fd00:65::2/128"),
        (("::/0",), 32, "::/0"),
        (("fd00:65::2", 8080, 6), 32, "[fd00:65::2]:8080/tcp"),
    ],
)
def test_a_member_is_a_net_or_an_address_with_port_and_protocol(arguments, size, expected):
    assert {0x1A2B: (expected,)} == decode_ip_sets(*columns(key(0x1A2B, *arguments), size=size))


def test_a_key_is_read_byte_by_byte():
    raw = bytes.fromhex("78000000 0102030405060708 0a410002 901f 06 00")
    assert {0x0102030405060708: ("10.65.0.2:8080/tcp",)} == decode_ip_sets(*columns(raw))


# The kernel's trie takes no such key.
def test_a_length_below_that_of_the_number_is_shown_as_what_it_says():
    assert {0: ("0.0.0.0/-64",)} == decode_ip_sets(bytes(20), 20)


def test_an_empty_map_has_no_sets():
    assert {} == decode_ip_sets(*columns())
    assert {} == decode_ip_sets(*columns(size=32))


def test_members_come_by_address_and_not_by_their_text():
    nets = ["9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.9/32", "10.0.0.10/32", "192.168.0.0/16"]
    found = decode_ip_sets(*columns(*(key(7, net) for net in reversed(nets))))
    assert [net.split("/")[0] for net in nets] == [one.split("/")[0] for one in found[7]]
    assert sorted(nets) == sorted(found[7])


ADDRESSES = {20: st.ip_addresses(v=4), 32: st.ip_addresses(v=6)}
NUMBERS = st.integers(0, (1 << 64) - 1)


@st.composite
def members(draw, size):
    """A set's number, the arguments of a key, and how the member is shown."""
    number, address = draw(st.integers(0, 3) | NUMBERS), draw(ADDRESSES[size])
    if draw(st.booleans()):
        length = draw(st.integers(0, address.max_prefixlen))
        net = ipaddress.ip_network((address, length), strict=False)
        return number, (net,), str(net)
    port, protocol = draw(st.integers(0, 65535)), draw(st.sampled_from([*WORDS]) | st.integers(1, 255))
    shown = f"[{address}]" if size == 32 else str(address)
    return number, (address, port, protocol), f"{shown}:{port}/{WORDS.get(protocol, f'protocol {protocol}')}"


@pytest.mark.parametrize("size", [20, 32])
@given(st.data())
def test_any_members_are_those_of_their_set_in_any_order_of_keys(size, data):
    drawn = data.draw(st.lists(members(size), unique_by=lambda one: (one[0], one[2])))
    keys = [key(number, *arguments) for number, arguments, _ in drawn]
    found = decode_ip_sets(*columns(*keys, size=size))
    expected = {number: sorted(shown for one, _, shown in drawn if one == number) for number, _, _ in drawn}
    assert expected == {number: sorted(shown) for number, shown in found.items()}
    random.Random(len(keys)).shuffle(keys)
    assert found == decode_ip_sets(*columns(*keys, size=size))


@pytest.mark.parametrize("size", [0, 8, 12, 19, 21, 31, 33])
def test_keys_of_another_size_are_an_error_that_says_so(size):
    with pytest.raises(LayoutError, match=f"keys of {size} bytes, expected 20 or 32"):
        decode_ip_sets(bytes(3 * size), size)


@given(st.data(), st.integers(0, 5), st.sampled_from([20, 32]) | st.integers(0, 40))
def test_any_bytes_of_any_shape_are_sets_or_a_layout_error(data, count, size):
    keys = data.draw(st.binary(min_size=count * size, max_size=count * size))
    try:
        found = decode_ip_sets(keys, size)
    except LayoutError:
        assert size not in {20, 32}
        return
    assert count == sum(map(len, found.values()))
    assert all(one.isascii() and one.isprintable() for shown in found.values() for one in shown)
