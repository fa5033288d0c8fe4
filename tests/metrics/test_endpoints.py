"""Collector `endpoints`: who lives here, at which addresses, and the problems that are shown only while they hold."""

import pytest

from exporter.bpf.maps import MapDenied, MapError
from exporter.metrics import endpoints
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.endpoints import EndpointsCollector
from exporter.node import NodeError
from exporter.node.nic import Nic, NicCounters
from exporter.node.pods import ClusterPod, ClusterPods

INGRESS, EGRESS = 0, 1
WORKLOAD, READY4, READY6, HOST, BOND_SLAVE, UNMANAGED = 0x1, 0x2, 0x4, 0x8, 0x20, 0x400
READY = READY4 | READY6
BOTH_HOOKS = {(5, INGRESS): {}, (5, EGRESS): {}}


@pytest.fixture
def collect(node, snapshot_of):
    """The samples of the collector over a node made of these facts."""

    def run(entries, states, change=lambda source: None, **facts):
        source = node(entries, states, **facts)
        change(source)
        return EndpointsCollector().collect(snapshot_of(source, parts=EndpointsCollector.parts))

    return run


def problem(series, samples, word):
    return series(samples, endpoints.PROBLEMS).get((word,))


def test_each_endpoint_has_one_info_with_its_kind(collect, series):
    samples = collect(
        {(77, INGRESS): {}},
        {3: ("eth0", HOST | READY), 5: ("cali1", WORKLOAD | READY), 8: ("eth1", UNMANAGED)},
        pods={"cali1": ("ns-a", "client")},
        links=NodeError("no netlink"),
    )
    assert {
        ("eth0", "host", "", "", "3"): 1,
        ("cali1", "workload", "ns-a", "client", "5"): 1,
        ("eth1", "unmanaged", "", "", "8"): 1,
        ("ifindex:77", "unknown", "", "", "77"): 1,
    } == series(samples, endpoints.INFO)


def test_a_host_interface_is_shown_only_if_calico_knows_it_or_it_has_counted(collect, series):
    links = [(3, "eth0"), (4, "docker0"), (6, "tun0")]
    samples = collect({(6, INGRESS): {}}, {3: ("eth0", HOST | READY)}, links=links)
    assert ["eth0", "tun0"] == sorted(labels[0] for labels in series(samples, endpoints.INFO))


def test_a_workload_that_calico_does_not_know_yet_is_shown_by_its_prefix(collect, series):
    samples = collect({}, {3: ("eth0", HOST | READY)}, links=[(3, "eth0"), (9, "cali9")])
    assert 1 == series(samples, endpoints.INFO)["cali9", "workload", "", "", "9"]


def test_at_most_100_unknown_indexes_have_an_info(collect, series):
    samples = collect({(index, INGRESS): {} for index in range(1000, 1150)}, {})
    assert 100 == len(series(samples, endpoints.INFO))


def test_a_workload_has_an_address_info_for_each_address_the_node_routes_to_it(collect, series):
    samples = collect(
        {},
        {3: ("eth0", HOST | READY), 5: ("cali1", WORKLOAD | READY)},
        routes=[("10.65.0.2", 5), ("fd00:65::2", 5), ("192.0.2.1", 3)],
        pods={"cali1": ("ns-a", "client", "10.65.0.2/32")},
    )
    assert {
        ("cali1", "ns-a", "client", "10.65.0.2", "4"): 1,
        ("cali1", "ns-a", "client", "fd00:65::2", "6"): 1,
    } == series(samples, endpoints.ADDRESS_INFO)


def test_without_a_route_the_addresses_are_those_of_the_status_file(collect, series):
    samples = collect({}, {5: ("cali1", WORKLOAD | READY)}, pods={"cali1": ("ns-a", "client", "10.65.0.2/32")})
    assert {("cali1", "ns-a", "client", "10.65.0.2", "4"): 1} == series(samples, endpoints.ADDRESS_INFO)


def test_a_route_that_stands_twice_is_one_address(collect, series):
    samples = collect({}, {5: ("cali1", WORKLOAD | READY)}, routes=[("10.65.0.2", 5), ("10.65.0.2", 5)])
    assert {("cali1", "", "", "10.65.0.2", "4"): 1} == series(samples, endpoints.ADDRESS_INFO)


def test_an_address_that_stands_twice_in_the_status_file_is_one_sample(collect, series):
    nets = ("10.65.0.2/32", "10.65.0.2/24")
    samples = collect({}, {5: ("cali1", WORKLOAD | READY)}, pods={"cali1": ("ns-a", "client", *nets)})
    assert {("cali1", "ns-a", "client", "10.65.0.2", "4"): 1} == series(samples, endpoints.ADDRESS_INFO)


def test_a_managed_interface_is_not_ready_in_a_family_that_others_use(collect, series):
    states = {3: ("eth0", HOST | READY), 5: ("cali1", WORKLOAD | READY4), 7: ("cali2", WORKLOAD)}
    samples = collect({}, states, slots=17)
    expected = {("cali1", "", "", "6"): 1, ("cali2", "", "", "4"): 1, ("cali2", "", "", "6"): 1}
    assert expected == series(samples, endpoints.NOT_READY)
    assert 3 == problem(series, samples, "not_ready")


def test_a_family_that_nothing_uses_is_no_problem(collect, series):
    samples = collect({}, {3: ("eth0", HOST | READY4), 5: ("cali1", WORKLOAD | READY4)})
    assert {} == series(samples, endpoints.NOT_READY)
    assert 0 == problem(series, samples, "not_ready")


@pytest.mark.parametrize(
    ("files", "families"),
    [
        ([], set()),
        (["cali1_egress_v4.json"], {"4"}),
        (["cali1_egress_v4.json", "cali1_ingress_v6.json"], {"4", "6"}),
        (["README", "cali1_egress_v4.json.tmp", "v4.json"], set()),
    ],
)
def test_a_policy_file_of_a_family_says_that_it_is_in_use(collect, series, files, families):
    samples = collect({}, {5: ("cali1", WORKLOAD)}, policy_names=files)
    assert families == {labels[3] for labels in series(samples, endpoints.NOT_READY)}


def test_an_unmanaged_interface_is_never_a_problem(collect, series):
    samples = collect({}, {3: ("eth1", UNMANAGED), 5: ("eth0", HOST | READY)})
    assert {} == series(samples, endpoints.NOT_READY)
    assert {"eth0"} == {labels[0] for labels in series(samples, endpoints.COUNTERS_MISSING)}


@pytest.mark.parametrize("slots", [25, 26, 27, 30])
def test_from_25_slots_on_a_missing_entry_is_shown_for_each_tc_hook(collect, series, slots):
    states = {5: ("cali1", WORKLOAD | READY), 7: ("cali2", WORKLOAD | READY)}
    samples = collect({**BOTH_HOOKS, (7, INGRESS): {}}, states, slots=slots, pods={"cali2": ("ns-b", "server")})
    assert {("cali2", "tc_egress", "ns-b", "server"): 1} == series(samples, endpoints.COUNTERS_MISSING)
    assert 1 == problem(series, samples, "counters_missing")


@pytest.mark.parametrize("slots", [14, 15, 17, 23])
def test_before_25_slots_a_missing_entry_is_an_idle_hook(collect, series, slots):
    samples = collect({}, {5: ("cali1", WORKLOAD | READY)}, slots=slots)
    assert {} == series(samples, endpoints.COUNTERS_MISSING)
    assert 0 == problem(series, samples, "counters_missing")


@pytest.mark.parametrize("ready", [READY4, READY6, READY])
def test_an_interface_that_is_ready_in_one_family_needs_its_entries(collect, series, ready):
    samples = collect({}, {5: ("cali1", WORKLOAD | ready)})
    assert 2 == len(series(samples, endpoints.COUNTERS_MISSING))


def test_an_interface_whose_programs_are_not_attached_yet_lacks_nothing(collect, series):
    samples = collect({}, {5: ("cali1", WORKLOAD)})
    assert {} == series(samples, endpoints.COUNTERS_MISSING)


def test_a_part_of_a_bond_counts_at_the_bond(collect, series):
    samples = collect({}, {3: ("eth0", HOST | READY | BOND_SLAVE)})
    assert {} == series(samples, endpoints.COUNTERS_MISSING)


def test_an_entry_at_xdp_stands_for_no_tc_hook(collect, series):
    samples = collect({(5, 2): {}}, {5: ("cali1", WORKLOAD | READY)})
    assert 2 == len(series(samples, endpoints.COUNTERS_MISSING))


@pytest.mark.parametrize("failure", [MapError("it kept changing"), MapDenied("not allowed")])
def test_nothing_is_called_missing_from_a_map_that_was_not_read(collect, series, failure):
    def deny(source):
        source.maps["cali_counters6"] = failure

    samples = collect({}, {5: ("cali1", WORKLOAD | READY)}, deny)
    assert {} == series(samples, endpoints.COUNTERS_MISSING)
    assert {("not_ready",): 0} == series(samples, endpoints.PROBLEMS)
    assert 1 == len(series(samples, endpoints.INFO))


def test_nothing_is_called_missing_where_no_counter_map_is_pinned(node, snapshot_of, series):
    samples = EndpointsCollector().collect(snapshot_of(node(None, {5: ("cali1", WORKLOAD | READY)})))
    assert {("not_ready",): 0} == series(samples, endpoints.PROBLEMS)


def test_a_healthy_node_has_its_problems_counted_as_none(collect, series):
    samples = collect(BOTH_HOOKS, {5: ("cali1", WORKLOAD | READY)})
    assert {("not_ready",): 0, ("counters_missing",): 0} == series(samples, endpoints.PROBLEMS)
    assert {} == series(samples, endpoints.NOT_READY) == series(samples, endpoints.COUNTERS_MISSING)


@pytest.mark.parametrize(
    ("fact", "gone"),
    [
        ("link_rows", {endpoints.PROBLEMS, endpoints.COUNTERS_MISSING, endpoints.LEFTOVER_ENTRIES}),
        ("route_rows", set()),
        ("status", set()),
        ("policy_names", set()),
        ("cluster", set()),
    ],
)
def test_a_source_that_cannot_be_read_takes_only_what_depends_on_it(collect, series, fact, gone):
    states, facts = {5: ("cali1", WORKLOAD | READY), 6: ("cali2", WORKLOAD)}, {"routes": [("10.0.0.5", 5)]}
    whole = collect({}, states, **facts)
    samples = collect({}, states, lambda source: setattr(source, fact, NodeError("hangs")), **facts)
    kept = {endpoints.INFO, endpoints.PROBLEMS, endpoints.COUNTERS_MISSING, endpoints.LEFTOVER_ENTRIES} - gone
    assert {family: series(whole, family) for family in kept} == {family: series(samples, family) for family in kept}
    assert all({} == series(samples, family) for family in gone)


def test_without_the_interface_state_there_are_endpoints_and_no_word_about_problems(collect, series):
    samples = collect(BOTH_HOOKS, None, links=[(1, "lo"), (5, "cali1")])
    assert {("cali1", "workload", "", "", "5"): 1} == series(samples, endpoints.INFO)
    assert {} == series(samples, endpoints.PROBLEMS) == series(samples, endpoints.LEFTOVER_ENTRIES)


@pytest.mark.parametrize("slots", [14, 27])
def test_an_interface_that_the_kernel_does_not_have_is_counted_and_no_more(collect, rows, series, slots):
    states = {5: ("cali1", WORKLOAD | READY), 9999: ("cali0123456789a", WORKLOAD | READY), 9998: ("cali2", WORKLOAD)}
    samples = collect({**BOTH_HOOKS, (9997, INGRESS): {}}, states, slots=slots, links=[(1, "lo"), (5, "cali1")])
    assert {"cali1"} == {labels[0] for _, labels, _ in rows(samples) if len(labels) > 1}
    assert {("iface",): 2} == series(samples, endpoints.LEFTOVER_ENTRIES)
    assert {("not_ready",): 0, ("counters_missing",): 0} == series(samples, endpoints.PROBLEMS)


def test_a_recorded_node_has_no_problem(recorded, series):
    samples = EndpointsCollector().collect(recorded("v3.32.1/05-eot-egress-deny.after"))
    assert {0} == set(series(samples, endpoints.PROBLEMS).values())
    kinds = [labels[1] for labels in series(samples, endpoints.INFO)]
    assert (4, 3) == (kinds.count("workload"), kinds.count("host"))


def test_owners_are_of_pods_that_have_an_interface_here_and_only_when_asked_for(node, snapshot_of, series):
    source = node({}, {5: ("cali1", WORKLOAD | READY)}, pods={"cali1": ("ns-a", "client")})
    owned = ("ReplicaSet", "client-5d4")
    source.cluster = ClusterPods(
        (ClusterPod("ns-a", "client", (), *owned), ClusterPod("ns-a", "away", (), *owned), ClusterPod("ns-a", "bare"))
    )
    samples = EndpointsCollector(CollectorOptions(workloads=True)).collect(
        snapshot_of(source, parts=EndpointsCollector.parts)
    )
    assert {("ns-a", "client", *owned): 1} == series(samples, endpoints.WORKLOAD_INFO)
    assert endpoints.WORKLOAD_INFO not in [one.family for one in EndpointsCollector().collect(snapshot_of(source))]


@pytest.fixture
def watch(node, snapshot_of):
    """The samples of one collector over several scrapes of a node whose pod sent these packets, seen by the program."""

    def run(*counts, change=lambda source, number: None):
        collector, made = EndpointsCollector(), []
        for number, (packets, program) in enumerate(counts):
            source = node({(5, INGRESS): {0: program}, (5, EGRESS): {}}, {5: ("cali1", WORKLOAD | READY)})
            none = NicCounters(0, 0, 0, 0)
            source.nic_rows = {"cali1": Nic(NicCounters(packets, packets * 80, 0, 0), none)}
            change(source, number)
            made.append(collector.collect(snapshot_of(source, parts=EndpointsCollector.parts)))
        return made

    return run


def test_drops_that_nothing_counts_are_shown_when_they_hold_in_two_successive_scrapes(watch, series):
    made = watch((10, 10), (40, 10), (70, 10), (100, 12), (130, 42), (160, 42))
    shown = [series(samples, endpoints.UNCOUNTED_DROPS) for samples in made]
    held = {("cali1", "", ""): 1}
    assert [{}, {}, held, held, {}, {}] == shown
    assert [None, 0, 1, 1, 0, 0] == [problem(series, samples, "uncounted") for samples in made]


def test_a_burst_between_the_two_readings_of_a_scrape_is_no_drop(watch, series):
    made = watch((10, 10), (100, 10), (100, 100), (190, 100), (190, 190))
    assert [{}] * 5 == [series(samples, endpoints.UNCOUNTED_DROPS) for samples in made]


def test_what_the_kernel_received_takes_only_its_own_family_with_it(watch, series):
    def fail(source, number):
        if number == 1:
            source.nic_rows = NodeError("no")

    made = watch((10, 10), (40, 10), (70, 10), (100, 10), (130, 10), change=fail)
    assert [None, None, None, 0, 1] == [problem(series, samples, "uncounted") for samples in made]
    assert {0} == {problem(series, samples, "counters_missing") for samples in made}
