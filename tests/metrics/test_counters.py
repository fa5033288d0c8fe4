"""Collector `counters`: which slot becomes which series, which zeros are shown, and that nothing read is lost."""

import gc
import tracemalloc
from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.bpf.maps import MapError, MapMissing
from exporter.calico import LayoutError
from exporter.calico.counters import SLOTS
from exporter.calico.layout_file import parse_layout_file
from exporter.metrics import counters
from exporter.metrics.collector import ZEROS, CollectorOptions
from exporter.metrics.counters import CountersCollector
from exporter.metrics.exposition import TEXT, render
from exporter.node import NodeError
from exporter.snapshot.memory import Memory
from tests.metrics.conftest import rows_of
from tests.recorded import NAMES, law_of_recordings

DECIDED = [name for name in NAMES if name.startswith("v")]

INGRESS, EGRESS, XDP = 0, 1, 2
WORKLOAD, READY, HOST, UNMANAGED = 0x1, 0x6, 0x8, 0x400
POD = ("cali1", WORKLOAD | READY)
ETH0 = ("eth0", HOST | READY)
FROM_POD = ("cali1", "tc_ingress", "outbound", "", "")
TO_POD = ("cali1", "tc_egress", "inbound", "", "")
INTO_NODE = ("eth0", "tc_ingress", "inbound", "", "")
OUT_OF_NODE = ("eth0", "tc_egress", "outbound", "", "")
AT_XDP = ("eth0", "xdp", "inbound", "", "")

# What a workload shows at one hook from the start, so that the first increase of each is seen.
CORE = {
    (counters.PROGRAM_PACKETS.name, ()),
    (counters.ACCEPTED_FLOWS.name, ("policy",)),
    (counters.DROPPED_PACKETS.name, ("policy",)),
}
ACCEPTED_FLOWS, ACCEPTED_PACKETS = counters.ACCEPTED_FLOWS, counters.ACCEPTED_PACKETS


@pytest.fixture
def collect(node, snapshot_of):
    """The samples of the collector over a node made of these facts."""

    def run(entries, states=None, zeros="core", settings=None, change=lambda source: None, **facts):
        source = node(entries, states, **facts)
        change(source)
        snapshot = snapshot_of(source, parts=CountersCollector.parts, **(settings or {}))
        return CountersCollector(CollectorOptions(zeros=zeros)).collect(snapshot)

    return run


@pytest.fixture(scope="session")
def shown(rows):
    """{(family, further label values): value} of one endpoint at one hook."""

    def of(samples, endpoint):
        return {(name, labels[5:]): value for name, labels, value in rows(samples) if labels[:5] == endpoint}

    return of


def numbers_of(samples):
    """The values of all samples that belong to an endpoint."""
    gauges = (counters.UNKNOWN_INTERFACES.name, counters.LEFTOVER_ENTRIES.name)
    return [value for name, _, value in rows_of(samples) if name not in gauges]


def leftovers(samples):
    return [value for name, _, value in rows_of(samples) if name == counters.LEFTOVER_ENTRIES.name]


@pytest.fixture(scope="session")
def numbers():
    return numbers_of


@pytest.mark.parametrize("slot", [slot for slot in SLOTS if slot.category == "dropped"], ids=lambda one: one.reason)
def test_a_drop_slot_is_dropped_packets_by_its_reason(collect, series, slot, numbers):
    samples = collect({(5, INGRESS): {slot.number: 7}}, {5: POD}, zeros="none")
    assert {(*FROM_POD, slot.reason): 7} == series(samples, counters.DROPPED_PACKETS)
    assert [7] == numbers(samples)


@pytest.mark.parametrize(
    ("slot", "hook", "family", "further"),
    [
        (0, INGRESS, counters.PROGRAM_PACKETS, ()),
        (0, XDP, counters.PROGRAM_PACKETS, ()),
        (1, INGRESS, ACCEPTED_FLOWS, ("failsafe",)),
        (2, EGRESS, ACCEPTED_FLOWS, ("policy",)),
        (1, XDP, ACCEPTED_PACKETS, ("failsafe",)),
        (2, XDP, ACCEPTED_PACKETS, ("policy",)),
        (3, INGRESS, ACCEPTED_PACKETS, ("another_program",)),
        (3, EGRESS, ACCEPTED_PACKETS, ("another_program",)),
        (3, XDP, ACCEPTED_PACKETS, ("another_program",)),
        (4, XDP, counters.DROPPED_PACKETS, ("policy",)),
        (14, EGRESS, counters.NAT_SOURCE_COLLISIONS, ()),
        (17, INGRESS, counters.REDIRECTED_PACKETS, ("plain",)),
        (18, INGRESS, counters.REDIRECTED_PACKETS, ("neigh",)),
        (19, INGRESS, counters.REDIRECTED_PACKETS, ("peer",)),
        (24, INGRESS, counters.UNKNOWN_SLOT, ("24",)),
    ],
)
def test_a_slot_has_one_series_in_one_family(collect, series, slot, hook, family, further, numbers):
    samples = collect({(3, hook): {slot: 7}}, {3: ETH0}, zeros="none")
    endpoint = {INGRESS: INTO_NODE, EGRESS: OUT_OF_NODE, XDP: AT_XDP}[hook]
    assert {(*endpoint, *further): 7} == series(samples, family)
    assert [7] == numbers(samples)


def test_a_workloads_ingress_hook_is_its_outbound_traffic_and_a_hosts_is_inbound(collect, series):
    every = {(index, hook): {0: 10 * index + hook} for index in (3, 5) for hook in (INGRESS, EGRESS, XDP)}
    samples = collect(every, {3: ETH0, 5: POD}, zeros="none")
    expected = {INTO_NODE: 30, OUT_OF_NODE: 31, AT_XDP: 32, FROM_POD: 50, TO_POD: 51}
    assert expected | {("cali1", "xdp", "inbound", "", ""): 52} == series(samples, counters.PROGRAM_PACKETS)


def test_namespace_and_pod_are_named_where_known_and_empty_elsewhere(collect, series):
    samples = collect(
        {(3, INGRESS): {0: 1}, (5, INGRESS): {0: 2}},
        {3: ETH0, 5: POD},
        zeros="none",
        pods={"cali1": ("ns-a", "client")},
    )
    expected = {INTO_NODE: 1, ("cali1", "tc_ingress", "outbound", "ns-a", "client"): 2}
    assert expected == series(samples, counters.PROGRAM_PACKETS)


@pytest.mark.parametrize("name", ["%25s", "%25(x)d%25", "{}", "%22", "%5c", "%0a", "%c3%a9"])
def test_an_odd_pod_name_is_its_label(collect, series, name):
    samples = collect({(5, INGRESS): {0: 3}}, {5: POD}, zeros="none", pods={"cali1": (name, name)})
    assert {(*FROM_POD[:3], unquote(name), unquote(name)): 3} == series(samples, counters.PROGRAM_PACKETS)


@pytest.mark.parametrize("value", [1, 2**32, 2**53 + 1, 2**64 - 1])
def test_a_value_is_the_sum_over_cpus_and_stays_an_integer(collect, series, value, numbers):
    samples = collect({(5, INGRESS): {0: value}}, {5: POD})
    assert {FROM_POD: value} == {k: v for k, v in series(samples, counters.PROGRAM_PACKETS).items() if v}
    assert all(isinstance(number, int) for number in numbers(samples))


def test_core_shows_three_zeros_at_each_tc_hook_of_a_workload(collect, shown):
    samples = collect({(5, INGRESS): {}, (5, EGRESS): {}}, {5: POD})
    assert dict.fromkeys(CORE, 0) == shown(samples, FROM_POD) == shown(samples, TO_POD)


def test_core_shows_all_else_of_a_workload_from_its_first_packet_on(collect, shown):
    samples = collect({(5, INGRESS): {0: 9, 5: 1, 19: 2}}, {5: POD})
    expected = dict.fromkeys(CORE, 0) | {
        (counters.PROGRAM_PACKETS.name, ()): 9,
        (counters.DROPPED_PACKETS.name, ("too_short",)): 1,
        (counters.REDIRECTED_PACKETS.name, ("peer",)): 2,
    }
    assert expected == shown(samples, FROM_POD)


@pytest.mark.parametrize("hook", [INGRESS, EGRESS, XDP])
def test_core_shows_every_known_slot_of_a_host_interface(collect, hook, numbers):
    samples = collect({(3, hook): {}}, {3: ETH0})
    assert 26 == len(numbers(samples))  # 27 slots, of which 24 has no meaning


def test_core_shows_no_zero_at_a_workloads_xdp_hook(collect, numbers):
    assert [] == numbers(collect({(5, XDP): {}}, {5: POD}))


def test_core_shows_no_zero_of_an_interface_that_calico_does_not_know(collect, shown):
    samples = collect({(9, INGRESS): {0: 4}}, {5: POD}, links=[(5, "cali1"), (9, "tun0")])
    assert {(counters.PROGRAM_PACKETS.name, ()): 4} == shown(samples, ("tun0", "tc_ingress", "inbound", "", ""))


def test_none_shows_only_what_is_not_zero(collect, numbers):
    samples = collect({(3, INGRESS): {}, (5, INGRESS): {0: 1, 4: 2}}, {3: ETH0, 5: POD}, zeros="none", slots=14)
    assert [1, 2] == numbers(samples)


@pytest.mark.parametrize(("pods", "all_series"), [(30, 1716), (110, 5876), (250, 13156)])
def test_the_number_of_series_is_what_the_contract_says(collect, pods, all_series, numbers):
    states = {index: (f"cali{index}", WORKLOAD | READY) for index in range(10, 10 + pods)}
    states |= {index: (f"eth{index}", HOST | READY) for index in range(3)}
    entries = {(index, hook): {} for index in states for hook in (INGRESS, EGRESS)}
    assert all_series == len(numbers(collect(entries, states, zeros="all")))
    assert pods * 2 * 3 + 3 * 2 * 26 == len(numbers(collect(entries, states, zeros="core")))
    assert [] == numbers(collect(entries, states, zeros="none"))


@pytest.mark.parametrize("slots", [14, 17, 23])
def test_before_25_slots_an_idle_hook_shows_the_core_zeros(collect, slots, shown):
    samples = collect({}, {5: POD}, slots=slots)
    assert dict.fromkeys(CORE, 0) == shown(samples, FROM_POD) == shown(samples, TO_POD)


@pytest.mark.parametrize("slots", [14, 17])
def test_before_25_slots_an_idle_host_interface_shows_every_slot_at_both_tc_hooks(collect, slots, numbers):
    assert 2 * slots == len(numbers(collect({}, {3: ETH0}, slots=slots)))


@pytest.mark.parametrize("slots", [25, 26, 27])
def test_from_25_slots_on_a_missing_entry_shows_nothing(collect, slots, numbers):
    assert [] == numbers(collect({}, {3: ETH0, 5: POD}, slots=slots, zeros="all"))


def test_before_25_slots_an_idle_hook_shows_nothing_without_zeros(collect, numbers):
    assert [] == numbers(collect({}, {3: ETH0, 5: POD}, slots=14, zeros="none"))


def test_before_25_slots_an_idle_unmanaged_interface_shows_nothing(collect, numbers):
    assert [] == numbers(collect({}, {3: ("eth1", UNMANAGED)}, slots=14, zeros="all"))


def test_before_25_slots_an_entry_is_not_hidden_by_its_idle_zeros(collect, shown):
    samples = collect({(5, INGRESS): {4: 3}}, {5: POD}, slots=14)
    assert 3 == shown(samples, FROM_POD)[counters.DROPPED_PACKETS.name, ("policy",)]
    assert 0 == shown(samples, TO_POD)[counters.DROPPED_PACKETS.name, ("policy",)]


@pytest.mark.parametrize("zeros", ZEROS)
def test_an_index_that_nobody_knows_shows_its_number_and_no_zeros(collect, series, zeros, numbers):
    samples = collect({(77, INGRESS): {0: 5}, (78, EGRESS): {}}, {}, zeros=zeros)
    assert {("ifindex:77", "tc_ingress", "", "", ""): 5} == series(samples, counters.PROGRAM_PACKETS)
    assert 1 == len(numbers(samples))
    assert {(): 2} == series(samples, counters.UNKNOWN_INTERFACES)


def test_at_most_100_unknown_indexes_have_series_and_all_are_counted(collect, series):
    samples = collect({(index, hook): {0: 1} for index in range(1000, 1150) for hook in (INGRESS, EGRESS)}, {})
    found = series(samples, counters.PROGRAM_PACKETS)
    assert 100 == len({labels[0] for labels in found})
    assert 200 == len(found)
    assert {(): 150} == series(samples, counters.UNKNOWN_INTERFACES)


def test_the_number_of_unknown_indexes_is_shown_when_there_are_none(collect, series):
    assert {(): 0} == series(collect({(5, INGRESS): {}}, {5: POD}), counters.UNKNOWN_INTERFACES)


@pytest.mark.parametrize("zeros", ZEROS)
def test_a_hook_that_no_release_uses_shows_its_number_and_no_zeros(collect, series, zeros, numbers):
    samples = collect({(5, 7): {0: 1, 2: 3}}, {5: POD}, zeros=zeros)
    at_7 = ("cali1", "hook:7", "", "", "")
    assert {at_7: 1} == series(samples, counters.PROGRAM_PACKETS)
    assert {(*at_7, "policy"): 3} == series(samples, ACCEPTED_PACKETS)
    assert 2 == len(numbers(samples))


def test_the_kernels_name_wins_and_two_indexes_never_share_one(collect, series):
    samples = collect(
        {(5, INGRESS): {0: 1}, (9, INGRESS): {0: 2}}, {5: POD, 9: POD}, zeros="none", links=[(9, "cali1")]
    )
    assert {FROM_POD: 2} == series(samples, counters.PROGRAM_PACKETS)
    assert {("counters",): 1} == series(samples, counters.LEFTOVER_ENTRIES)


LEFT_OVER = {5: POD, 9999: ("cali0123456789a", WORKLOAD | READY)}


@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("slots", [14, 17, 25, 27])
@pytest.mark.parametrize("states", [LEFT_OVER, {5: POD}])
def test_an_interface_that_the_kernel_does_not_have_has_no_series_and_is_counted(
    collect, series, rows, zeros, slots, states
):
    entries = {(5, INGRESS): {0: 3}, (9999, INGRESS): {0: 7}, (9999, EGRESS): {4: 1}}
    samples = collect(entries, states, zeros=zeros, slots=slots, links=[(1, "lo"), (5, "cali1")])
    assert {("counters",): 2} == series(samples, counters.LEFTOVER_ENTRIES)
    assert {(): 0} == series(samples, counters.UNKNOWN_INTERFACES)
    assert {"cali1"} == {labels[0] for _, labels, _ in rows(samples) if len(labels) >= 5}


def test_without_an_entry_a_leftover_state_has_no_zeros(collect, rows):
    samples = collect({}, LEFT_OVER, zeros="all", slots=14, links=[(1, "lo"), (5, "cali1")])
    assert {"cali1"} == {labels[0] for _, labels, _ in rows(samples) if len(labels) >= 5}


def test_while_the_links_cannot_be_read_nothing_is_called_a_leftover(collect, series):
    samples = collect({(5, INGRESS): {0: 3}, (77, INGRESS): {0: 7}}, {5: POD}, links=NodeError("no netlink"))
    expected = {FROM_POD: 3, ("ifindex:77", "tc_ingress", "", "", ""): 7}
    assert expected == series(samples, counters.PROGRAM_PACKETS)
    assert {} == series(samples, counters.LEFTOVER_ENTRIES)


BROKEN = [MapError("no"), MapMissing("no"), LayoutError("no")]


@pytest.mark.parametrize("error", BROKEN, ids=lambda one: type(one).__name__)
def test_without_the_interface_state_kinds_come_from_names_and_pods_and_entries_have_their_zeros(
    collect, shown, numbers, error
):
    facts = {"links": [(1, "lo"), (3, "eth0"), (5, "cali1"), (6, "eni1")], "pods": {"eni1": ("a", "b")}}
    entries = {(index, hook): {} for index in (3, 5, 6) for hook in (INGRESS, EGRESS)}
    samples = collect(entries, None, change=lambda source: source.maps.update(cali_iface4=error), **facts)
    eni = ("eni1", "tc_ingress", "outbound", "a", "b")
    assert dict.fromkeys(CORE, 0) == shown(samples, FROM_POD) == shown(samples, TO_POD) == shown(samples, eni)
    assert 26 == len(shown(samples, INTO_NODE))
    assert {0} == set(numbers(samples))


@pytest.mark.parametrize(("slots", "zeros"), [(14, CORE), (17, CORE), (25, ()), (27, ())])
def test_without_the_interface_state_a_pods_idle_hook_has_zeros_where_its_entry_comes_with_the_first_packet(
    collect, shown, slots, zeros
):
    samples = collect({}, None, slots=slots, links=[(1, "lo"), (3, "eth0"), (5, "cali1")])
    assert dict.fromkeys(zeros, 0) == shown(samples, FROM_POD) == shown(samples, TO_POD)
    assert {} == shown(samples, INTO_NODE)


def test_without_anything_else_the_counter_map_is_served(collect, series):
    def break_all(source):
        source.link_rows = source.route_rows = source.status = source.cluster = NodeError("hangs")
        source.maps["cali_iface4"] = MapError("no")

    samples = collect({(5, INGRESS): {0: 3, 4: 2}}, {}, change=break_all)
    assert {("ifindex:5", "tc_ingress", "", "", ""): 3} == series(samples, counters.PROGRAM_PACKETS)
    assert {("ifindex:5", "tc_ingress", "", "", "", "policy"): 2} == series(samples, counters.DROPPED_PACKETS)


@pytest.mark.parametrize("zeros", ZEROS)
def test_slots_past_the_table_show_their_number_only_when_not_zero(collect, series, zeros):
    samples = collect({(3, INGRESS): {28: 4}}, {3: ETH0}, slots=30, zeros=zeros)
    assert {(*INTO_NODE, "28"): 4} == series(samples, counters.UNKNOWN_SLOT)


def test_with_15_slots_the_last_two_are_unknown(collect, series):
    samples = collect({(3, INGRESS): {12: 1, 13: 2, 14: 3}}, {3: ETH0}, slots=15, zeros="none")
    assert {(*INTO_NODE, "unknown_route"): 1} == series(samples, counters.DROPPED_PACKETS)
    assert {(*INTO_NODE, "13"): 2, (*INTO_NODE, "14"): 3} == series(samples, counters.UNKNOWN_SLOT)


@pytest.mark.parametrize(
    ("category", "family"),
    [
        ("accepted", ACCEPTED_PACKETS),
        ("dropped", counters.DROPPED_PACKETS),
        ("redirected", counters.REDIRECTED_PACKETS),
    ],
)
def test_a_layout_file_names_slot_14_of_15(collect, series, category, family):
    named = parse_layout_file(f"when_slots: 15\nslots: {{14: {{category: {category}, reason: egress_gateway}}}}")
    samples = collect(
        {(3, INGRESS): {13: 2, 14: 3}}, {3: ETH0}, slots=15, zeros="none", settings={"layout_file": named}
    )
    assert {(*INTO_NODE, "egress_gateway"): 3} == series(samples, family)
    assert {(*INTO_NODE, "13"): 2} == series(samples, counters.UNKNOWN_SLOT)


def test_a_slot_named_by_a_layout_file_shows_its_zero_like_any_other(collect, series):
    named = parse_layout_file("when_slots: 15\nslots: {14: {category: accepted, reason: egress_gateway}}")
    samples = collect({(3, INGRESS): {}}, {3: ETH0}, slots=15, settings={"layout_file": named})
    assert 0 == series(samples, ACCEPTED_PACKETS)[*INTO_NODE, "egress_gateway"]


def test_a_layout_file_for_another_count_changes_nothing(collect, rows):
    named = parse_layout_file("when_slots: 16\nslots: {14: {category: accepted, reason: egress_gateway}}")
    facts = {"entries": {(3, INGRESS): {14: 3}}, "states": {3: ETH0}, "slots": 15}
    assert rows(collect(**facts)) == rows(collect(**facts, settings={"layout_file": named}))


def test_no_map_is_a_failure_and_not_empty_families(node, snapshot_of):
    with pytest.raises(MapMissing):
        CountersCollector().collect(snapshot_of(node(None, {5: POD})))


@pytest.mark.parametrize("shape", [{"value_size": 9}, {"value_size": 0}, {"key_size": 4}])
def test_a_map_of_an_impossible_shape_is_a_failure_and_no_guess(node, snapshot_of, shape):
    source = node({(5, INGRESS): {}}, {5: POD})
    dump = source.maps["cali_counters6"]
    source.maps["cali_counters6"] = replace(dump, info=replace(dump.info, **shape))
    with pytest.raises(LayoutError):
        CountersCollector().collect(snapshot_of(source))


indexes = st.integers(1, 12) | st.integers(0, 2**32 - 1)
hooks = st.integers(0, 3) | st.integers(0, 2**32 - 1)
flags = st.sampled_from([0, WORKLOAD, WORKLOAD | READY, HOST, HOST | READY, UNMANAGED, UNMANAGED | WORKLOAD])
names = st.sampled_from(["eth0", "lo", "cali1", "cali2", "cali3", "tun0"])


@settings(deadline=None)
@given(
    slots=st.integers(1, 40),
    keys=st.lists(st.tuples(indexes, hooks), unique=True, max_size=12),
    states=st.dictionaries(st.integers(1, 12), st.tuples(names, flags), max_size=8),
    links=st.dictionaries(st.integers(1, 12), names, max_size=6),
    zeros=st.sampled_from(ZEROS),
    data=st.data(),
)
def test_nothing_read_is_lost_and_no_series_comes_twice(
    node, snapshot_of, slots, keys, states, links, zeros, data, numbers, rows
):
    values = st.dictionaries(st.integers(0, slots - 1), st.integers(0, 2**64 - 1), max_size=6)
    entries = {key: data.draw(values) for key in keys}
    unique_links = {name: index for index, name in links.items()}
    source = node(entries, states, slots=slots, links=[(index, name) for name, index in unique_links.items()])
    snapshot = snapshot_of(source)
    samples = CountersCollector(CollectorOptions(zeros=zeros)).collect(snapshot)
    left = [key for key in keys if snapshot.endpoints.get().of(key[0]).kind == "leftover"]
    assert sum(sum(row.values()) for key, row in entries.items() if key not in left) == sum(numbers(samples))
    assert [len(left)] * snapshot.endpoints.get().links_known == leftovers(samples)
    labels = [(name, values) for name, values, _ in rows(samples)]
    assert len(labels) == len(set(labels))


@st.composite
def nodes(draw):
    """What one scrape finds: slots, entries, interface states, and pods by interface."""
    slots = draw(st.sampled_from([14, 15, 17, 27]))
    keys = draw(st.lists(st.tuples(st.integers(3, 7), st.integers(0, 3)), unique=True, max_size=6))
    values = st.dictionaries(st.integers(0, slots - 1), st.integers(0, 9), max_size=3)
    states = draw(st.dictionaries(st.integers(3, 7), st.tuples(names, flags), max_size=4))
    pods = draw(st.dictionaries(names, st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), max_size=3))
    return {"entries": {key: draw(values) for key in keys}, "states": states, "slots": slots, "pods": pods}


@settings(deadline=None)
@given(scrapes=st.lists(nodes(), min_size=2, max_size=5), zeros=st.sampled_from(ZEROS))
def test_what_a_collector_keeps_from_one_scrape_to_the_next_changes_nothing(node, snapshot_of, scrapes, zeros, rows):
    kept = CountersCollector(CollectorOptions(zeros=zeros))
    for facts in scrapes:
        snapshot = snapshot_of(node(**facts))
        assert rows(CountersCollector(CollectorOptions(zeros=zeros)).collect(snapshot)) == rows(kept.collect(snapshot))


KNOWN = {3: ETH0, 4: ("eth1", UNMANAGED), 5: POD, 6: ("cali2", WORKLOAD)}
FIRST_UNKNOWN = 1000
# Around the most unknown interfaces that are shown.
MANY = [0, 1, counters.endpoints.MAX_UNKNOWN - 1, counters.endpoints.MAX_UNKNOWN, counters.endpoints.MAX_UNKNOWN + 3]
KEYS = st.tuples(st.sampled_from([*KNOWN, 9]) | st.integers(0, 105).map(lambda one: FIRST_UNKNOWN + one), hooks)
NEW_VALUES = st.sampled_from([0, 0, 1, 7, 2**64 - 1])


@st.composite
def changes(draw, slots):
    """What happens to the counter map or to what is known of its interfaces between two scrapes."""
    kind = draw(st.sampled_from(["value", "value", "value", "value of all", "come", "go", "order", "states", "layout"]))
    return kind, draw(KEYS), draw(st.integers(0, slots - 1)), draw(NEW_VALUES), draw(st.randoms(use_true_random=False))


def changed(entries, change):
    """The entries after that change."""
    kind, key, slot, value, chance = change
    there = sorted(entries)
    if kind == "order":  # a kernel's hash map gives its entries in any order
        return {one: entries[one] for one in chance.sample(there, len(there))}
    if kind == "come":
        return entries | {key: {slot: value}}
    # One that is there, if any is; mostly an index that the node knows.
    key = chance.choice(chance.choice([there, [one for one in there if one[0] in KNOWN] or there]) or [key])
    if kind == "go":
        return {one: row for one, row in entries.items() if one != key}
    if kind == "value" and key in entries:
        return entries | {key: entries[key] | {slot: value}}
    return {one: {slot: value} for one in entries} if kind == "value of all" else entries


@settings(deadline=None)
@given(
    slots=st.sampled_from([14, 15, 27]),
    keys=st.lists(st.tuples(st.sampled_from([*KNOWN, 9]), st.integers(0, 3)), unique=True, max_size=8),
    unknown=st.sampled_from(MANY),
    zeros=st.sampled_from(ZEROS),
    data=st.data(),
)
def test_the_text_of_a_collector_that_has_seen_other_tables_is_that_of_a_new_one(
    node, snapshot_of, slots, keys, unknown, zeros, data
):
    kept, memory, states = CountersCollector(CollectorOptions(zeros=zeros)), Memory(), KNOWN
    entries = {key: {0: 3} for key in keys} | {(FIRST_UNKNOWN + one, 0): {4: 1} for one in range(unknown)}
    for change in [("", None, 0, 0, None), *data.draw(st.lists(changes(slots), max_size=8))]:
        entries = changed(entries, change) if change[0] else entries
        if change[0] == "states":
            states = KNOWN if states is not KNOWN else {3: ETH0, 5: ("cali2", WORKLOAD | READY), FIRST_UNKNOWN: POD}
        width = {14: 17, 15: 14, 27: 26}[slots] if change[0] == "layout" else slots
        rows = {key: {slot: value for slot, value in row.items() if slot < width} for key, row in entries.items()}
        snapshot = snapshot_of(node(rows, states, slots=width, links=NodeError("no netlink")), memory)
        new = CountersCollector(CollectorOptions(zeros=zeros)).collect(snapshot)
        assert render(new, TEXT) == render(kept.collect(snapshot), TEXT)


# Once the places of a table's values were asked for in the empty one that came after it.
def test_a_table_that_becomes_empty_and_fills_again_shows_what_there_is(node, snapshot_of, numbers):
    collector, memory = CountersCollector(), Memory()
    tables = [{(77, INGRESS): {0: 5}}, {}, {(77, INGRESS): {0: 6}}, {}, {(5, EGRESS): {0: 7}}]
    found = [numbers(collector.collect(snapshot_of(node(one, {}), memory))) for one in tables]
    assert [[5], [], [6], [], [7]] == found


def test_between_scrapes_in_which_only_values_change_the_endpoints_are_the_same(node, snapshot_of):
    # Else the law above would not come to what a collector keeps.
    memory, links = Memory(), NodeError("no netlink")
    nodes = (node({(5, 0): {0: value}}, KNOWN, links=links) for value in (1, 2))
    one, other = (snapshot_of(one, memory).endpoints.get() for one in nodes)
    assert one is other


def test_what_a_collector_keeps_is_bounded_by_what_the_node_has(node, snapshot_of, rows):
    collector = CountersCollector(CollectorOptions(zeros="all"))

    def kept_after(numbers):
        for number in numbers:
            states = {index: (f"cali{number}x{index}", WORKLOAD | READY) for index in range(20)}
            rows(collector.collect(snapshot_of(node({(index, 0): {} for index in states}, states))))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = kept_after(range(5))
        assert kept_after(range(5, 40)) - before < 100_000  # 35 nodes of 20 interfaces would be some 3 MB
    finally:
        tracemalloc.stop()


# The family and the further label of every slot at a tc hook, written down once more.
AT_TC = {
    **{number: ("calico_bpf_dropped_packets_total", SLOTS[number].reason) for number in (*range(4, 14), 15, 16)},
    **{number: ("calico_bpf_dropped_packets_total", SLOTS[number].reason) for number in (*range(20, 24), 25, 26)},
    **{number: ("calico_bpf_redirected_packets_total", SLOTS[number].reason) for number in range(17, 20)},
    0: ("calico_bpf_program_packets_total",),
    1: ("calico_bpf_accepted_flows_total", "failsafe"),
    2: ("calico_bpf_accepted_flows_total", "policy"),
    3: ("calico_bpf_accepted_packets_total", "another_program"),
    14: ("calico_bpf_nat_source_collisions_total",),
}
AT_XDP_HOOK = AT_TC | {
    1: ("calico_bpf_accepted_packets_total", "failsafe"),
    2: ("calico_bpf_accepted_packets_total", "policy"),
}


@law_of_recordings(DECIDED)
def every_number_of_a_recording_is_written_once_under_its_name(recording):
    snapshot = recording.proven
    known = {state.ifindex: snapshot.endpoints.get().of(state.ifindex) for state in snapshot.ifstate.get()}
    table = snapshot.counters.get()
    expected = set()
    for (index, hook), row in table.rows.items():
        one = known[index]
        inbound = hook == XDP or (hook == EGRESS) == one.state.workload
        labels = (one.interface, ("tc_ingress", "tc_egress", "xdp")[hook], "inbound" if inbound else "outbound")
        for slot, value in enumerate(row):
            family, *further = (AT_XDP_HOOK if hook == XDP else AT_TC).get(slot, ("", ""))
            if value:
                expected.add((family, (*labels, one.namespace, one.pod, *further), value))
    written = rows_of(CountersCollector(CollectorOptions(zeros="none")).collect(snapshot))
    expected |= {(counters.UNKNOWN_INTERFACES.name, (), 0), (counters.LEFTOVER_ENTRIES.name, ("counters",), 0)}
    assert expected == set(written)
    assert len(written) == len(set(written))


@law_of_recordings(DECIDED)
def a_recordings_series_are_its_entries_by_the_rules_for_zeros(recording):
    snapshot = recording.proven
    table, known = snapshot.counters.get(), snapshot.endpoints.get()
    entries = dict(table.rows)
    nonzero = sum(1 for row in entries.values() for value in row if value)
    assert nonzero == len(numbers_of(CountersCollector(CollectorOptions(zeros="none")).collect(snapshot)))
    if len(table.layout.slots) < 25:
        managed = [state.ifindex for state in snapshot.ifstate.get() if state.managed]
        idle = {(index, hook): [0] * len(table.layout.slots) for index in managed for hook in (INGRESS, EGRESS)}
        entries = idle | entries
    unnamed = {slot.number for slot in table.layout.slots if slot.category == "unknown"}
    core = {0, 2, 4}

    def in_core(key, slot, value):
        host = known.of(key[0]).kind == "host"
        return value or (slot not in unnamed and (host or (slot in core and key[1] != XDP)))

    cells = [(key, slot, value) for key, row in entries.items() for slot, value in enumerate(row)]
    every = sum(1 for _, slot, value in cells if value or slot not in unnamed)
    assert every == len(numbers_of(CountersCollector(CollectorOptions(zeros="all")).collect(snapshot)))
    assert sum(1 for cell in cells if in_core(*cell)) == len(
        numbers_of(CountersCollector(CollectorOptions(zeros="core")).collect(snapshot))
    )


def test_a_layout_that_changes_while_it_serves_gives_no_slot_anothers_name(node, snapshot_of, shown):
    # 23 slots and then 25: slot 22 is unknown in the first, slot 24 in the second, and each is the only one there.
    collector = CountersCollector(CollectorOptions(zeros="none"))
    first = collector.collect(snapshot_of(node({(2, INGRESS): {22: 7}}, {2: POD}, slots=23)))
    second = collector.collect(snapshot_of(node({(2, INGRESS): {24: 9}}, {2: POD}, slots=25)))
    assert {(counters.UNKNOWN_SLOT.name, ("22",)): 7} == shown(first, FROM_POD)
    assert {(counters.UNKNOWN_SLOT.name, ("24",)): 9} == shown(second, FROM_POD)
