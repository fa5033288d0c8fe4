"""Entries by accounted memory: nothing is told before a count has confirmed it, and nothing that does not agree."""

import pytest

from exporter.bpf.accounting import Accounting, MapUsage, tells_entries, usage_of
from exporter.bpf.maps import MapInfo, NotAMap

HEAD = 896
FLOW, TRIE = ("hash", 16, 88, 512_000), ("lpm_trie", 8, 8, 1000)
FDINFO = (
    b"pos:\t0\nmap_type:\t1\nkey_size:\t16\nvalue_size:\t88\nmax_entries:\t64\nmap_flags:\t0x1\nmemlock:\t2080\n"
    b"map_id:\t7\n"
)


def usage(shape, memory):
    kind, key_size, value_size, max_entries = shape
    return MapUsage(MapInfo("pin", 1, "", kind, key_size, value_size, max_entries, 1), memory)


def flows(number):
    """A hash map's memory on Linux 6.18 on amd64."""
    return usage(FLOW, HEAD + 16 * 524_288 + 160 * number)


def prefixes(number, node=24):
    return usage(TRIE, number * (node + 4 + 8))


@pytest.fixture
def checked():
    """What is known after these counts, each of a map at rest."""

    def checked(*counts):
        accounting = Accounting()
        for counted, one in counts:
            accounting.check(counted, one, one)
        return accounting

    return checked


def test_nothing_is_told_before_a_count():
    assert Accounting().entries(flows(5)) is None
    assert Accounting().entries(prefixes(5)) is None


@pytest.mark.parametrize("number", [0, 1, 77, 512_000])
def test_after_two_counts_the_memory_tells_the_entries_of_this_shape(checked, number):
    assert number == checked((3, flows(3)), (4, flows(4))).entries(flows(number))
    assert min(number, 1000) == checked((3, prefixes(3))).entries(prefixes(min(number, 1000)))


def test_the_count_that_told_a_hash_map_s_own_size_does_not_confirm_it(checked):
    wrong = usage(FLOW, flows(3).memory + 3 * 8)  # as where an entry takes one word more
    assert checked((3, wrong), (3, wrong)).entries(wrong) is None
    assert checked((3, wrong), (4, usage(FLOW, flows(4).memory + 4 * 8))).entries(wrong) is None
    other = ("hash", 8, 8, 1000)
    number = 5
    memory = HEAD + 16 * 1024 + 72 * number
    assert number == checked((3, flows(3)), (number, usage(other, memory))).entries(usage(other, memory))
    assert 3 == checked((3, flows(3)), (number, usage(other, memory))).entries(flows(3))


def test_on_a_machine_of_many_cpus_a_hash_map_s_own_size_is_larger():
    many = 900 + 4 * 8 * 4096 + 4
    accounting = Accounting()
    for number in (0, 3):
        one = usage(FLOW, many + 16 * 524_288 + 160 * number)
        accounting.check(number, one, one)
    assert 3 == accounting.entries(one)


def test_the_larger_node_of_older_kernels_is_found_by_the_count(checked):
    assert 9 == checked((3, prefixes(3, node=40))).entries(prefixes(9, node=40))


def test_an_empty_map_tells_its_base_and_not_the_size_of_an_entry(checked):
    accounting = checked((0, flows(0)))
    assert 0 == accounting.entries(flows(0))
    assert accounting.entries(flows(4)) is None
    accounting.check(4, flows(4), flows(4))
    assert 5 == accounting.entries(flows(5))


@pytest.mark.parametrize("counted", [0, 2, 4, 100])
def test_a_count_that_disagrees_confirms_nothing(checked, counted):
    accounting = checked((0, flows(0)), (counted, flows(3)))
    assert accounting.entries(flows(9)) is None


def test_memory_that_is_no_whole_number_of_entries_is_not_used_and_asks_for_another_count(checked):
    accounting = checked((3, flows(3)), (4, flows(4)))
    assert accounting.entries(usage(FLOW, flows(3).memory + 8)) is None
    assert accounting.entries(flows(3)) is None


@pytest.mark.parametrize(("counted", "confirmed"), [(10_050, True), (9_900, True), (11_000, False), (9_000, False)])
def test_a_map_that_changes_while_it_is_counted_may_differ_little(checked, counted, confirmed):
    accounting = checked((0, flows(0)))
    accounting.check(counted, flows(10_000), flows(10_020))
    assert confirmed == (accounting.entries(flows(7)) == 7)


def test_a_map_that_was_replaced_meanwhile_confirms_nothing():
    accounting = Accounting()
    accounting.check(3, flows(3), usage(("hash", 16, 88, 1024), flows(3).memory))
    assert Accounting() == accounting


@pytest.mark.parametrize(
    ("kind", "flags", "release", "tells"),
    [
        ("hash", 1, "6.4.0-1-amd64", True),
        ("lpm_trie", 1, "6.18.44", True),
        ("hash", 1, "7.0", True),
        ("hash", 1, "6.3.13", False),
        ("hash", 1, "5.15.0", False),
        ("hash", 0, "6.18", False),
        ("lru_hash", 0, "6.18", False),
        ("percpu_hash", 1, "6.18", False),
        ("hash", 1, "odd", False),
    ],
)
def test_the_memory_tells_something_from_linux_6_4_on_without_preallocation(kind, flags, release, tells):
    assert tells == tells_entries(MapInfo("pin", 1, "", kind, 16, 88, 64, flags), release)


def test_the_text_of_a_descriptor_gives_shape_and_memory(monkeypatch):
    monkeypatch.setattr("os.uname", lambda: type("Uname", (), {"release": "6.18"}))
    assert MapUsage(MapInfo("pin", 7, "", "hash", 16, 88, 64, 1), 2080) == usage_of("pin", FDINFO)


@pytest.mark.parametrize(
    "text", [b"", b"pos:\t0\n", FDINFO.replace(b"map_id", b"prog_id"), FDINFO.replace(b"16", b"x")]
)
def test_the_text_of_anything_else_is_no_map(text):
    with pytest.raises(NotAMap):
        usage_of("pin", text)
