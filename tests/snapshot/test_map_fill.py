"""The fill of maps: what a snapshot has when it counts by itself, and what it has of the server's counts."""

import pytest

from exporter.bpf.maps import MapDenied, MapDump, MapError, MapInfo, ProgramInfo
from exporter.snapshot.map_fill import MapCounts
from tests.nodes import FakeNode


def flows(name, number, entries):
    info = MapInfo(name, number, name, "lru_hash", 16, 88, 512, 0)
    return MapDump(info, bytes(16 * entries), bytes(88 * entries))


def array(program):
    """A program array with one program."""
    info = MapInfo("cali_progs_ing2", 90, "cali_progs_ing2", "prog_array", 4, 4, 10, 0)
    return MapDump(info, bytes(4), program.to_bytes(4, "little"))


@pytest.fixture
def upgraded():
    """A node whose only program uses the older of two pinned maps."""
    maps = [flows("cali_v4_ct3", 3, 30), flows("cali_v4_ct4", 4, 40), array(7)]
    return FakeNode(maps, programs=[ProgramInfo(7, 1, (3,))])


def entries(fills):
    return {one.pin: one.entries for one in fills}


def test_of_several_versions_the_one_that_programs_use_is_shown_and_they_are_asked_at_counts_only(upgraded):
    counts = MapCounts(background=True)
    assert () == counts.fills(upgraded, upgraded.pin_names())
    list(counts.count_pinned(upgraded))
    upgraded.asked.clear()
    assert {"cali_v4_ct3": 30} == entries(counts.fills(upgraded, upgraded.pin_names()))
    assert {"pin_names": 1} == upgraded.asked


@pytest.mark.parametrize(
    ("older", "newer", "known"),
    [
        (10**9, 10**12, {"cali_v4_ct4": 1}),
        (10**12, 10**9, {"cali_v4_ct3": 1}),
        (10**12, 10**12 + 10**9, {}),
        (0, 0, {}),
    ],
)
def test_where_no_program_tells_the_flows_that_were_used_last_do_if_clearly(upgraded, older, newer, known):
    upgraded.facts["programs"] = MapDenied("refused")
    upgraded.maps = {name: flow(name, used) for name, used in (("cali_v4_ct3", older), ("cali_v4_ct4", newer))}
    fills = MapCounts().fills(upgraded, upgraded.pin_names())
    assert known == {one.pin: one.entries for one in fills if not one.problem}
    undecided = [one.problem for one in fills if one.problem]
    sentence = "which of cali_v4_ct3, cali_v4_ct4 Calico uses now is not known, nor how full it is"
    assert ([] if known else [sentence]) == undecided


def flow(name, used):
    """A map with one entry, last used at this time."""
    info = MapInfo(name, int(name[-1]), name, "lru_hash", 16, 88, 512, 0)
    return MapDump(info, bytes(16), bytes(8) + used.to_bytes(8, "little") + bytes(72))


def test_a_map_that_is_pinned_no_more_is_forgotten_and_a_recreated_one_counted_again(upgraded):
    counts = MapCounts(background=True)
    list(counts.count_pinned(upgraded))
    upgraded.maps["cali_v4_ct3"] = flows("cali_v4_ct3", 5, 1)
    upgraded.maps.pop("cali_v4_ct4")
    list(counts.count_pinned(upgraded))
    assert {"cali_v4_ct3": 1} == entries(counts.fills(upgraded, upgraded.pin_names()))
    upgraded.maps.pop("cali_v4_ct3")
    list(counts.count_pinned(upgraded))
    assert {} == counts.counts


def test_what_cannot_be_listed_or_read_is_not_counted_and_ends_nothing(upgraded):
    counts = MapCounts(background=True)
    upgraded.facts["pin_names"] = MapError("refused")
    list(counts.count_pinned(upgraded))
    assert {} == counts.counts
    upgraded.facts["pin_names"] = ["cali_v4_arp2", "cali_v6_ct4"]
    upgraded.maps["cali_v6_ct4"] = flows("cali_v6_ct4", 6, 2)
    list(counts.count_pinned(upgraded))
    assert {"cali_v6_ct4"} == set(counts.counts)
    (absent, counted) = counts.fills(upgraded, upgraded.pin_names())
    assert (None, True, 2) == (absent.entries, bool(absent.problem), counted.entries)
    upgraded.maps["cali_v4_arp2"] = MapDenied("refused", "run as root")
    (refused, _) = counts.fills(upgraded, upgraded.pin_names())
    assert ("refused", "run as root") == (refused.problem, refused.remedy)
