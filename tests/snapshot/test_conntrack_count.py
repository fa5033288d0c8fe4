"""What the server counts of connection tracking: when, and once for both collectors."""

import time

from exporter.cli.serving import background_counts
from exporter.snapshot.map_fill import MapCounts
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading
from exporter.snapshot.settings import Settings
from tests.snapshot.test_conntrack import COUNTS, FLOWS, counted, node  # noqa: F401  a fixture


def test_a_count_has_the_time_of_each_family(node):  # noqa: F811
    before = time.time()
    found = counted(Memory(), node).get().counted_at
    assert {4, 6} == found.keys()
    assert before <= found[4] <= found[6] <= time.time()


def rounds(source, collectors):
    """What the server counts for these collectors, round by round; how often each map was read, and the memory."""
    memory = Memory(map_counts=MapCounts(background=True))
    counts = background_counts(collectors, lambda: Reading(source, Settings(), memory), source, memory)
    while True:
        source.asked.clear()
        for count in counts:
            list(count())
        yield {name: source.asked[f"batches {name}"] for name in ("cali_v4_ct4", "cali_v6_ct4")}, memory


def of_the_maps(memory, source):
    return {
        one.pin: (one.entries, one.counted_at is not None) for one in memory.map_counts.fills(source, [*source.maps])
    }


def test_two_collectors_read_connection_tracking_once(node):  # noqa: F811
    asked, memory = next(rounds(node, {"maps", "conntrack"}))
    assert {"cali_v4_ct4": 1, "cali_v6_ct4": 1} == asked
    assert COUNTS == memory.conntrack_count.get().counts
    alone, other = next(rounds(node, {"maps"}))
    assert asked == alone
    assert other.conntrack_count.get() is None
    assert of_the_maps(other, node) == of_the_maps(memory, node)
    assert (len(FLOWS), True) == of_the_maps(memory, node)["cali_v4_ct4"]


def test_entries_that_cannot_be_decoded_are_counted_all_the_same(node, make):  # noqa: F811
    node.maps["cali_v4_ct4"] = make.table(
        "cali_v4_ct4", 84, "lru_hash", *[(bytes([one] * 16), bytes(3)) for one in range(5)]
    )
    every = rounds(node, {"maps", "conntrack"})
    _, memory = next(every)
    assert memory.conntrack_count.error
    next(every)
    assert (5, True) == of_the_maps(memory, node)["cali_v4_ct4"]
