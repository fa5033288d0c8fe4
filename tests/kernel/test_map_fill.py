"""The fill of real maps: by memory, by count, and of maps that cannot be read."""

import os
import time

import pytest

from exporter.bpf.accounting import tells_entries
from exporter.bpf.maps import MapInfo
from exporter.bpf.readers import open_reader
from exporter.snapshot.map_fill import MapCounts
from exporter.snapshot.source import LiveNode
from tests.faults.conftest import known_node, start  # noqa: F401  fixtures
from tests.kernel.machine import sample, success
from tests.kernel.pinned import HASH, LPM_TRIE, NO_PREALLOC, u32, u64
from tests.service_tables import APPROVED, OPENER, flow

pytestmark = pytest.mark.kernel
LRU_HASH = 9
FLOW = (16, 88)
COUNTED = "calico_bpf_map_counted_timestamp_seconds"


@pytest.fixture
def source(bpf_fs, tmp_path):
    return LiveNode(open_reader("libbpf"), bpf_fs, tmp_path)


@pytest.fixture
def fills(source):
    """The fill of each pinned map by what `counts` knows."""
    return lambda counts: {(one.map, one.ip_family): one for one in counts.fills(source, source.pin_names())}


def put_flows(made, numbers):
    made.fill({u64(number, number): (u64(*([number] * 11)),) for number in numbers})


def put_prefixes(made, numbers):
    made.fill({u32(32, number): (u64(number),) for number in numbers})


def test_the_memory_of_maps_without_preallocation_follows_each_entry_after_one_count(make_map, source, fills):
    flows = make_map("cali_v4_ct3", HASH, *FLOW, max_entries=5000, flags=NO_PREALLOC)
    routes = make_map("cali_v4_routes", LPM_TRIE, 8, 8, max_entries=1000, flags=NO_PREALLOC)
    put_prefixes(routes, range(3))
    counts = MapCounts(background=True)
    for number in (3, 4):  # the first tells what a map without entries takes, the second confirms what an entry takes
        put_flows(flows, range(number))
        found = fills(counts)
        assert 5000 == found["conntrack", "4"].max_entries
        assert [None, 3][number - 3] == found["conntrack", "4"].entries
        list(counts.count_pinned(source))
    put_flows(flows, range(1000))
    put_prefixes(routes, range(500))
    found = fills(counts)
    assert (1000, None) == (found["conntrack", "4"].entries, found["conntrack", "4"].counted_at)
    assert (500, None) == (found["route", "4"].entries, found["route", "4"].counted_at)
    flows.delete(u64(7, 7))
    assert 999 == fills(counts)["conntrack", "4"].entries


def test_a_map_that_evicts_is_counted_and_has_the_time_of_the_count(make_map, source, fills):
    flows = make_map("cali_v6_ct4", LRU_HASH, 40, 128, max_entries=5000)
    flows.fill({u64(number, 0, 0, 0, 0): (bytes(128),) for number in range(300)})
    counts = MapCounts(background=True)
    assert fills(counts)["conntrack", "6"].entries is None
    list(counts.count_pinned(source))
    one = fills(counts)["conntrack", "6"]
    assert (300, 5000, True) == (one.entries, one.max_entries, one.evicts)
    assert one.counted_at


def test_elsewhere_than_in_the_server_a_snapshot_counts_by_itself(make_map, fills):
    put_flows(make_map("cali_v4_ct4", LRU_HASH, *FLOW, max_entries=500), range(40))
    assert 40 == fills(MapCounts())["conntrack", "4"].entries


def test_a_name_that_is_no_map_fails_alone_and_an_unknown_map_has_its_maximum(make_map, pins, bpf_fs, source, fills):
    put_flows(make_map("cali_v4_ct4", LRU_HASH, *FLOW, max_entries=500), range(4))
    make_map("cali_novel9", HASH, 4, 4, max_entries=33)
    absent = source.pin_names
    source.pin_names = lambda: [*absent(), "cali_v4_arp2"]
    found = fills(MapCounts())
    assert 4 == found["conntrack", "4"].entries
    assert (None, 33) == (found["cali_novel9", ""].entries, found["cali_novel9", ""].max_entries)
    assert "does not exist" in found["arp", "4"].problem


def test_the_server_counts_in_the_background_confined_and_as_often_as_it_is_told(known_node, start, make_map):  # noqa: F811
    evicting = make_map("cali_v4_ct4", LRU_HASH, *FLOW, max_entries=5000)
    routes = make_map("cali_v4_routes", LPM_TRIE, 8, 8, max_entries=1000, flags=NO_PREALLOC)
    put_flows(evicting, range(40))
    put_prefixes(routes, range(4))
    server = start(more=["--collector.maps.interval=1"])
    counted = {"map": "conntrack", "ip_family": "4"}

    def scrape_until(number):
        """The time of the first count with this many entries, and the entries of the map that is not counted."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            samples = server.scrape()
            if samples.get(sample("calico_bpf_map_entries", **counted)) == number:
                return samples[sample(COUNTED, **counted)], samples
            time.sleep(0.1)
        raise AssertionError(number)

    assert known_node.states
    first, _ = scrape_until(40)
    put_flows(evicting, range(300))
    put_prefixes(routes, range(50))
    asked = time.time()
    second, samples = scrape_until(300)
    assert first < second
    assert abs(second - asked) < 20
    if tells_entries(MapInfo("", 0, "", "lpm_trie", 8, 8, 1000, NO_PREALLOC), os.uname().release):
        route = {"map": "route", "ip_family": "4"}
        assert 50 == samples[sample("calico_bpf_map_entries", **route)]
        assert sample(COUNTED, **route) not in samples


def test_the_collector_of_connection_tracking_counts_beside_it(known_node, start, make_map):  # noqa: F811
    made = make_map("cali_v4_ct4", LRU_HASH, *FLOW, max_entries=5000)
    denied = {"bits": APPROVED | OPENER, "packets": 1}, {}
    flows = [flow(17, ("10.65.0.2", number), ("192.0.2.9", 53), *denied) for number in range(1, 31)]
    made.fill({key: (value,) for key, value in flows})
    server = start(more=["--collector.maps.interval=1", "--collector.conntrack"])
    wanted = sample("calico_bpf_conntrack_entries", ip_family="4", protocol="udp", state="unreplied")
    deadline = time.monotonic() + 20
    while (samples := server.scrape()).get(wanted) != 30:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 1 == success(samples)["conntrack"]
    assert known_node.states


def test_of_several_versions_that_no_program_uses_no_fill_is_told_but_that_it_is_not_known(make_map, fills):
    older, _ = (make_map(name, HASH, *FLOW, flags=NO_PREALLOC) for name in ("cali_v4_ct3", "cali_v4_ct4"))
    (found,) = fills(MapCounts()).values()
    assert (None, True) == (found.entries, "which of cali_v4_ct3, cali_v4_ct4" in found.problem)
    put_flows(older, [1 << 40])  # its second word is when the flow was last used
    (found,) = fills(MapCounts()).values()
    assert ("cali_v4_ct3", 1) == (found.pin, found.entries)
