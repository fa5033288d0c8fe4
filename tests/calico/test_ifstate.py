import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico import LayoutError
from exporter.calico.ifstate import InterfaceState, check_ifstate_fits, check_ifstate_sizes, decode_ifstate
from exporter.calico.tables import Columns

# Recorded with v3.32.1: eth0, a workload, lo; Calico's own tool printed the flags beside them.
RECORDED = {
    "030000000e00000065746830000000000000000000000000020000000200000002000000030000000300000003000000"
    "ffffffffffffffff": InterfaceState(3, "eth0", 0xE, (2, 2, 2, 3, 3, 3)),  # v4Ready,v6Ready,host
    "050000000700000063616c69626633333161393838636600ffffffff0800000008000000ffffffff0900000009000000"
    "ffffffffffffffff": InterfaceState(5, "calibf331a988cf", 0x7, (-1, 8, 8, -1, 9, 9)),  # workload,v4Ready,v6Ready
    "010000000e0000006c6f000000000000000000000000000000000000000000000000000001000000010000000100"
    "0000ffffffffffffffff": InterfaceState(1, "lo", 0xE, (0, 0, 0, 1, 1, 1)),
}


def columns(*entries, size=52):
    """The columns of entries (ifindex, flags, raw name of 16 bytes)."""
    keys = b"".join(struct.pack("<I", ifindex) for ifindex, _, _ in entries)
    values = b"".join(struct.pack("<I16s", flags, name).ljust(size, b"\xff") for _, flags, name in entries)
    return Columns(keys, values, 4, size)


def name_of(raw):
    return decode_ifstate(columns((1, 0, raw)))[0].name


def test_recorded_entries_decode_by_index():
    raw = [bytes.fromhex(row) for row in RECORDED]
    recorded = Columns(b"".join(row[:4] for row in raw), b"".join(row[4:] for row in raw), 4, 52)
    expected = tuple(sorted(RECORDED.values(), key=lambda state: state.ifindex))
    assert expected == decode_ifstate(recorded)


@pytest.mark.parametrize("size", [20, 21, 39, 40, 48, 52, 56, 60, 64, 128])
def test_every_size_has_flags_and_name_in_front(size):
    given = columns((9, 0x407, b"cali14a81566bd7\0"), (2, 1, b"x".ljust(16, b"\0")), size=size)
    policies = (-1,) * 6 if size == 52 else ()
    expected = (InterfaceState(2, "x", 1, policies), InterfaceState(9, "cali14a81566bd7", 0x407, policies))
    assert expected == decode_ifstate(given)


@pytest.mark.parametrize(
    ("key_size", "value_size"),
    [(4, 0), (4, 4), (4, 19), (0, 52), (8, 52), (12, 20)],
)
def test_other_sizes_are_a_layout_error_that_names_them(key_size, value_size):
    with pytest.raises(LayoutError, match=f"keys of {key_size} and values of {value_size} bytes"):
        check_ifstate_sizes(key_size, value_size)
    with pytest.raises(LayoutError):
        decode_ifstate(Columns(bytes(key_size), bytes(value_size), key_size, value_size))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"eth0" + bytes(12), "eth0"),
        (bytes(16), ""),
        (b"\0eth0" + bytes(11), ""),
        (b"eth0\0left over..", "eth0"),
        (b"sixteen bytes...", "sixteen bytes..."),
        (b"a\nb\x1b[31m\x7f".ljust(16, b"\0"), "a\nb\x1b[31m\x7f"),
        ("café".encode().ljust(16, b"\0"), "café"),
        (b"caf\xe9".ljust(16, b"\0"), "caf\\xe9"),
        (b"\xff\xfe".ljust(16, b"\0"), "\\xff\\xfe"),
        (b"\xed\xa0\x80".ljust(16, b"\0"), "\\xed\\xa0\\x80"),  # a lone surrogate in disguise
    ],
)
def test_a_name_ends_at_the_first_nul_and_odd_bytes_appear_escaped(raw, expected):
    assert expected == name_of(raw)


@given(st.binary(min_size=16, max_size=16))
def test_any_name_can_be_written_as_utf_8(raw):
    assert "\0" not in name_of(raw)
    assert name_of(raw).encode("utf-8") is not None


@pytest.mark.parametrize(
    ("flags", "workload", "managed", "bond_slave", "ready4", "ready6"),
    [
        (0x000, False, True, False, False, False),
        (0x001, True, True, False, False, False),
        (0x003, True, True, False, True, False),
        (0x005, True, True, False, False, True),
        (0x007, True, True, False, True, True),
        (0x00E, False, True, False, True, True),
        (0x02E, False, True, True, True, True),
        (0x400, False, False, False, False, False),
        (0xFFFFFFFF, True, False, True, True, True),
    ],
)
def test_each_flag_has_its_bit(flags, workload, managed, bond_slave, ready4, ready6):
    state = InterfaceState(1, "x", flags)
    assert (workload, managed, bond_slave) == (state.workload, state.managed, state.bond_slave)
    assert (ready4, ready6) == (state.ready(4), state.ready(6))


def test_an_empty_map_is_no_interface():
    assert () == decode_ifstate(Columns(b"", b"", 4, 52))


LO, ETH0 = InterfaceState(1, "lo", 0xE), InterfaceState(3, "eth0", 0xE)
POD5, POD7 = InterfaceState(5, "cali5", 0x7), InterfaceState(7, "cali7", 0x7)
LINKS = {1: "lo", 3: "eth0", 5: "cali5", 7: "cali7"}
NODE = (LO, ETH0, POD5, POD7)


@pytest.mark.parametrize(
    "states",
    [
        NODE,
        (),
        (POD5,),
        (LO, InterfaceState(5, "gone0", 0x7)),
        (*NODE, *(InterfaceState(index, f"cali{index}", 0x7) for index in range(100, 140))),  # left over
        (LO, ETH0, POD5, InterfaceState(7, "cali7", 0x400)),
        (InterfaceState(5, "cali5", 0xE),),
    ],
)
def test_entries_that_do_not_contradict_the_kernel_fit(states):
    check_ifstate_fits(states, LINKS, ("cali",))
    check_ifstate_fits(states, {}, ("cali",))


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ([InterfaceState(one.ifindex, one.name[1:], one.flags) for one in NODE], "names none of 4"),
        ([InterfaceState(one.ifindex, "", 0) for one in NODE], "names none of 4"),
        ([InterfaceState(one.ifindex, one.name, 0) for one in NODE], "flags 0 of 2 workload"),
        ([InterfaceState(1, "lo", 0x7), ETH0, POD5, POD7], "loopback"),
    ],
)
def test_entries_that_contradict_the_kernel_are_a_layout_error(states, why):
    with pytest.raises(LayoutError, match=why):
        check_ifstate_fits(states, LINKS, ("cali",))
    check_ifstate_fits(states, {}, ("cali",))


@st.composite
def any_columns(draw):
    count, key_size = draw(st.integers(0, 4)), draw(st.integers(0, 12) | st.just(4))
    value_size = draw(st.integers(0, 80) | st.sampled_from([20, 40, 52]))
    keys, values = (draw(st.binary(min_size=count * size, max_size=count * size)) for size in (key_size, value_size))
    return count, Columns(keys, values, key_size, value_size)


def decodes_or_is_a_layout_error(count, given):
    try:
        states = decode_ifstate(given)
    except LayoutError:
        return
    assert count == len(states)
    assert sorted(states, key=lambda state: state.ifindex) == list(states)


@given(any_columns())
def test_any_bytes_of_any_size_are_interfaces_or_a_layout_error(anything):
    decodes_or_is_a_layout_error(*anything)


# No reader makes such columns, but a bundle could.
def test_columns_without_a_value_are_a_layout_error():
    with pytest.raises(LayoutError):
        decode_ifstate(Columns(bytes(8), b"", 4, 0))
