"""The way of a packet through a node: what skips policy, services, and everything that makes a verdict uncertain.

The node is that of the experiments, with its real service and route tables beside what the bundle of then held.
"""

import struct
from dataclasses import replace

import pytest

from exporter.bpf.maps import MapDenied
from exporter.calico.packet import Packet
from exporter.calico.policy_debug import parse_file_name
from exporter.calico.program_tag import program_tags
from exporter.calico.protocols import ICMP, ICMP6, SCTP, TCP, UDP
from exporter.diagnosis import trace_sentences
from exporter.diagnosis import trace_walk as module
from exporter.diagnosis.explain import explain
from exporter.diagnosis.policy_run import load_file
from exporter.diagnosis.sentences import sentences
from exporter.diagnosis.trace import PARTS, trace
from exporter.diagnosis.trace_node import NodeFacts
from exporter.node import NodeError
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from tests.recorded import recording
from tests.service_tables import APPROVED, MAPS, OPENER, affinity, backend, flow, frontend, route
from tests.traces.experiments import experiments

KINDS = {
    "cali_v4_nat_fe3": "lpm_trie",
    "cali_v4_nat_be": "hash",
    "cali_v4_nat_aff": "lru_hash",
    "cali_v4_routes": "lpm_trie",
}
CLIENT, CLIENT2, SERVER, PLAIN = (f"10.244.145.{number}" for number in (197, 193, 194, 201))
NODE, OUTSIDE = "10.99.0.2", "10.99.0.1"


def entries_of(name):
    return [(bytes.fromhex(key), bytes.fromhex(value)) for key, value in MAPS[name]["entries"].items()]


@pytest.fixture
def node(make):
    """The node of an experiment, with the tables of services and routes and its addresses."""

    def build(name, *maps, **facts):
        found = make.like(experiments()[name].bundle)
        tables = [
            make.table(table, 500 + number, KINDS[table], *entries_of(table))
            for number, table in enumerate(KINDS)
            if MAPS[table]["entries"]
        ]
        found.maps |= {one.info.name: one for one in (*tables, *maps)}
        found.facts |= {"addresses": (make.address(NODE, 24, 2), make.address("127.0.0.1", 8, 1))} | facts
        return found

    return build


def follow(source, packet, via=""):
    settings = Settings(flows_of=lambda _: {packet.source, packet.destination})
    snapshot = take_snapshot(source, settings, Memory(), PARTS | {"conntrack"})
    facts = NodeFacts(snapshot, packet.family)
    ends = (facts.end(one) for one in (packet.source, packet.destination))
    return trace(snapshot, packet, *ends, via)


OTHER, OTHER_POD, OTHER_TUNNEL = "10.99.0.7", "10.244.9.5", "10.244.9.0"
IN_POOL, NAT_OUTGOING, WORKLOAD, LOCAL, HOST, TUNNELED = 0x1, 0x2, 0x4, 0x8, 0x10, 0x40
EXCLUDE = 0x4  # of a service


def with_other_node(make, tunneled):
    """The node's routes, and those to another node with a block of pods."""
    return make.table(
        "cali_v4_routes",
        503,
        "lpm_trie",
        *entries_of("cali_v4_routes"),
        route(f"{OTHER}/32", HOST, OTHER),
        route(f"{OTHER_TUNNEL}/32", HOST | TUNNELED | IN_POOL, OTHER_TUNNEL),
        route("10.244.9.0/26", IN_POOL | NAT_OUTGOING | WORKLOAD | (TUNNELED if tunneled else 0), OTHER),
    )


def tcp(source, destination, port, source_port=40000):
    return Packet(4, source, destination, TCP, source_port, port)


def udp(source, destination, port, source_port=40000):
    return Packet(4, source, destination, UDP, source_port, port)


def programs(found):
    return [(one.endpoint.title, one.direction, one.verdict) for one in found.programs]


# Services: policy sees the backend, and the node's own tables say which.


@pytest.mark.parametrize(
    "name",
    ["v3.32.1/12-service-vip", "v3.32.1/14-service-vip-denied", "v3.33/13-service-vip-tcp-port-translation"],
)
def test_to_a_services_address_the_packet_goes_where_the_node_sent_it(node, name):
    experiment = experiments()[name]
    found = follow(node(name), replace(experiment.packet, translated=None))
    backend = experiment.case["nat"]
    assert [(backend["dst_ip"], backend["dport"])] == [(one.address, one.port) for one, _ in found.backends]
    for interface, _, counted in experiment.programs:
        program = next(one for one in found.programs if one.endpoint.interface == interface)
        experiment.check(counted, program.verdict, program.run.rule_ids)
        assert f"{backend['dst_ip']}:{backend['dport']}" == program.backend
    assert experiment.programs[-1][2]["verdict"] == found.verdict


def test_a_service_without_backends_is_named_as_such(node):
    found = follow(node("v3.32.1/01-allow-selector-udp"), tcp(CLIENT, "10.96.86.233", 80))
    assert ("deny", ()) == (found.verdict, found.programs)
    assert "the service 10.96.86.233:80 has no backends: Calico rejects the packet before policy" in found.notes


def test_each_backend_of_a_service_is_followed(node):
    found = follow(node("v3.32.1/31-service-rule-allow"), tcp(CLIENT, "10.96.42.230", 80))
    assert {"10.244.145.199", "10.244.145.200"} == {one.address for one, _ in found.backends}
    assert {"10.244.145.199:8080", "10.244.145.200:8080"} == {one.backend for one in found.programs}


def test_the_answer_has_each_backend_with_its_verdict_and_says_whose_program_is_whose(node):
    found = follow(node("v3.32.1/31-service-rule-allow"), tcp(CLIENT, "10.96.42.230", 80))
    lines = [line for line, _ in trace_sentences.sentences(found, "ns-a/client", "10.96.42.230", verbose=False)]
    pods = "ns-b/web-6f65f784b4-c8dx8", "ns-b/web-6f65f784b4-pc7t8"
    assert [
        f"  backend {one.address}:8080 ({pod}): allowed" for (one, _), pod in zip(found.backends, pods, strict=True)
    ] == lines[1:3]
    headers = [line.partition(", backend ")[2].partition(": ")[0] for line in lines if "IPv4" in line]
    assert [f"{one.address}:8080" for one, _ in found.backends for _ in range(2)] == headers


def test_an_ipv6_backend_is_written_as_in_a_url(make):
    source = make.like(recording("v3.32.1/24-v6-egress-deny.before").bundle)
    tables = {
        "cali_v6_nat_fe3": ("lpm_trie", frontend("fd00:96::1", 80, TCP, 7, 1)),
        "cali_v6_nat_be": ("hash", backend(7, 0, "fd00:65::3", 8080)),
    }
    for number, (name, (kind, entry)) in enumerate(tables.items()):
        source.maps[name] = make.table(name, 600 + number, kind, entry)
    found = follow(source, Packet(6, "fd00:65::2", "fd00:96::1", TCP, 40000, 80))
    assert {"[fd00:65::3]:8080"} == {one.backend for one in found.programs}
    assert any(
        "  backend [fd00:65::3]:8080 (ns-b/server): " in line
        for line, _ in trace_sentences.sentences(found, "", "", verbose=False)
    )


def test_why_a_service_denies_says_whether_it_has_backends_elsewhere_or_refuses_the_source(node, make):
    name, address = "v3.32.1/31-service-rule-allow", "10.96.5.5"
    for more, source, said in (
        ({"flags": 0x3}, OUTSIDE, "has no backends on this node, and its traffic policy is Local: Calico rejects"),
        ({"flags": 0x3}, CLIENT, "has no backends on this node, and its traffic policy is Local: Calico rejects"),
        ({"count": 0xFFFFFFFF}, OUTSIDE, "does not serve this source (source ranges): Calico drops"),
        ({"count": 0}, OUTSIDE, "has no backends: Calico rejects"),
    ):
        entry = frontend(address, 80, TCP, 77, more.get("count", 1), flags=more.get("flags", 0))
        found = follow(with_service(node, make, name, entry, (OTHER_POD, 8080)), tcp(source, address, 80))
        assert ("deny", [f"the service {address}:80 {said} the packet before policy"]) == (
            found.verdict,
            [note for note in found.notes if "service" in note],
        )


@pytest.mark.parametrize("timeout", [10800, 0])
@pytest.mark.parametrize("chosen", ["10.244.145.200", "10.244.145.77"])
def test_the_backend_that_session_affinity_chose_is_named_while_the_service_has_it(node, make, timeout, chosen):
    web = "10.96.42.230"
    frontends = [
        (key, value[:12] + struct.pack("<I", timeout) + value[16:]) for key, value in entries_of("cali_v4_nat_fe3")
    ]
    bound = affinity(web, 80, 6, CLIENT, chosen, 8080, 1)
    tables = (
        make.table("cali_v4_nat_fe3", 600, "lpm_trie", *frontends),
        make.table("cali_v4_nat_aff", 601, "lru_hash", bound),
    )
    source = node("v3.32.1/31-service-rule-allow", *tables)
    notes = "; ".join(follow(source, tcp(CLIENT, web, 80)).notes)
    said = "session affinity gave this client 10.244.145.200:8080 last, and gives it again within 10800 s"
    assert (said in notes) == (timeout > 0 and chosen.endswith("200"))
    assert ("affinity" in notes) == (said in notes)
    assert "affinity" not in "; ".join(follow(source, tcp(CLIENT2, web, 80)).notes)


def test_pre_dnat_policy_sees_a_node_ports_own_port(node):
    experiment = experiments()["v3.32.1/39-hep-prednat-deny"]
    found = follow(node(experiment.name), experiment.packet)
    assert ("deny", "") == (found.verdict, found.why_unknown)
    assert {("eth0", "pre_dnat", "hep-predeny")} == {
        (one.endpoint.title, one.phase, one.decided_by.policy) for one in found.programs
    }


def test_backends_of_different_verdicts_leave_it_unknown(node, make):
    web = "10.96.42.230"
    # A rule of ns-a's pods allows what the service's IP set has: here one of its two backends.
    source = node("v3.32.1/31-service-rule-allow")
    sets = source.maps["cali_v4_ip_sets"]
    kept = [one for one in sets.entries() if one[0][12:18] != bytes((10, 244, 145, 200, 0x90, 0x1F))]
    keys, values = (b"".join(column) for column in zip(*kept, strict=True))
    source.maps["cali_v4_ip_sets"] = replace(sets, keys=keys, values=values)
    found = follow(source, tcp(CLIENT, web, 80))
    verdicts = {one.address: verdict for one, verdict in found.backends}
    assert {"10.244.145.199": "allow", "10.244.145.200": "deny"} == verdicts
    assert ("unknown", "the service's backends differ") == (found.verdict, found.why_unknown)


def with_service(node, make, name, entry, to, *others):
    """The node with one more service, whose only backend is `to`."""
    more = {"cali_v4_nat_fe3": entry, "cali_v4_nat_be": backend(77, 0, *to)}
    tables = [
        make.table(table, 600 + number, KINDS[table], *entries_of(table), one)
        for number, (table, one) in enumerate(more.items())
    ]
    return node(name, *tables, *others)


def test_a_service_is_translated_for_tcp_and_udp_alone(node, make):
    name, service = "v3.32.1/31-service-rule-allow", "10.96.5.5"
    for protocol, backends in ((TCP, 1), (SCTP, 0)):
        source = with_service(node, make, name, frontend(service, 3868, protocol, 77, 1), (SERVER, 3868))
        found = follow(source, Packet(4, CLIENT, service, protocol, 40000, 3868))
        assert backends == len(found.backends)
        assert {one.endpoint.title for one in found.programs} == {"ns-a/client", *["ns-b/server"] * backends}
        assert (not backends) == any("translates for TCP and UDP alone" in note for note in found.notes)


def test_from_outside_only_the_addresses_that_answer_have_node_ports(node, make):
    address = "10.99.0.77"  # of the node, and not one of `nodePortAddresses`
    routes = make.table(
        "cali_v4_routes", 503, "lpm_trie", *entries_of("cali_v4_routes"), route(f"{address}/32", LOCAL | HOST)
    )
    source = node("v3.32.1/31-service-rule-allow", routes)
    for client, backends in ((CLIENT, 2), (NODE, 2), (OUTSIDE, 0), ("192.0.2.7", 0)):
        assert backends == len(follow(source, tcp(client, address, 30080)).backends)
        assert 2 == len(follow(source, tcp(client, NODE, 30080)).backends)


def test_from_outside_a_service_goes_on_to_another_node_in_a_tunnel_past_policy(node, make):
    name, to = "v3.32.1/43-hep-forward-egress-deny", (OTHER_POD, 6602)
    entry = frontend(NODE, 30099, UDP, 77, 1)
    source = with_service(node, make, name, entry, to, with_other_node(make, tunneled=False))
    for client, expected in ((OUTSIDE, ["tc_ingress"]), (CLIENT, ["tc_ingress", "tc_egress"])):
        found = follow(source, udp(client, NODE, 30099))
        assert expected == [one.hook for one in found.programs]
        assert ("allow" if client == OUTSIDE else "deny") == found.verdict
        assert any("ask its own node" in note for note in found.notes)


# What skips policy.


def test_the_nodes_packets_to_its_own_pods_are_allowed_unasked(node):
    found = follow(node("v3.32.1/02-default-deny-udp"), udp(NODE, SERVER, 5300))
    assert ("allow", [("ns-b/server", "inbound", "allow")]) == (found.verdict, programs(found))
    assert found.programs[0].run is None
    assert "policy is not asked" in found.programs[0].why


def test_what_a_pod_sends_to_itself_does_not_leave_it_but_through_a_service(node, make):
    name = "v3.32.1/02-default-deny-udp"
    (program,) = follow(node(name), udp(SERVER, SERVER, 5300)).programs
    assert ("allow", None) == (program.verdict, program.run)
    entry = frontend("10.96.5.5", 53, UDP, 77, 1)
    found = follow(with_service(node, make, name, entry, (SERVER, 5300)), udp(SERVER, "10.96.5.5", 53))
    assert ("deny", [False, False]) == (found.verdict, [one.run is None for one in found.programs])


def test_a_failsafe_port_of_the_node_is_open_whatever_policy_says(node, make):
    packet = tcp(OUTSIDE, NODE, 30081, 47001)
    name = "v3.32.1/39-hep-prednat-deny"
    failsafes = make.failsafes("cali_v4_fsafes2", 600, (TCP, 30081, "10.99.0.0/24"))
    found = follow(node(name, failsafes), packet)
    assert ("allow", None) == (found.verdict, found.programs[0].run)
    assert "failsafe port" in found.programs[0].why
    others = make.failsafes("cali_v4_fsafes2", 600, (TCP, 30081, "192.0.2.0/24"), (UDP, 30081, "0.0.0.0/0"))
    assert follow(node(name, others), packet).programs[0].run is not None


def test_where_failsafe_ports_are_not_known_a_default_one_is_not_denied(node, monkeypatch):
    experiment = experiments()["v3.32.1/39-hep-prednat-deny"]
    monkeypatch.setattr(module, "DEFAULT_INBOUND", frozenset({(TCP, 30080)}))
    source = node(experiment.name)
    del source.maps["cali_v4_nat_fe3"]  # the node port is an ordinary port
    found = follow(source, experiment.packet)
    assert "unknown" == found.verdict
    assert "port 30080 is a failsafe port by default" in found.why_unknown


@pytest.mark.parametrize(("net", "open_"), [("10.99.0.0/24", True), ("10.96.0.0/16", False)])
def test_a_failsafe_port_is_that_of_the_backend(node, make, net, open_):
    ports = make.failsafes("cali_v4_fsafes2", 602, (TCP, 6443, net), outbound=True)
    found = follow(node("v3.32.1/43-hep-forward-egress-deny", ports), tcp(NODE, "10.96.0.1", 443))
    (program,) = found.programs
    assert open_ == (program.run is None)
    assert not open_ or program.why.startswith("port 6443 is a failsafe port")


def test_where_failsafe_ports_are_not_known_a_default_one_of_the_backend_is_not_denied(node, make, monkeypatch):
    entry, name = frontend("10.96.5.5", 53, UDP, 77, 1), "v3.32.1/43-hep-forward-egress-deny"
    source = with_service(node, make, name, entry, (OUTSIDE, 6602))
    assert "deny" == follow(source, udp(NODE, "10.96.5.5", 53)).verdict
    monkeypatch.setattr(module, "DEFAULT_OUTBOUND", frozenset({(UDP, 6602)}))
    found = follow(source, udp(NODE, "10.96.5.5", 53))
    assert "unknown" == found.verdict
    assert "port 6602 is a failsafe port by default" in found.why_unknown


@pytest.mark.parametrize(("kind", "asked"), [(135, False), (136, False), (133, False), (128, True), (134, True)])
def test_neighbour_discovery_is_allowed_unasked(make, kind, asked):
    source = make.like(recording("v3.32.1/24-v6-egress-deny.before").bundle)
    found = follow(source, Packet(6, "fd00:65::2", "fd00:65::3", ICMP6, icmp_type=kind))
    assert {asked} == {one.run is not None for one in found.programs}
    assert asked or "allow" == found.verdict


def test_about_a_pods_packets_to_its_own_node_something_decides_after_policy(node):
    found = follow(node("v3.32.1/01-allow-selector-udp"), udp(CLIENT, NODE, 53))
    assert ("allow", [("ns-a/client", "outbound", "allow")]) == (found.verdict, programs(found))
    assert any("DefaultEndpointToHostAction" in note for note in found.notes)


def test_a_live_flow_is_allowed_unasked_but_tcp_is_asked_again(node, make):
    second = 10**9
    for protocol, packet, unasked in ((UDP, udp, True), (TCP, tcp, False)):
        asked = packet(CLIENT2, SERVER, 5300)
        one = flow(
            protocol,
            (CLIENT2, 40000),
            (SERVER, 5300),
            {"bits": APPROVED | OPENER},
            {"bits": APPROVED},
            last_seen=second,
        )
        source = node(
            "v3.32.1/02-default-deny-udp", make.table("cali_v4_ct4", 700, "lru_hash", one), clock_ns=2 * second
        )
        found = follow(source, asked)
        assert ("allow" if unasked else "deny") == found.verdict
        assert unasked == (found.programs[-1].run is None)
        source.facts["clock_ns"] = 1000 * second  # long after its last packet
        assert "deny" == follow(source, asked).verdict


def test_a_flow_that_its_destination_has_not_allowed_is_asked_about_there(node, make):
    one = flow(UDP, (CLIENT2, 40000), (SERVER, 5300), {"bits": APPROVED | OPENER}, {"bits": 0}, last_seen=1)
    source = node("v3.32.1/02-default-deny-udp", make.table("cali_v4_ct4", 700, "lru_hash", one), clock_ns=2)
    found = follow(source, udp(CLIENT2, SERVER, 5300))
    assert ("deny", [True, False]) == (found.verdict, [one.run is None for one in found.programs])


LIVE = {"bits": APPROVED | OPENER}, {"bits": APPROVED}


@pytest.mark.parametrize("ends", [(CLIENT2, SERVER), (SERVER, CLIENT2)])
@pytest.mark.parametrize(("protocol", "port"), [(ICMP, 0), (SCTP, 0), (SCTP, 5300), (47, 0)])
def test_a_live_flow_without_ports_is_that_of_both_addresses_in_both_directions(node, make, ends, protocol, port):
    one = flow(protocol, (ends[0], port), (ends[1], port), *LIVE, last_seen=1)
    source = node("v3.32.1/02-default-deny-udp", make.table("cali_v4_ct4", 700, "lru_hash", one), clock_ns=2)
    with_ports = (40000, 5300) if protocol == SCTP else (0, 0)
    found = follow(source, Packet(4, CLIENT2, SERVER, protocol, *with_ports, icmp_type=8 if protocol == ICMP else 0))
    assert (("deny", False) if port else ("allow", True)) == (found.verdict, found.programs[-1].run is None)


def test_a_flow_that_only_the_destination_allowed_is_asked_about_at_its_source(node, make):
    one = flow(ICMP, (SERVER, 0), (CLIENT2, 0), {"bits": APPROVED | OPENER}, {"bits": 0}, last_seen=1)
    source = node("v3.32.1/02-default-deny-udp", make.table("cali_v4_ct4", 700, "lru_hash", one), clock_ns=2)
    found = follow(source, Packet(4, CLIENT2, SERVER, ICMP, icmp_type=8))
    assert [("ns-c/client2", False), ("ns-b/server", True)] == [
        (one.endpoint.title, one.run is None) for one in found.programs
    ]


def test_a_live_flow_passes_a_host_endpoint_unasked(node, make):
    name, packet = "v3.32.1/41-hep-forward-ingress-deny", udp(OUTSIDE, PLAIN, 6601)
    assert "deny" == follow(node(name), packet).verdict
    one = flow(UDP, (OUTSIDE, 40000), (PLAIN, 6601), *LIVE, last_seen=1)
    found = follow(node(name, make.table("cali_v4_ct4", 700, "lru_hash", one), clock_ns=2), packet)
    assert ("allow", [True, True]) == (found.verdict, [one.run is None for one in found.programs])


@pytest.mark.parametrize(("family", "kinds"), [(4, (3, 4, 5, 11, 12)), (6, (1, 2, 3, 4, 127))])
def test_an_icmp_error_belongs_to_another_flow(node, make, family, kinds):
    source = (
        node("v3.32.1/02-default-deny-udp")
        if family == 4
        else make.like(recording("v3.32.1/24-v6-egress-deny.before").bundle)
    )
    ends = (CLIENT2, SERVER) if family == 4 else ("fd00:65::2", "fd00:65::3")
    for kind in kinds:
        found = follow(source, Packet(family, *ends, ICMP if family == 4 else ICMP6, icmp_type=kind))
        assert ("unknown", ()) == (found.verdict, found.programs)
        assert "ICMP error" in found.why_unknown


def test_a_blackhole_route_drops_before_policy(node, make):
    source = node(
        "v3.32.1/01-allow-selector-udp", make.table("cali_v4_routes", 503, "lpm_trie", route("10.97.0.0/16", 0x100))
    )
    found = follow(source, udp(CLIENT, "10.97.1.1", 53))
    assert "deny" == found.verdict
    assert any("blackhole" in one.why for one in found.programs)
    source.maps["cali_v4_nat_be"] = MapDenied("refused")  # then it may be the address of a service
    found = follow(source, udp(CLIENT, "10.97.1.1", 53))
    assert ("unknown", True) == (found.verdict, "services are not known here" in found.why_unknown)
    assert "deny" == follow(source, Packet(4, CLIENT, "10.97.1.1", ICMP, icmp_type=8)).verdict


def test_a_blackhole_route_drops_what_comes_from_outside_too(node, make):
    routes = make.table("cali_v4_routes", 503, "lpm_trie", *entries_of("cali_v4_routes"), route("10.97.0.0/16", 0x200))
    for name in ("v3.32.1/01-allow-selector-udp", "v3.33/46-hep-xdp-deny"):
        found = follow(node(name, routes), udp(OUTSIDE, "10.97.1.1", 53))
        assert ("deny", "") == (found.verdict, found.why_unknown)
        assert any("a blackhole route" in note for note in found.notes)
    (dropped,) = follow(node("v3.32.1/01-allow-selector-udp", routes), udp(CLIENT, "10.97.1.1", 53)).programs
    assert (None, "deny") == (dropped.run, dropped.verdict)


def test_no_route_is_looked_up_of_a_service_that_calico_leaves_alone(node, make):
    name, entry = "v3.32.1/01-allow-selector-udp", frontend("10.97.1.1", 53, UDP, 77, 1, flags=EXCLUDE)
    routes = make.table("cali_v4_routes", 503, "lpm_trie", *entries_of("cali_v4_routes"), route("10.97.0.0/16", 0x100))
    found = follow(with_service(node, make, name, entry, (SERVER, 53), routes), udp(CLIENT, "10.97.1.1", 53))
    assert ("allow", ["workload"]) == (found.verdict, [one.phase for one in found.programs])
    assert any("leaves to another load balancer" in note for note in found.notes)


def test_a_service_that_calico_leaves_alone_is_not_the_node_for_its_programs(node, make):
    """Such as node-local-dns, whose address is the node's too: its host endpoint polices it as what it forwards."""
    name, address = "v3.32.1/44-hep-normal-deny", "10.97.1.1"
    routes = make.table(
        "cali_v4_routes", 503, "lpm_trie", *entries_of("cali_v4_routes"), route(f"{address}/32", LOCAL | HOST)
    )
    entry = frontend(address, 6603, UDP, 77, 1, flags=EXCLUDE)
    excluded = with_service(node, make, name, entry, (SERVER, 53), routes)
    for source, expected in ((excluded, "forward"), (node(name, routes), "normal")):
        assert [expected] == [one.phase for one in follow(source, udp(OUTSIDE, address, 6603)).programs]


@pytest.mark.parametrize(
    ("ends", "port", "known"),
    [
        ((CLIENT, "192.0.2.7"), 51820, False),
        ((NODE, "192.0.2.7"), 51820, False),
        (("192.0.2.7", NODE), 51820, False),
        (("192.0.2.7", PLAIN), 51820, False),
        ((CLIENT, OTHER), 51820, True),
        ((CLIENT, PLAIN), 51820, True),
        ((CLIENT, "192.0.2.7"), 51821, True),
    ],
)
def test_udp_to_wireguards_port_may_be_dropped_between_the_node_and_others(node, make, ends, port, known):
    source = node("v3.33/46-hep-xdp-deny", with_other_node(make, tunneled=False))
    found = follow(source, udp(*ends, port), via="eth0")
    doubted = "WireGuard" in found.why_unknown
    assert (not known and found.verdict != "deny") == doubted
    assert doubted == (found.verdict == "unknown")


def test_in_ipv6_policy_may_not_see_the_number_of_another_protocol(make):
    source = make.like(recording("v3.32.1/24-v6-egress-deny.before").bundle)
    found = follow(source, Packet(6, "fd00:65::2", "fd00:65::3", SCTP, 40000, 5000))
    assert "unknown" == found.verdict
    assert "its verdict depends on how Calico's release reads protocol 132 from IPv6" in found.why_unknown
    assert "unknown" != follow(source, Packet(6, "fd00:65::2", "fd00:65::3", UDP, 40000, 5000)).verdict


# What other nodes change before a packet comes.


@pytest.mark.parametrize(
    ("source", "tunneled", "known"),
    [(OTHER, True, False), (OTHER, False, True), (OTHER_TUNNEL, True, True), (OTHER_POD, True, True)],
)
def test_a_node_behind_a_tunnel_has_an_address_that_is_not_known(node, make, source, tunneled, known):
    source_node = node("v3.32.1/01-allow-selector-udp", with_other_node(make, tunneled))
    found = follow(source_node, udp(source, SERVER, 5300))
    assert ("deny" if known else "unknown") == found.verdict
    assert known or f"{OTHER} may use a tunnel to pods here: policy then sees the tunnel's address" in found.why_unknown


@pytest.mark.parametrize(
    ("device", "address", "known"), [("vxlan.calico", 1, False), ("vxlan.calico", 0, True), ("eth1", 1, True)]
)
def test_a_device_of_a_tunnel_with_an_address_is_in_use_whatever_routes_say(node, make, device, address, known):
    source = node("v3.32.1/01-allow-selector-udp", with_other_node(make, tunneled=False))
    source.facts["links"] = (*source.facts["links"], make.link(77, device))
    source.facts["addresses"] = (*source.facts["addresses"], *[make.address("10.244.145.202", 32, 77)][:address])
    assert ("deny" if known else "unknown") == follow(source, udp(OTHER, SERVER, 5300)).verdict


def test_without_pods_elsewhere_a_tunnel_is_possible(node, make):
    routes = make.table(
        "cali_v4_routes", 503, "lpm_trie", *entries_of("cali_v4_routes"), route(f"{OTHER}/32", HOST, OTHER)
    )
    assert "unknown" == follow(node("v3.32.1/01-allow-selector-udp", routes), udp(OTHER, SERVER, 5300)).verdict


def with_policy_on_sources(node, make, way, tunneled):
    """A node whose host endpoint has a policy that asks for the packet's source: the one of a pod."""
    source = node("v3.32.1/44-hep-normal-deny", with_other_node(make, tunneled))
    policy = (
        experiments()["v3.32.1/01-allow-selector-udp"].bundle.policy_files().files["cali34769d6a557_ingress_v4.json"]
    )
    files = source.facts["policy_files"]
    source.facts["policy_files"] = replace(files, files={**files.files, f"eth0_{way}_v4.json": policy})
    return source


def test_what_outgoing_nat_of_another_node_may_replace_is_not_known(node, make):
    source = with_policy_on_sources(node, make, "ingress", tunneled=False)
    found = follow(source, udp(OTHER_POD, NODE, 6603), via="eth0")
    assert "unknown" == found.verdict
    assert f"outgoing NAT on its own node may have replaced {OTHER_POD}" in found.why_unknown
    assert "deny" == follow(source, udp(OUTSIDE, NODE, 6603), via="eth0").verdict


def test_the_nodes_own_packet_into_a_tunnel_has_an_address_that_is_not_known(node, make):
    for tunneled, expected in ((True, "unknown"), (False, "deny")):
        source = with_policy_on_sources(node, make, "egress", tunneled)
        found = follow(source, udp(NODE, OTHER_POD, 5300), via="eth0")
        assert expected == found.verdict
        assert not tunneled or f"this node may use a tunnel to {OTHER_POD}" in found.why_unknown


def test_a_tunnel_is_not_taken_for_the_only_interface_with_policy(node, make):
    name = "v3.32.1/43-hep-forward-egress-deny"
    found = follow(node(name, with_other_node(make, tunneled=True)), udp(CLIENT, OTHER_POD, 6602))
    assert "unknown" == found.verdict
    assert "name it with --via" in found.why_unknown


@pytest.mark.parametrize(("pod", "verdicts"), [(SERVER, ("deny", "deny")), (CLIENT, ("unknown", "allow"))])
def test_a_pod_that_denies_settles_it_whichever_interface_a_packet_comes_by(node, make, pod, verdicts):
    source = node("v3.32.1/41-hep-forward-ingress-deny", with_other_node(make, tunneled=True))
    found = follow(source, udp(OTHER_POD, pod, 5300))
    assert verdicts == (found.verdict, *(one.verdict for one in found.programs))


def test_where_each_end_is_and_whose_policy_was_not_evaluated(node, make):
    source_node = node("v3.32.1/01-allow-selector-udp", with_other_node(make, tunneled=False))
    for source, destination, expected in (
        (CLIENT, OTHER_POD, [(CLIENT, "here", ""), (OTHER_POD, "other_node", OTHER)]),
        (OTHER, SERVER, [(OTHER, "other_node", OTHER), (SERVER, "here", "")]),
        (OUTSIDE, SERVER, [(OUTSIDE, "outside", ""), (SERVER, "here", "")]),
        (CLIENT, NODE, [(CLIENT, "here", ""), (NODE, "here", "")]),
    ):
        found = follow(source_node, udp(source, destination, 5300))
        assert expected == [(one.address, one.where, one.node) for one in found.locations]
        elsewhere = any(where == "other_node" for _, where, _ in expected)
        assert elsewhere == any("ask its own node" in note for note in found.notes)
    unknown = follow(old(make, "v3.32.1/01-allow-selector-udp"), udp(OUTSIDE, SERVER, 5300))
    assert "unknown" == unknown.locations[0].where


# The file is the running program.


def tagged(node, make, tags, name="v3.32.1/02-default-deny-udp"):
    """The node, whose attached programs of ns-b/server's ingress policy have these tags."""
    arrays = [make.programs("cali_jump_ing2", 800), make.rules("cali_jump_egr2", 801, {5: 900}, "prog_array")]
    source = node(name, *[one for one in arrays if len(one.keys)])
    source.facts["programs"] = (
        [make.program(900, 1)] if tags is None else [replace(make.program(900, 1), tag=tag) for tag in tags]
    )
    return source


def tags_of(source, name):
    file = load_file(parse_file_name(name), source.facts["policy_files"].files[name])
    return program_tags([one.code for one in file.instructions])


def test_the_attached_program_has_the_tag_of_the_file_or_nothing_is_said(node, make):
    packet = udp(CLIENT2, SERVER, 5300)
    expected = tags_of(node("v3.32.1/02-default-deny-udp"), "cali34769d6a557_ingress_v4.json")
    assert 2 == len(expected)  # of older kernels and newer ones
    for tag in expected:
        found = follow(tagged(node, make, [tag]), packet)
        assert ("deny", True) == (found.verdict, found.programs[-1].checked)
    found = follow(tagged(node, make, ["0123456789abcdef"]), packet)
    assert "unknown" == found.verdict
    assert "the file is not the program in the kernel" in found.why_unknown


def test_a_program_that_may_not_be_read_is_not_checked(node, make):
    source = tagged(node, make, ["0123456789abcdef"])
    source.facts["programs"] = MapDenied("refused")
    found = follow(source, udp(CLIENT2, SERVER, 5300))
    assert ("deny", None) == (found.verdict, found.programs[-1].checked)


def test_an_interface_without_a_program_does_not_run_its_file(node, make):
    source = node("v3.32.1/02-default-deny-udp", make.rules("cali_jump_egr2", 801, {9: 900}, "prog_array"))
    source.facts["programs"] = [make.program(900, 1)]
    assert "unknown" == follow(source, udp(CLIENT2, SERVER, 5300)).verdict


# What is not known.


def test_without_policy_files_there_is_one_remedy(node, make):
    found = follow(node("v3.32.1/01-allow-selector-udp", policy_files=make.folder()), udp(CLIENT, SERVER, 5300))
    assert ("unknown", ()) == (found.verdict, found.programs)
    assert "bpfPolicyDebugEnabled: true" in found.why_unknown


def old(make, name):
    """A node without services, routes and addresses, as bundles of older versions are."""
    found = make.like(experiments()[name].bundle)
    found.facts["addresses"] = NodeError("no addresses")
    return found


def test_a_deny_that_the_node_itself_would_skip_is_not_known_without_the_interface(make):
    packet = udp(OUTSIDE, SERVER, 5300)
    found = follow(old(make, "v3.32.1/02-default-deny-udp"), packet)
    assert "unknown" == found.verdict
    assert f"{OUTSIDE} may be this node itself" in found.why_unknown
    assert "deny" == follow(old(make, "v3.32.1/02-default-deny-udp"), packet, via="eth0").verdict


def test_two_ends_that_may_both_be_elsewhere_need_the_interface(make):
    found = follow(old(make, "v3.32.1/44-hep-normal-deny"), udp(OUTSIDE, NODE, 6603))
    assert ("unknown", ()) == (found.verdict, found.programs)
    assert "--via" in found.why_unknown
    assert "allow" == follow(old(make, "v3.32.1/44-hep-normal-deny"), udp(OUTSIDE, NODE, 6603), via="eth0").verdict


def test_a_packet_that_does_not_meet_this_node_is_not_allowed_here(node):
    found = follow(node("v3.32.1/01-allow-selector-udp"), udp(OUTSIDE, "192.0.2.7", 53))
    assert ("unknown", ()) == (found.verdict, found.programs)
    assert f"neither {OUTSIDE} nor 192.0.2.7 is a pod of this node or the node itself" in found.why_unknown
    assert "allow" == follow(node("v3.32.1/01-allow-selector-udp"), udp(OUTSIDE, "192.0.2.7", 53), via="eth0").verdict


def test_with_addresses_and_routes_nothing_need_be_named(node):
    for name, packet, expected in (
        ("v3.32.1/41-hep-forward-ingress-deny", udp(OUTSIDE, PLAIN, 6601), "deny"),
        ("v3.32.1/44-hep-normal-deny", udp(OUTSIDE, NODE, 6603), "allow"),
    ):
        found = follow(node(name), packet)
        assert (expected, "") == (found.verdict, found.why_unknown)
        assert ["eth0"] == [one.endpoint.title for one in found.programs]


def test_the_kernel_s_route_tells_the_interface_to_the_outside(node, make):
    packet, second = udp(CLIENT, "192.0.2.7", 6602), make.link(77, "eth1")
    source = node("v3.32.1/43-hep-forward-egress-deny")
    states = [one for one in make.snapshot(source).ifstate.get() if one.name != "eth1"]
    eth0 = next(one for one in states if one.name == "eth0")
    rows = {one.ifindex: (one.name, one.flags) for one in [*states, replace(eth0, ifindex=77, name="eth1")]}
    source.maps["cali_iface4"] = make.ifstate("cali_iface4", 40, rows)
    source.facts["links"] = (*source.facts["links"], second)
    unknown = follow(source, packet)
    assert "which of eth0, eth1 lies between this node and 192.0.2.7 is not known" in unknown.why_unknown
    source.facts["interfaces_to"] = {"192.0.2.7": eth0.ifindex}
    assert ["eth0"] == [one.endpoint.interface for one in follow(source, packet).programs if not one.endpoint.pod]
    source.facts["interfaces_to"] = {"192.0.2.7": 77}
    assert [] == [one for one in follow(source, packet).programs if not one.endpoint.pod]


def test_ip_in_ip_is_decided_before_policy(node):
    found = follow(node("v3.32.1/01-allow-selector-udp"), Packet(4, CLIENT, SERVER, 4))
    assert ("unknown", ()) == (found.verdict, found.programs)


def test_without_the_members_of_ip_sets_a_rule_that_asks_for_them_is_not_known(node):
    source = node("v3.32.1/01-allow-selector-udp")
    source.maps["cali_v4_ip_sets"] = MapDenied("refused")
    found = follow(source, udp(CLIENT, SERVER, 5300))
    assert "unknown" == found.verdict
    assert "the members of IP sets are not known: refused" in found.why_unknown


def test_a_pod_without_its_file_is_not_known(node):
    source = node("v3.32.1/01-allow-selector-udp")
    files = {name: one for name, one in source.facts["policy_files"].files.items() if "cali34769d6a557" not in name}
    source.facts["policy_files"] = replace(source.facts["policy_files"], files=files)
    found = follow(source, udp(CLIENT, SERVER, 5300))
    assert ("unknown", ["allow", "unknown"]) == (found.verdict, [one.verdict for one in found.programs])
    assert "no policy file" in found.why_unknown


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_file_that_cannot_be_read_is_not_taken_for_no_policy(node, all_of_them):
    source = node("v3.32.1/41-hep-forward-ingress-deny")
    folder, problem = source.facts["policy_files"], "eth0_ingress_v4.json could not be read: Permission denied"
    unread = tuple(folder.files) if all_of_them else ("eth0_ingress_v4.json",)
    files = {name: one for name, one in folder.files.items() if name not in unread}
    source.facts["policy_files"] = replace(folder, files=files, unread=unread, problems=(problem,))
    found = follow(source, udp(OUTSIDE, CLIENT, 6601))
    assert "unknown" == found.verdict
    assert f"eth0, inbound: its policy file could not be read; {problem}" == found.why_unknown


def test_a_certain_deny_settles_it_whatever_else_is_not_known(node):
    source = node("v3.32.1/02-default-deny-udp")
    files = {name: one for name, one in source.facts["policy_files"].files.items() if "calie43c605b267" not in name}
    source.facts["policy_files"] = replace(source.facts["policy_files"], files=files)
    found = follow(source, udp(CLIENT2, SERVER, 5300))
    assert ("deny", ["unknown", "deny"]) == (found.verdict, [one.verdict for one in found.programs])


def test_untracked_policy_comes_first_and_may_end_it(node):
    name = "v3.33/46-hep-xdp-deny"
    denied = follow(node(name), udp(OUTSIDE, NODE, 5999))
    assert ("deny", [("xdp", "untracked")]) == (denied.verdict, [(one.hook, one.phase) for one in denied.programs])
    accepted = follow(node(name), udp(OUTSIDE, NODE, 5998))
    assert ("allow", ["xdp"]) == (accepted.verdict, [one.hook for one in accepted.programs])
    left = follow(node(name), udp(OUTSIDE, NODE, 5997))
    assert ("allow", ["tc_ingress"]) == (left.verdict, [one.hook for one in left.programs])


@pytest.mark.parametrize(
    ("pair", "interface", "expected"),
    [
        ("v3.32.1/50-tier-default-pass", "calibf331a988cf", "--from ns-a/client --to PEER"),  # two rules denied
        ("v3.32.1/50-tier-default-pass", "cali34769d6a557", ""),  # one did
        ("v3.32.1/02-ingress-deny", "cali34769d6a557", ""),
    ],
)
def test_why_leads_to_a_trace_where_several_rules_may_have_denied(pair, interface, expected):
    before, after = (recording(f"{pair}.{when}").snapshot for when in ("before", "after"))
    endpoint = next(one for one in after.endpoints.get().by_index.values() if one.interface == interface)
    lines = [line for line, _ in sentences(explain(before, after, endpoint), None)]
    commands = [line for line in lines if "calico-bpf-exporter trace" in line]
    assert bool(expected) == bool(commands)
    assert all(expected in line for line in commands)
