import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.counters import CounterTable, layout_of
from exporter.calico.endpoint_status import EndpointStatus
from exporter.calico.ifstate import InterfaceState
from exporter.calico.names import workload_interface
from exporter.node.endpoints import Endpoint, Endpoints, join_endpoints
from exporter.node.netlink import HostRoute, Link
from exporter.node.pods import ClusterPod

WORKLOAD, HOST, UNMANAGED = 0x7, 0xE, 0x400
CLIENT, SERVER = "calibf331a988cf", "cali34769d6a557"
CLIENT_POD = EndpointStatus(CLIENT, "ns-a", "client", ("10.65.0.2",))
SERVER_POD = EndpointStatus(SERVER, "ns-b", "server", ("10.65.0.3",))


def join(links=(), routes=(), states=(), pods=(), prefixes=("cali",), remembered=None, cluster=()):
    """The join of a node described by plain tuples."""
    return join_endpoints(
        None if links is None else [Link(*link) for link in links],
        [HostRoute(*route) for route in routes],
        None if states is None else [InterfaceState(*state) for state in states],
        pods,
        cluster,
        prefixes,
        remembered or Endpoints(),
    )


def interfaces(joined):
    return {ifindex: endpoint.interface for ifindex, endpoint in joined.by_index.items()}


def pods(joined):
    return {ifindex: (one.namespace, one.pod) for ifindex, one in joined.by_index.items() if one.pod}


def test_a_pod_is_joined_from_its_link_state_route_and_status():
    state = InterfaceState(5, CLIENT, WORKLOAD)
    joined = join([(5, CLIENT)], [("10.65.0.2", 5)], [(5, CLIENT, WORKLOAD)], [CLIENT_POD])
    expected = Endpoint(5, CLIENT, "workload", "ns-a", "client", ("10.65.0.2",), state)
    assert {5: expected} == joined.by_index
    assert 0 == joined.mismatches


def test_the_kernels_name_wins_over_calicos():
    joined = join([(5, "renamed0")], states=[(5, CLIENT, WORKLOAD)])
    assert {5: "renamed0"} == interfaces(joined)
    assert "workload" == joined.of(5).kind


def test_calicos_name_serves_where_the_kernel_has_none():
    assert {5: CLIENT} == interfaces(join(states=[(5, CLIENT, WORKLOAD)]))


def test_of_two_indexes_with_one_name_the_one_the_kernel_has_now_keeps_it():
    joined = join([(19, CLIENT)], states=[(5, CLIENT, WORKLOAD), (19, CLIENT, WORKLOAD)], pods=[CLIENT_POD])
    assert {19: CLIENT} == interfaces(joined)
    assert {19: ("ns-a", "client")} == pods(joined)
    assert Endpoint(5, "ifindex:5", "leftover") == joined.of(5)
    assert [5] == [state.ifindex for state in joined.leftovers]


@pytest.mark.parametrize("order", [(5, 19), (19, 5)])
def test_of_two_indexes_with_one_name_that_the_kernel_does_not_have_the_newer_keeps_it(order):
    joined = join(states=[(ifindex, CLIENT, WORKLOAD) for ifindex in order])
    assert {19: CLIENT} == interfaces(joined)


def test_a_state_without_a_name_names_nothing():
    assert {} == interfaces(join(states=[(5, "", WORKLOAD)]))


@pytest.mark.parametrize(("links", "kind"), [([(1, "lo")], "leftover"), ([], "unknown"), (None, "unknown")])
def test_an_index_that_nothing_knows_keeps_its_number(links, kind):
    joined = join(links)
    assert Endpoint(77, "ifindex:77", kind) == joined.of(77)
    assert "ifindex:77" == joined.of(77).title


@pytest.mark.parametrize(
    ("name", "flags", "kind"),
    [
        ("eth0", HOST, "host"),
        (CLIENT, WORKLOAD, "workload"),
        ("odd0", WORKLOAD, "workload"),  # flags win over the name
        (CLIENT, HOST, "host"),
        ("docker0", UNMANAGED, "unmanaged"),
        (CLIENT, UNMANAGED | WORKLOAD, "unmanaged"),
        (CLIENT, None, "workload"),
        ("eth0", None, "host"),
        ("cali", None, "host"),
        ("eni12", None, "host"),
    ],
)
def test_the_kind_comes_from_the_flags_else_from_the_prefix(name, flags, kind):
    states = [] if flags is None else [(3, name, flags)]
    assert kind == join([(3, name)], states=states).of(3).kind


@pytest.mark.parametrize("name", ["cali1", "eni1", "azv1"])
def test_each_of_several_prefixes_tells_a_workload(name):
    assert "workload" == join([(3, name)], prefixes=("cali", "eni", "azv")).of(3).kind


def test_the_title_of_a_pod_is_its_name_and_of_anything_else_its_interface():
    joined = join([(3, "eth0"), (5, CLIENT)], pods=[CLIENT_POD])
    assert ["eth0", "ns-a/client"] == [joined.of(ifindex).title for ifindex in (3, 5)]


def test_an_identity_stays_while_no_source_names_a_pod():
    first = join([(5, CLIENT)], pods=[CLIENT_POD])
    second = join([(5, CLIENT)], remembered=first)
    third = join([(5, CLIENT)], remembered=second)
    assert {5: ("ns-a", "client")} == pods(third)


def test_an_identity_goes_with_its_index():
    first = join([(5, CLIENT)], pods=[CLIENT_POD])
    gone = join([(1, "lo")], remembered=first)
    back = join([(1, "lo"), (5, CLIENT)], remembered=gone)
    assert {} == pods(back)


def test_a_recreated_pod_is_known_by_its_new_index():
    first = join([(11, CLIENT)], pods=[CLIENT_POD])
    second = join([(17, CLIENT)], pods=[CLIENT_POD], remembered=first)
    assert {17: ("ns-a", "client")} == pods(second)


def test_another_name_on_an_index_is_another_endpoint():
    first = join([(5, CLIENT)], pods=[CLIENT_POD])
    renamed = join([(5, SERVER)], remembered=first)
    assert {} == pods(renamed)


def test_a_source_that_names_a_pod_again_overrides_the_remembered_identity():
    other = EndpointStatus(CLIENT, "ns-x", "other", ())
    first = join([(5, CLIENT)], pods=[CLIENT_POD])
    second = join([(5, CLIENT)], pods=[other], remembered=first)
    assert {5: ("ns-x", "other")} == pods(second)


def test_a_workload_of_another_orchestrator_has_addresses_and_no_pod():
    joined = join([(5, CLIENT)], pods=[EndpointStatus(CLIENT, "", "", ("10.65.0.2",))])
    assert Endpoint(5, CLIENT, "workload", "", "", ("10.65.0.2",), None) == joined.of(5)
    assert {} == pods(join([(5, CLIENT)], remembered=joined))


def test_addresses_are_the_routes_to_the_interface_each_once():
    routes = [("10.65.0.2", 5), ("fd00:65::2", 5), ("10.65.0.2", 5), ("10.65.0.9", 9)]
    joined = join([(5, CLIENT)], routes, pods=[CLIENT_POD])
    assert ("10.65.0.2", "fd00:65::2") == joined.of(5).addresses


def test_addresses_come_from_the_status_where_there_is_no_route():
    pod = EndpointStatus(CLIENT, "ns-a", "client", ("10.65.0.2", "fd00::2", "10.65.0.2"))
    assert ("10.65.0.2", "fd00::2") == join([(5, CLIENT)], pods=[pod]).of(5).addresses
    assert ("10.0.0.9",) == join([(5, CLIENT)], [("10.0.0.9", 5)], pods=[pod]).of(5).addresses


@pytest.mark.parametrize(
    ("routes", "mismatches"),
    [
        ([], 0),
        ([("10.65.0.2", 5), ("10.65.0.3", 7)], 0),
        ([("10.65.0.2", 7)], 1),
        ([("10.65.0.2", 7), ("10.65.0.3", 5)], 2),
        ([("10.65.0.2", 99)], 1),
        ([("10.65.0.77", 5)], 0),
    ],
)
def test_a_pods_address_routed_to_another_interface_is_a_mismatch(routes, mismatches):
    joined = join([(5, CLIENT), (7, SERVER)], routes, pods=[CLIENT_POD, SERVER_POD])
    assert mismatches == joined.mismatches


def test_a_pod_with_two_stray_addresses_is_one_mismatch():
    pod = EndpointStatus(CLIENT, "ns-a", "client", ("10.65.0.2", "fd00:65::2"))
    joined = join([(5, CLIENT)], [("10.65.0.2", 7), ("fd00:65::2", 7)], pods=[pod])
    assert 1 == joined.mismatches


def test_a_pod_without_an_interface_here_is_nobody():
    joined = join([(1, "lo")], [("10.65.0.2", 1)], pods=[CLIENT_POD])
    assert {} == pods(joined)
    assert 0 == joined.mismatches


NAMES = st.sampled_from(["lo", "eth0", CLIENT, SERVER, "cali1", ""])
INDEXES = st.integers(1, 5)
LINKS = st.lists(st.tuples(INDEXES, NAMES.filter(bool)), unique_by=(lambda link: link[0], lambda link: link[1]))
STATES = st.lists(st.tuples(INDEXES, NAMES, st.integers(0, 0x7FF)), unique_by=lambda state: state[0])
ROUTES = st.lists(st.tuples(st.sampled_from(["10.65.0.2", "10.65.0.3", "fd00::1"]), INDEXES))
PODS = st.lists(st.sampled_from([CLIENT_POD, SERVER_POD, EndpointStatus("cali1", "", "", ())]), unique=True)


@given(LINKS, ROUTES, STATES, PODS)
def test_every_index_has_an_endpoint_and_no_two_share_a_name(links, routes, states, local_pods):
    joined = join(links, routes, states, local_pods)
    known = {ifindex for ifindex, _ in links} | {ifindex for ifindex, _, _ in states}
    names = [joined.of(ifindex).interface for ifindex in known | {99}]
    assert len(names) == len(set(names))
    assert all(names)
    if joined.links_known:
        assert dict(links) == interfaces(joined)


@given(LINKS, ROUTES, STATES, PODS)
def test_a_snapshot_without_pod_sources_changes_no_identity(links, routes, states, local_pods):
    first = join(links, routes, states, local_pods)
    second = join(links, routes, states, remembered=first)
    assert pods(first) == pods(second)


def test_of_two_links_with_one_name_the_newer_index_has_it():
    # A dump that runs while an interface is recreated can hold both.
    links = [Link(8, "cali1"), Link(5, "cali1"), Link(1, "lo")]
    joined = join_endpoints(links, (), (), (), (), ("cali",), Endpoints())
    assert {1: "lo", 8: "cali1"} == {ifindex: one.interface for ifindex, one in joined.by_index.items()}
    assert "ifindex:5" == joined.of(5).interface


WEB = ClusterPod("ns-b", "server", ("10.65.0.3",))  # its interface is named SERVER
OTHER = ClusterPod("ns-b", "other", ("10.65.0.9",))


def test_a_pod_of_the_api_server_is_known_by_the_name_of_its_interface_before_it_has_an_address():
    assert {7: ("ns-b", "server")} == pods(join([(7, SERVER)], cluster=[ClusterPod("ns-b", "server")]))


def test_with_any_of_the_prefixes():
    name = workload_interface("eni", "ns-b", "server")
    assert {7: ("ns-b", "server")} == pods(join([(7, name)], prefixes=("cali", "eni"), cluster=[WEB]))


@pytest.mark.parametrize(("interface", "named"), [(SERVER, {7: ("ns-b", "server")}), ("cali7", {})])
@pytest.mark.parametrize("turn", [1, -1])
def test_of_two_files_about_an_interface_the_one_whose_pod_it_is_named_after_counts(interface, named, turn):
    files = [EndpointStatus(interface, *pod, ()) for pod in (("ns-b", "server"), ("ns-z", "old"))][::turn]
    joined = join([(7, interface)], pods=files)
    assert (named, 1) == (pods(joined), joined.mismatches)
    assert 0 == join([(8, "cali8")], pods=files).mismatches


@pytest.mark.parametrize("prefix", ["eni", "azv", "gke", "vlan"])
def test_a_pod_of_a_known_plugin_is_one_without_its_prefix_and_without_interface_state(prefix):
    name = workload_interface(prefix, "ns-b", "server")
    joined = join([(7, name), (3, "eth0")], [("10.65.0.3", 7)], states=None, cluster=[WEB])
    assert [("workload", "ns-b/server"), ("host", "eth0")] == [(one.kind, one.title) for one in map(joined.of, (7, 3))]
    assert "inbound" == joined.of(7).direction(1)
    assert "workload" == join([(7, name)], states=None).of(7).kind


def test_where_interfaces_have_other_names_a_route_to_its_address_names_the_pod():
    assert {7: ("ns-b", "server")} == pods(join([(7, "calixyz")], [("10.65.0.3", 7)], cluster=[WEB]))


def test_where_interfaces_are_named_after_pods_a_route_alone_names_nobody():
    # OTHER has just gone, and its address belongs to a pod that the API server has not reported yet.
    joined = join([(7, SERVER), (8, "cali0")], [("10.65.0.3", 7), ("10.65.0.9", 8)], cluster=[WEB, OTHER])
    assert {7: ("ns-b", "server")} == pods(joined)
    assert 0 == joined.mismatches


@pytest.mark.parametrize("turn", [1, -1])
def test_an_address_that_two_pods_claim_names_neither_and_keeps_who_was_known(turn):
    gone, new = (ClusterPod("d", name, ("10.0.0.1",)) for name in ("gone", "new"))
    facts = {"links": [(7, "eni123")], "routes": [("10.0.0.1", 7)], "prefixes": ("eni",)}
    joined = join(**facts, cluster=[gone, new][::turn])
    assert ({}, 1) == (pods(joined), joined.mismatches)
    known = join(**facts, cluster=[gone])
    assert {7: ("d", "gone")} == pods(join(**facts, cluster=[gone, new][::turn], remembered=known))


def test_a_route_through_the_hosts_own_interface_names_nobody():
    assert {} == pods(join([(2, "eth0")], [("10.65.0.3", 2)], cluster=[WEB]))


@pytest.mark.parametrize(
    ("file", "route", "winner", "mismatches"),
    [
        (SERVER_POD, "10.65.0.3", "server", 0),
        (None, "10.65.0.3", "server", 0),
        (EndpointStatus(SERVER, "ns-b", "other", ("10.65.0.9",)), "10.65.0.3", "server", 1),
        (EndpointStatus(SERVER, "ns-b", "other", ("10.65.0.9",)), "10.65.0.9", "other", 1),
        (EndpointStatus(SERVER, "ns-b", "third", ()), "10.65.0.9", "third", 1),
        (SERVER_POD, "10.65.0.9", "server", 1),
        (None, "10.65.0.9", "server", 1),
    ],
)
def test_two_sources_that_agree_are_believed_and_a_third_is_shown_to_disagree(file, route, winner, mismatches):
    joined = join([(7, SERVER)], [(route, 7)], pods=[file] if file else [], cluster=[WEB, OTHER])
    assert ({7: ("ns-b", winner)}, mismatches) == (pods(joined), joined.mismatches)


def test_a_pods_address_that_leads_elsewhere_is_a_disagreement():
    joined = join([(7, SERVER), (8, "cali0")], [("10.65.0.3", 8)], cluster=[WEB])
    assert ({7: ("ns-b", "server")}, 1) == (pods(joined), joined.mismatches)


def test_an_identity_stays_when_the_api_server_forgets_the_pod_and_goes_with_the_interface():
    known = join([(7, SERVER)], cluster=[WEB])
    assert {7: ("ns-b", "server")} == pods(join([(7, SERVER)], remembered=known))
    assert {} == pods(join([(9, SERVER)], remembered=known))


def test_without_a_route_the_addresses_are_the_api_servers():
    assert ("10.65.0.3",) == join([(7, SERVER)], cluster=[WEB]).of(7).addresses


# What was known stays while a source cannot be read, and what is gone stays gone.

POD_STATES = [(1, "lo", HOST), (5, CLIENT, WORKLOAD), (7, SERVER, WORKLOAD)]
POD_LINKS = [(1, "lo"), (5, CLIENT), (7, SERVER)]


@pytest.mark.parametrize("links", [None, POD_LINKS])
@pytest.mark.parametrize("states", [None, POD_STATES])
def test_names_kinds_and_pods_stay_with_their_index_while_sources_cannot_be_read(links, states):
    odd = [(9, "odd0", WORKLOAD), (10, "docker0", UNMANAGED)]
    known = join([*POD_LINKS, (9, "odd0"), (10, "docker0")], states=[*POD_STATES, *odd], pods=[CLIENT_POD])
    links, states = links and [*links, (9, "odd0"), (10, "docker0")], states and [*states, *odd]
    later = join(links, states=states, remembered=known)
    assert known.by_index.keys() == later.by_index.keys()
    for ifindex, one in known.by_index.items():
        other = later.of(ifindex)
        assert (one.interface, one.kind, one.pod) == (other.interface, other.kind, other.pod)


def test_a_pod_recreated_while_the_links_cannot_be_read_leaves_its_old_index_out():
    known = join(POD_LINKS, states=POD_STATES, pods=[CLIENT_POD])
    both = join(None, states=[*POD_STATES, (19, CLIENT, WORKLOAD)], pods=[CLIENT_POD], remembered=known)
    new = join(None, states=[*POD_STATES[::2], (19, CLIENT, WORKLOAD)], pods=[CLIENT_POD], remembered=both)
    for joined in (both, new):
        assert (CLIENT, "leftover") == (joined.of(19).interface, joined.of(5).kind)
        assert {19: ("ns-a", "client")} == pods(joined)


def test_an_interface_whose_state_is_gone_is_not_remembered():
    known = join(POD_LINKS, states=POD_STATES)
    assert "leftover" == join(None, states=POD_STATES[:2], remembered=known).of(7).kind


def test_a_leftover_stays_one_while_the_links_cannot_be_read():
    known = join(POD_LINKS[:2], states=POD_STATES)
    assert ([7], "leftover") == ([state.ifindex for state in known.leftovers], known.of(7).kind)
    later = join(None, states=POD_STATES, remembered=known)
    assert ("leftover", CLIENT) == (later.of(7).kind, later.of(5).interface)


def test_an_index_that_has_another_name_now_leaves_its_state_over():
    joined = join([(1, "lo"), (5, "veth0"), (7, SERVER)], states=POD_STATES)
    assert (None, [5]) == (joined.of(5).state, [state.ifindex for state in joined.leftovers])


@pytest.mark.parametrize("links", [[(1, "lo"), (2, "eth0")], [(1, "lo"), (5, "eth0")], [(1, "lo")]])
def test_the_links_of_another_network_namespace_say_nothing(links):
    joined = join(links, [("10.65.0.2", 5)], POD_STATES)
    assert not joined.links_known
    assert {1: "lo", 5: CLIENT, 7: SERVER} == interfaces(joined)
    assert () == joined.of(5).addresses


def test_an_interface_that_a_status_file_names_is_a_workload_whatever_its_name():
    joined = join([(1, "lo"), (5, "eni12")], states=None, pods=[EndpointStatus("eni12", "ns-a", "client", ())])
    assert "workload" == joined.of(5).kind


def test_entries_of_leftovers_are_told_from_those_of_interfaces():
    joined = join(POD_LINKS, states=POD_STATES)
    assert [99, 99] == joined.leftover_entries(table([(5, 0), (99, 0), (99, 1)]))
    assert [] == join(None, states=POD_STATES).leftover_entries(table([(5, 0), (99, 0)]))


def test_nothing_is_said_to_lose_packets_while_the_links_cannot_be_read():
    assert [(5, 0), (5, 1), (7, 0), (7, 1)] == [
        (one.ifindex, hook) for one, hook in join(POD_LINKS, states=POD_STATES).lose_packets(table([(1, 0), (1, 1)]))
    ]
    assert [] == join(None, states=POD_STATES).lose_packets(table([]))


# Properties of an endpoint.

V4, V6, BOND_SLAVE = 0x2, 0x4, 0x20


def endpoint_of(flags, kind="workload"):
    return Endpoint(5, CLIENT, kind, state=None if flags is None else InterfaceState(5, CLIENT, flags))


def table(keys, slots=27):
    return CounterTable(layout_of(slots), dict.fromkeys(keys, (0,) * slots))


@pytest.mark.parametrize(
    ("kind", "flags", "expected"),
    [
        ("workload", WORKLOAD, True),
        ("workload", None, True),
        ("host", HOST, True),
        ("host", None, False),
        ("unmanaged", UNMANAGED, True),
        ("unknown", None, False),
    ],
)
def test_an_interface_is_calicos_where_its_programs_know_it_or_it_is_a_workloads(kind, flags, expected):
    assert expected is endpoint_of(flags, kind).belongs_to_calico


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("workload", ["outbound", "inbound", "inbound", ""]),
        ("host", ["inbound", "outbound", "inbound", ""]),
        ("unmanaged", ["inbound", "outbound", "inbound", ""]),
        ("unknown", ["", "", "", ""]),
        ("leftover", ["", "", "", ""]),
    ],
)
def test_what_passes_a_hook_goes_to_or_from_the_endpoint(kind, expected):
    assert expected == [endpoint_of(None, kind).direction(hook) for hook in (0, 1, 2, 7)]


@pytest.mark.parametrize("slots", [25, 26, 27, 40])
@pytest.mark.parametrize("ready", [V4, V6, V4 | V6])
@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        ([], (0, 1)),
        ([(5, 0)], (1,)),
        ([(5, 1)], (0,)),
        ([(5, 0), (5, 1)], ()),
        ([(5, 2), (7, 0), (7, 1)], (0, 1)),  # of XDP, and another's
    ],
)
@pytest.mark.parametrize(("word", "kind"), [(0x1, "workload"), (0x8, "host")])
def test_from_25_slots_on_an_endpoint_that_is_attached_needs_an_entry_at_each_tc_hook(
    slots, ready, keys, missing, word, kind
):
    assert missing == endpoint_of(word | ready, kind).hooks_without_entry(table(keys, slots))


@pytest.mark.parametrize(
    ("flags", "slots"),
    [
        *((WORKLOAD, slots) for slots in (14, 15, 17, 23)),  # the program makes it at the first packet
        (0x1, 27),  # not ready in any family
        (HOST | BOND_SLAVE, 27),  # its programs are on the bond
        (UNMANAGED | V4 | V6, 27),
        (None, 27),
    ],
)
def test_where_nothing_would_be_lost_no_hook_is_without_its_entry(flags, slots):
    assert () == endpoint_of(flags).hooks_without_entry(table([], slots))
