"""Captured packets by peer and port, and the rule of each denied group, on the nodes of the experiments."""

from dataclasses import replace

import pytest

from exporter.calico.protocols import TCP, UDP
from exporter.diagnosis import packet_groups
from exporter.diagnosis.explain import Drop, explain
from exporter.diagnosis.packet_groups import (
    DENIED,
    PARTS,
    PASSED,
    SPOOFED,
    UNANSWERED,
    UNKNOWN,
    groups_of,
    policies_of_flows,
)
from exporter.diagnosis.packet_report import capture_of, lines, name_of, report
from exporter.diagnosis.trace import PARTS as TRACE_PARTS
from exporter.diagnosis.watched import PARTS as WATCHED_PARTS
from exporter.diagnosis.watched import watched_node, watched_of
from exporter.node import NodeError
from exporter.node.endpoints import WORKLOAD as POD
from exporter.node.packet_flows import Capture, SeenFlow
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from tests.parts import EVERY_PART
from tests.service_tables import APPROVED, MAPS, OPENER, WORKLOAD, flow, packed
from tests.traces.experiments import experiments

SENT, ANSWERED = {"bits": APPROVED | OPENER | WORKLOAD, "packets": 1}, {"bits": APPROVED, "packets": 1}
KINDS = {"cali_v4_nat_fe3": "lpm_trie", "cali_v4_nat_be": "hash", "cali_v4_routes": "lpm_trie"}
CLIENT, CLIENT2, SERVER = "10.244.145.197", "10.244.145.193", "10.244.145.194"
CALI_CLIENT2, CALI_SERVER = "calie43c605b267", "cali34769d6a557"
WEB, WEB_BACKENDS = "10.96.42.230", ("10.244.145.199", "10.244.145.200")
NODE, OUTSIDE = "10.99.0.2", "192.0.2.9"
DENY = "v3.32.1/02-default-deny-udp"
ALLOW = "v3.32.1/01-allow-selector-udp"
UNREADABLE = {"short": 2, "malformed": 4, "fragment": 5}
DENIED_HERE = [
    name
    for name, one in experiments().items()
    if one.programs[-1][2]["verdict"] == "deny" and one.programs[-1][0] != "eth0"
]


@pytest.fixture
def node(make):
    """The snapshot of an experiment's node, with the tables of services and routes of the same node."""

    def build(name, *entries, **facts):
        found = make.like(experiments()[name].bundle)
        for number, (table, kind) in enumerate(KINDS.items()):
            rows = [(bytes.fromhex(key), bytes.fromhex(value)) for key, value in MAPS[table]["entries"].items()]
            found.maps[table] = make.table(table, 500 + number, kind, *rows)
        if entries:
            found.maps["cali_v4_ct4"] = make.table("cali_v4_ct4", 700, "hash", *entries)
        found.facts |= {"addresses": (make.address(NODE, 24, 2), make.address("127.0.0.1", 8, 1))} | facts
        settings = Settings(flows_of=lambda _: {CLIENT, CLIENT2, SERVER, *WEB_BACKENDS})
        return take_snapshot(found, settings, Memory(), PARTS | TRACE_PARTS | WATCHED_PARTS | EVERY_PART)

    return build


def seen(packet, interface, packets=3, **more):
    has_ports = packet.protocol in (TCP, UDP)
    return SeenFlow(
        packet.family,
        packet.protocol,
        packet.source,
        packet.source_port if has_ports else 7 * packet.is_icmp,
        packet.destination,
        packet.destination_port if has_ports else 7 * packet.is_icmp,
        (packet.icmp_type, packet.icmp_code) if packet.is_icmp else None,
        interface,
        packets,
        **more,
    )


def udp(source, destination, port=5300, interface=CALI_CLIENT2, source_port=40000, **more):
    return SeenFlow(4, 17, source, source_port, destination, port, None, interface, 3, **more)


def of(snapshot, interface):
    return next(one for one in snapshot.endpoints.get().by_index.values() if one.interface == interface)


def judged(snapshot, interface, *flows):
    return groups_of(snapshot, Capture(flows), of(snapshot, interface))


def test_the_experiments_were_denied_by_senders_and_receivers():
    assert {"egress", "ingress"} == {experiments()[name].programs[-1][1] for name in DENIED_HERE}


@pytest.mark.parametrize("name", DENIED_HERE)
def test_a_denied_group_has_the_rule_that_the_node_counted_on_both_sides(node, name):
    experiment = experiments()[name]
    snapshot, packet = node(name), replace(experiment.packet, translated=None)
    interface, way, counted = experiment.programs[-1]
    sender = experiment.programs[0][0]
    for watched, direction in {(sender, "outbound"), (interface, "outbound" if way == "egress" else "inbound")}:
        (one,) = judged(snapshot, watched, seen(packet, sender))
        assert (DENIED, direction, 3, 1, "policy") == (one.verdict, one.direction, one.packets, one.flows, one.reason)
        assert (interface, counted["verdict"]) == (one.decider.interface, "deny")
        experiment.check(counted, "deny", one.ruling.rule_ids)
        assert (packet.destination if direction == "outbound" else packet.source) == one.peer


PROOFS = [
    {"passed_to": frozenset({(SERVER, 5300)})},
    {"answered_by": frozenset({(SERVER, 5300)})},
    {"same_passed": True},
]


@pytest.mark.parametrize("proof", PROOFS)
def test_what_was_seen_beyond_the_hook_was_not_denied(node, proof):
    (one,) = judged(node(DENY), CALI_SERVER, udp(CLIENT2, SERVER, **proof))
    assert PASSED == one.verdict


@pytest.mark.parametrize(
    "proof", [{"passed_to": frozenset({(SERVER, 5301)})}, {"answered_by": frozenset({(CLIENT, 5300)})}]
)
def test_what_another_flow_of_the_same_port_did_proves_nothing(node, proof):
    (one,) = judged(node(DENY), CALI_SERVER, udp(CLIENT2, SERVER, **proof))
    assert DENIED == one.verdict


@pytest.mark.parametrize(
    ("ends", "opener"), [((CLIENT2, SERVER), True), ((SERVER, CLIENT2), False)], ids=["opened", "answered"]
)
def test_a_flow_that_connection_tracking_knows_as_allowed_was_not_denied(node, ends, opener):
    client, server = (CLIENT2, 40000), (SERVER, 5300)
    entry = flow(17, client, server, SENT, ANSWERED, last_seen=1)
    captured = udp(CLIENT2, SERVER) if opener else udp(SERVER, CLIENT2, 40000, CALI_SERVER, 5300)
    (one,) = judged(node(DENY, entry), CALI_SERVER, captured)
    assert PASSED == one.verdict


def test_connection_tracking_has_no_ports_of_sctp(node):
    entry = flow(132, (CLIENT2, 0), (SERVER, 0), SENT, ANSWERED, last_seen=1)
    captured = replace(udp(CLIENT2, SERVER), protocol=132)
    for entries, verdict in (((entry,), PASSED), ((), DENIED)):
        (one,) = judged(node(DENY, *entries), CALI_SERVER, captured)
        assert (verdict, 5300) == (one.verdict, one.port)


def test_flows_to_one_port_are_one_group_and_groups_come_by_packets(node):
    flows = [udp(CLIENT2, SERVER, 6000), *(udp(CLIENT2, SERVER, source_port=number) for number in range(4))]
    first, second = judged(node(DENY), CALI_SERVER, *flows, udp(CLIENT2, SERVER, source_port=9, same_passed=True))[:2]
    assert (12, 4, 5300, DENIED) == (first.packets, first.flows, first.port, first.verdict)
    assert (3, 1) == (second.packets, second.flows)


def test_what_policy_allows_and_nobody_answers_is_not_denied(node):
    (one,) = judged(node(ALLOW), CALI_SERVER, seen(experiments()[ALLOW].packet, "calibf331a988cf"))
    assert (UNANSWERED, None, None) == (one.verdict, one.ruling, one.decider)


def test_a_false_source_and_packets_of_the_link_are_told_apart(node):
    snapshot = node(DENY)
    (one,) = judged(snapshot, CALI_CLIENT2, udp("10.244.145.250", SERVER))
    assert (SPOOFED, "10.244.145.250") == (one.verdict, one.peer)
    assert () == judged(snapshot, CALI_SERVER, udp("0.0.0.0", SERVER), udp(CLIENT2, "224.0.0.1"))


def test_a_false_source_is_one_at_the_receiver_too(node):
    snapshot = node(DENY)
    (one,) = judged(snapshot, CALI_SERVER, udp("192.0.2.50", SERVER, interface=CALI_CLIENT2))
    assert (SPOOFED, "inbound", "192.0.2.50", None) == (one.verdict, one.direction, one.peer, one.ruling)
    (allowed,) = judged(snapshot, CALI_SERVER, udp("192.0.2.50", SERVER, interface=CALI_CLIENT2, same_passed=True))
    assert PASSED == allowed.verdict


def test_a_pod_whose_addresses_are_not_known_has_no_false_source(node, make):
    snapshot = node(DENY, host_routes=(), endpoint_status=make.folder())
    assert () == of(snapshot, CALI_CLIENT2).addresses
    (one,) = judged(snapshot, CALI_CLIENT2, udp(CLIENT2, SERVER))
    assert SPOOFED != one.verdict
    family = replace(udp("fd00:65::2", "fd00:65::3"), family=6)  # of a pod that is known to have an IPv4 address
    (other,) = judged(node(DENY), CALI_CLIENT2, family)
    assert SPOOFED != other.verdict


def test_without_policy_files_the_verdict_is_not_known(node):
    (one,) = judged(node(DENY, policy_files=NodeError("no folder")), CALI_SERVER, udp(CLIENT2, SERVER))
    assert (UNKNOWN, "no folder") == (one.verdict, one.why)


def test_only_so_many_groups_are_evaluated(node, monkeypatch):
    monkeypatch.setattr(packet_groups, "MAX_EVALUATED", 2)
    flows = [udp(CLIENT2, SERVER, port) for port in range(6000, 6005)]
    found = judged(node(DENY), CALI_SERVER, *flows)
    assert [DENIED, DENIED, UNKNOWN, UNKNOWN, UNKNOWN] == [one.verdict for one in found]
    assert "only the 2 largest groups are evaluated" == found[-1].why


# Services


def test_to_a_service_the_backend_that_connection_tracking_knows_decides(node):
    name = "v3.32.1/14-service-vip-denied"
    experiment = experiments()[name]
    packet = experiment.packet
    ends = (packet.source, packet.source_port), packet.translated
    entry = flow(6, *ends, SENT, {}, last_seen=1, service=(packet.destination, packet.destination_port))
    for interface in (experiment.programs[0][0], experiment.programs[-1][0]):
        (one,) = judged(node(name, entry), interface, seen(packet, experiment.programs[0][0]))
        assert (DENIED, packet.translated) == (one.verdict, one.translated)
        experiment.check(experiment.programs[-1][2], "deny", one.ruling.rule_ids)


def test_an_answer_of_a_backend_proves_that_a_flow_to_the_service_passed(node):
    to_web = SeenFlow(4, 6, CLIENT, 40000, WEB, 80, None, "calibf331a988cf", 1)
    snapshot = node("v3.32.1/31-service-rule-allow")
    for end, verdict in (((WEB_BACKENDS[0], 8080), PASSED), ((SERVER, 8080), UNANSWERED)):
        (one,) = judged(snapshot, "calibf331a988cf", replace(to_web, answered_by=frozenset({end})))
        assert verdict == one.verdict


def test_what_comes_for_a_service_may_have_gone_to_another_backend(node):
    to_web = SeenFlow(4, 6, CLIENT, 40000, WEB, 80, None, "calibf331a988cf", 1)
    snapshot = node("v3.32.1/31-service-rule-allow")
    backend = next(one for one in snapshot.endpoints.get().by_index.values() if WEB_BACKENDS[0] in one.addresses)
    (one,) = judged(snapshot, backend.interface, to_web)
    assert (UNKNOWN, "it may have gone to another backend of the service") == (one.verdict, one.why)


def test_the_policy_of_the_ends_the_backends_and_the_host_is_what_is_read(node):
    to_web = SeenFlow(4, 6, CLIENT, 40000, WEB, 80, None, "calibf331a988cf", 1)
    snapshot = node("v3.32.1/31-service-rule-allow")
    endpoint = of(snapshot, "calibf331a988cf")
    titles = {of(snapshot, one).title for one in policies_of_flows(snapshot, Capture((to_web,)), endpoint)}
    backends = {one.title for one in snapshot.endpoints.get().by_index.values() if {*WEB_BACKENDS} & {*one.addresses}}
    assert 2 == len(backends)
    assert {"ns-a/client", *backends} == {one for one in titles if "/" in one}
    assert "eth0" in titles
    assert set() == policies_of_flows(snapshot, Capture(), endpoint)


# The report


def test_the_services_and_node_ports_of_a_pod_are_watched(node):
    snapshot = node("v3.32.1/31-service-rule-allow")
    backend = next(one for one in snapshot.endpoints.get().by_index.values() if WEB_BACKENDS[0] in one.addresses)
    watched = watched_of(snapshot, backend)
    assert (backend.ifindex, backend.interface) == (watched.ifindex, watched.interface)
    assert (set(backend.addresses), (WEB,), 0) == (set(watched.addresses), watched.services, watched.left_out)
    assert (NODE, 30080) in watched.node_ports
    without = watched_of(snapshot, of(snapshot, CALI_CLIENT2))
    assert ((), ()) == (without.services, without.node_ports)


def test_of_a_node_the_interfaces_services_and_node_ports_of_all_pods_are_watched(node):
    watched = watched_node(node("v3.32.1/31-service-rule-allow"))
    assert {CALI_CLIENT2, CALI_SERVER, "calibf331a988cf"} <= watched.interfaces
    assert "eth0" not in watched.interfaces
    assert {packed(one) for one in (CLIENT, SERVER, WEB, *WEB_BACKENDS)} <= watched.destinations
    assert packed(NODE) not in watched.destinations
    assert (packed(NODE), 30080) in watched.node_ports


@pytest.mark.parametrize(
    ("captured", "whose"),
    [
        (udp(CLIENT2, SERVER), {CALI_CLIENT2, CALI_SERVER}),
        (udp(OUTSIDE, SERVER, interface="eth0"), {CALI_SERVER}),
        (udp("10.244.145.250", OUTSIDE), {CALI_CLIENT2}),
        (udp(OUTSIDE, WEB, 80, "eth0"), {"web"}),
        (udp(OUTSIDE, NODE, 30080, "eth0"), {"web"}),
        (udp(OUTSIDE, NODE, 30081, "eth0"), set()),
    ],
)
def test_what_all_pods_were_captured_with_is_told_apart_by_pod(node, captured, whose):
    snapshot = node("v3.32.1/31-service-rule-allow")
    pods = [one for one in snapshot.endpoints.get().by_index.values() if one.kind == POD]
    found = {one.interface for one in pods if capture_of(snapshot, Capture((captured,)), one).flows}
    backends = {one.interface for one in pods if {*WEB_BACKENDS} & {*one.addresses}}
    assert {name for one in whose for name in (backends if one == "web" else {one})} == found


def test_more_addresses_of_services_than_fit_a_filter_are_told_apart_too(node):
    snapshot = node("v3.32.1/31-service-rule-allow")
    backend = next(one for one in snapshot.endpoints.get().by_index.values() if WEB_BACKENDS[0] in one.addresses)
    limited, whole = watched_of(snapshot, backend, most=0), watched_of(snapshot, backend, most=None)
    assert ((), True) == (limited.services, limited.left_out > 0)
    assert ((WEB,), 0) == (whole.services, whole.left_out)


def test_peers_have_the_names_that_the_node_knows(node):
    snapshot = node(DENY)
    names = [name_of(snapshot, 4, one) for one in (SERVER, NODE, WEB, OUTSIDE)]
    assert ["ns-b/server", "this node", "a service", ""] == names


def told(snapshot, interface, capture, drops=()):
    explanation = explain(None, snapshot, of(snapshot, interface))
    explanation = replace(explanation, drops=tuple(drops))
    found = report(snapshot, capture, watched_of(snapshot, of(snapshot, interface)), explanation)
    return found, list(lines(found))


def dropped(packets, way="inbound", reason="policy"):
    return Drop("tc_egress", way, reason, packets, "", "")


@pytest.mark.parametrize(
    ("counted", "words"),
    [
        (3, "3 packets counted, 3 seen: they agree."),
        (5, "5 packets counted, 3 seen: 2 more were counted than seen."),
        (2, "2 packets counted, 3 seen: 1 more were seen than counted."),
    ],
)
def test_the_counters_stand_beside_what_was_seen(node, counted, words):
    found, text = told(node(DENY), CALI_SERVER, Capture((udp(CLIENT2, SERVER),)), [dropped(counted)])
    assert f"Reason policy, inbound: {words}" in text
    assert [("inbound", "policy", counted, 3)] == [
        (one.direction, one.reason, one.counted, one.seen) for one in found.agreements
    ]
    assert (
        f"  3 packets from ns-c/client2 ({CLIENT2}), udp/5300 at {SERVER}: "
        "ns-b/server, denied by the end of tier default" in text
    )


def test_what_the_receiver_denied_is_not_counted_at_the_sender(node):
    found, text = told(node(DENY), CALI_CLIENT2, Capture((udp(CLIENT2, SERVER),)))
    assert () == found.agreements
    assert any(
        line.startswith(f"  3 packets to ns-b/server ({SERVER}), udp/5300: ns-b/server, denied") for line in text
    )


def test_what_cannot_be_placed_and_what_was_lost_is_said(node):
    flows = udp("10.244.145.250", SERVER), udp(CLIENT2, SERVER, same_passed=True)
    capture = Capture(flows, {CALI_CLIENT2: UNREADABLE, "cali7": {"short": 9}}, 20, 6, 7, full=True)
    found, text = told(node(DENY), CALI_CLIENT2, capture, [dropped(2, "outbound", "too_short")])
    assert [("outbound", "too_short", 2, 2)] == [
        (one.direction, one.reason, one.counted, one.seen) for one in found.agreements
    ]
    for line in (
        "No denied packet was seen on this node in the same time.",
        "Reason too_short, outbound: 2 packets counted, 2 seen: they agree.",
        "Seen of flows that passed: 3 packets.",
        "Not placed: 3 packets: the source is no address of the pod: Calico drops it and counts none.",
        "Not placed: 5 packets: later fragments.",
        "Not placed: 7 packets: of more flows than are kept.",
        "The packet socket lost 6 packets: what was seen is too few.",
        "The capture ended at its limit of 20 packets.",
    ):
        assert line in text
    assert not any("cut off" in line for line in text)
