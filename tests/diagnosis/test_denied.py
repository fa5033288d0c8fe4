"""What connection tracking says of denied flows, and of who talks to whom."""

import pytest

from exporter.calico.conntrack import Side
from exporter.calico.packet import Packet
from exporter.diagnosis.conntrack import connections
from exporter.diagnosis.denied import denied_flows, denied_lines, packet_of
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings, all_addresses
from tests.service_tables import APPROVED, OPENER, SYN, WORKLOAD, flow, forward

CLIENT, SERVER, OUTSIDE, NODE = "10.65.0.2", "10.65.0.3", "192.0.2.9", "192.0.2.8"
SERVER6, OUTSIDE6 = "fd00:65::3", "2001:db8::9"
SECOND = 1_000_000_000
NOW = 100 * SECOND
SENT = {"bits": APPROVED | OPENER | WORKLOAD}


def denied(source, destination, port, *, packets=1, ago=1, source_port=40000, protocol=17, service=None, version=4):
    legs = {**SENT, "packets": packets}, {}
    ends = (source, source_port), (destination, port)
    return flow(protocol, *ends, *legs, last_seen=NOW - ago * SECOND, service=service, version=version)


def allowed(source, destination, port, *, source_port=40000, protocol=6):
    legs = {**SENT, "packets": 9}, {"bits": APPROVED, "packets": 8}
    return flow(protocol, (source, source_port), (destination, port), *legs, last_seen=NOW)


@pytest.fixture
def seen(make):
    """A snapshot of a node with two pods and these entries."""

    def take(*entries, version=4, clock=NOW):
        maps = [make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: ("cali5", 0x7), 7: ("cali7", 0x7)})]
        for family, size in ((4, 16), (6, 40)):
            found = [entry for entry in entries if len(entry[0]) == size]
            if found:
                maps.append(make.table(f"cali_v{family}_ct{version}", 80 + family, "hash", *found))
        addresses = [(CLIENT, 5), (SERVER, 7), (SERVER6, 7)]
        node = make.node(
            maps,
            links=[make.link(3, "eth0"), make.link(5, "cali5"), make.link(7, "cali7")],
            host_routes=[make.route(*one) for one in addresses],
            endpoint_status=make.folder(
                **{
                    "k8s ns-a%2Fclient eth0": b'{"ifaceName": "cali5"}',
                    "k8s ns-b%2Fserver eth0": b'{"ifaceName": "cali7"}',
                }
            ),
            clock_ns=clock,
        )
        settings = Settings(flows_of=all_addresses)
        return take_snapshot(node, settings, Memory(), {"conntrack", "endpoints"})

    return take


def found_in(snapshot, of=None):
    endpoints = snapshot.endpoints.get()
    return denied_flows(snapshot.conntrack.get(), endpoints, None if of is None else endpoints.of(of))


def test_flows_of_one_peer_to_one_port_are_one_line_with_their_packets_and_age(seen):
    snapshot = seen(
        denied(CLIENT, SERVER, 9999, packets=3, ago=20, source_port=1),
        denied(CLIENT, SERVER, 9999, packets=4, ago=5, source_port=2),
        denied(OUTSIDE, SERVER, 9999, packets=2, ago=7),
    )
    ours, theirs = found_in(snapshot)
    assert (ours.receiver.title, ours.sender.title, ours.peer, ours.source_port) == (
        "ns-b/server",
        "ns-a/client",
        CLIENT,
        2,
    )
    assert (ours.title, ours.flows, ours.packets, ours.age, ours.lifetime) == ("udp/9999", 2, 7, 5.0, 60)
    assert (theirs.sender, theirs.peer, theirs.flows, theirs.packets) == (None, OUTSIDE, 1, 2)
    lifetime = "60 s (udp) by default, and up to 10 s more."
    assert denied_lines([ours, theirs]) == [
        "ns-b/server denied ns-a/client (10.65.0.2) to udp/9999 at 10.65.0.3: 2 flows with 7 packets, the last 5 s ago",
        "ns-b/server denied 192.0.2.9 to udp/9999 at 10.65.0.3: 1 flow with 2 packets, the last 7 s ago",
        f"Connection tracking forgets a denied flow this long after its last packet: {lifetime}",
    ]


def test_an_endpoint_has_those_that_it_denied_and_those_denied_to_it(seen):
    snapshot = seen(denied(CLIENT, SERVER, 9999), denied(OUTSIDE, SERVER, 1), denied(SERVER, CLIENT, 2, source_port=3))
    assert len(found_in(snapshot)) == 3
    assert {one.port for one in found_in(snapshot, of=5)} == {9999, 2}
    assert {one.port for one in found_in(snapshot, of=7)} == {9999, 1, 2}
    assert found_in(snapshot, of=3) == ()


def test_a_service_that_was_asked_for_is_named(seen):
    snapshot = seen(
        denied(CLIENT, SERVER, 8080, protocol=6, service=("10.96.0.7", 80)),
        forward(6, (CLIENT, 40000), ("10.96.0.7", 80), (SERVER, 8080), last_seen=NOW),
    )
    (one,) = found_in(snapshot)
    assert (one.service, one.lifetime) == (Side("10.96.0.7", 80), 20)
    assert "to tcp/8080 at 10.65.0.3, asked for as service 10.96.0.7:80: 1 flow" in denied_lines([one])[0]


def test_the_packet_that_was_denied_is_that_of_the_latest_flow_after_service_translation(seen):
    snapshot = seen(
        denied(CLIENT, SERVER, 8080, protocol=6, service=("10.96.0.7", 80), source_port=41000),
        denied(OUTSIDE, SERVER, 9999, source_port=5, ago=9),
        denied(OUTSIDE, SERVER, 9999, source_port=6, ago=2),
        denied(OUTSIDE6, SERVER6, 0, protocol=58, source_port=0),
    )
    packets = {one.protocol: packet_of(one) for one in found_in(snapshot)}
    assert packets == {
        6: Packet(4, CLIENT, "10.96.0.7", 6, 41000, 80, translated=(SERVER, 8080)),
        17: Packet(4, OUTSIDE, SERVER, 17, 6, 9999),
        58: Packet(6, OUTSIDE6, SERVER6, 58),
    }


def test_icmp_has_no_port_and_ipv6_its_own_addresses(seen):
    (one,) = found_in(seen(denied(OUTSIDE6, SERVER6, 0, protocol=58, source_port=0)))
    assert (one.family, one.title, one.lifetime) == (6, "icmpv6", 5)
    assert denied_lines([one])[0].startswith("ns-b/server denied 2001:db8::9 to icmpv6 at fd00:65::3: 1 flow")


def test_what_the_oldest_layout_does_not_count_is_not_told(seen):
    (one,) = found_in(seen(denied(CLIENT, SERVER, 9999, version=2), version=2))
    assert one.packets is None
    assert ": 1 flow, the last 1 s ago" in denied_lines([one])[0]


def test_without_the_clock_no_age_is_told(seen):
    (one,) = found_in(seen(denied(CLIENT, SERVER, 9999), clock=None))
    assert (one.age, denied_lines([one])[0].endswith(": 1 flow with 1 packet")) == (None, True)


@pytest.mark.parametrize(
    "entry",
    [
        allowed(CLIENT, SERVER, 80),
        denied(CLIENT, NODE, 10250),  # the node itself: no program of an endpoint approves the other leg
        denied(CLIENT, OUTSIDE, 53),  # it left the node
        denied(OUTSIDE, NODE, 22),
        # The node to its own pod: only the pod's leg is approved, without asking policy.
        flow(6, (NODE, 1), (SERVER, 80), {"bits": OPENER, "packets": 3}, {"bits": APPROVED}),
        # An answer came: it was let in.
        flow(6, (CLIENT, 1), (SERVER, 80), {**SENT, "packets": 3}, {"bits": SYN, "packets": 1}),
    ],
)
def test_other_entries_are_no_denials(seen, entry):
    assert found_in(seen(entry)) == ()


# Who talks to whom


def test_entries_are_counted_by_endpoint_protocol_and_state_and_in_all(seen):
    snapshot = seen(
        *(allowed(CLIENT, SERVER, 80, source_port=port, protocol=17) for port in range(3)),
        denied(CLIENT, SERVER, 9999),
        allowed(OUTSIDE, NODE, 22),
        denied(OUTSIDE6, SERVER6, 1),
    )
    found = connections(snapshot, {3, 5, 7}, peers=True)
    assert (found.total, sum(one.entries for one in found.states)) == (6, 6)
    rows = {
        one.endpoint.title: (one.entries, [(each.state, each.entries) for each in one.states])
        for one in found.endpoints
    }
    assert rows == {
        "ns-b/server": (5, [("established", 3), ("unreplied", 2)]),
        "ns-a/client": (4, [("established", 3), ("unreplied", 1)]),
    }
    assert [one.endpoint.title for one in found.endpoints] == ["ns-b/server", "ns-a/client"]
    assert len(found.denied) == 2


def test_only_chosen_endpoints_are_told(seen):
    snapshot = seen(denied(CLIENT, SERVER, 9999), denied(OUTSIDE, SERVER, 1))
    found = connections(snapshot, {5}, peers=True)
    assert [one.endpoint.title for one in found.endpoints] == ["ns-a/client"]
    assert [(one.direction, one.peer, one.other.title) for one in found.peers] == [("outbound", SERVER, "ns-b/server")]
    assert [one.peer for one in found.denied] == [CLIENT]
    assert connections(snapshot, {5}, peers=False).peers == ()


def test_peers_come_by_entries_with_the_service_that_was_asked_for(seen):
    service = ("10.96.0.7", 80)
    legs = {**SENT, "packets": 9}, {"bits": APPROVED, "packets": 8}
    snapshot = seen(
        *(flow(6, (CLIENT, port), (SERVER, 8080), *legs, service=service) for port in range(4)),
        *(forward(6, (CLIENT, port), service, (SERVER, 8080)) for port in range(4)),
        allowed(OUTSIDE, SERVER, 8080),
    )
    first, second = connections(snapshot, {7}, peers=True).peers
    assert (first.direction, first.peer, first.port, first.service, first.entries) == (
        "inbound",
        CLIENT,
        8080,
        Side(*service),
        4,
    )
    assert (second.peer, second.other, second.service, second.entries) == (OUTSIDE, None, None, 1)
