"""The demo's services, routes and flows in maps of Calico's layouts, as readers and decoders see them."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from exporter.bpf.readers import open_reader
from exporter.calico.conntrack_rows import RST, SYN
from exporter.calico.nat import Backend
from exporter.calico.services import NAT, NO_BACKENDS
from exporter.demo.node import Node
from exporter.demo.plan import BLACKHOLE, CART, DATABASE, DATABASE_SERVICE, FRONTEND, NODE_ADDRESS, PODS, PROBE
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.source import LiveNode
from tests import installed

pytestmark = pytest.mark.kernel
PARTS = ("services_4", "services_6", "routes_4", "routes_6", "conntrack")
ADDRESSES = {address for pod in PODS for address in (pod.ipv4, pod.ipv6)}


@pytest.fixture(scope="module")
def demo(machine, tmp_path_factory):
    node = Node(f"t{os.getpid()}", tmp_path_factory.mktemp("demo") / "demo")
    try:
        node.build()
        yield node
    finally:
        node.close()


@pytest.fixture
def taken(demo):
    """Takes a snapshot with these parts, by this reader."""

    def take(reader="libbpf", parts=PARTS):
        source = LiveNode(open_reader(reader), demo.bpf.path, demo.run_dir)
        return take_snapshot(source, Settings(flows_of=lambda _: ADDRESSES), Memory(), parts)

    return take


def flow_between(snapshot, source, destination, port):
    """The entry of the last flow between two addresses."""
    found = [
        one
        for one in snapshot.conntrack.get().entries
        if (one.source.address, one.destination.address, one.destination.port) == (source, destination, port)
    ]
    return max(found, key=lambda one: one.last_seen, default=None)


@pytest.mark.parametrize("reader", ["libbpf", "bpftool"])
def test_services_and_routes_are_what_the_plan_says(demo, taken, reader):
    snapshot = taken(reader)
    for family, cart, database, empty, pods in (
        (4, "10.96.0.20", "10.96.0.30", "10.96.0.40", (CART.ipv4, DATABASE.ipv4)),
        (6, "fd00:96::14", "fd00:96::1e", "fd00:96::28", (CART.ipv6, DATABASE.ipv6)),
    ):
        services = snapshot.services(family).get()
        assert services.find(cart, 80, 17).backends == (Backend(pods[0], 8080),)
        assert services.find(database, 5432, 6).frontend.affinity == 10800
        assert services.find(empty, 80, 6).verdict == NO_BACKENDS
        routes = snapshot.routes(family).get()
        assert [routes.of(pod).local_workload for pod in pods] == [True, True]
    node_port = snapshot.services(4).get().find(NODE_ADDRESS, 30432, 6)
    assert (node_port.verdict, node_port.backends) == (NAT, (Backend(DATABASE.ipv4, 5432),))
    assert snapshot.routes(4).get().of(NODE_ADDRESS).local_host
    assert snapshot.routes(4).get().of(BLACKHOLE).blackhole
    assert snapshot.routes(4).get().of("10.65.9.9").in_pool


CONNECT = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as client:
    client.settimeout(5)
    print(client.connect_ex((sys.argv[1], 5432)))
"""


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_to_a_service_reaches_its_backend_and_the_answer_comes_from_the_service(demo, taken, family):
    service = DATABASE_SERVICE.addresses[family == 6]
    client, backend = ((one.ipv4, one.ipv6)[family == 6] for one in (CART, DATABASE))
    words = ["ip", "netns", "exec", demo.pod_namespace(CART), sys.executable, "-c", CONNECT, service]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert errno.ECONNREFUSED == int(done.stdout)  # nobody listens: its RST came back as the service's
    entry = flow_between(taken(), client, backend, 5432)
    assert (service, 5432) == (entry.service.address, entry.service.port)
    assert (True, SYN, RST) == (entry.approved, entry.forth.bits & SYN, entry.back.bits & RST)


@pytest.mark.parametrize("address", [DATABASE.ipv4, DATABASE.ipv6])
def test_a_flow_that_the_receiver_denied_is_half_approved_and_counts_its_packets(demo, taken, address):
    source = PROBE.ipv6 if ":" in address else PROBE.ipv4
    before = time.monotonic_ns()
    demo.send(PROBE, "udp", address, 9999, 12)
    snapshot = taken()
    flow = flow_between(snapshot, source, address, 9999)
    assert (flow.half_approved, flow.forth.packets, flow.replied) == (True, 12, False)
    assert before <= flow.last_seen <= snapshot.conntrack.get().at


def test_a_flow_that_the_sender_denied_has_no_entry(demo, taken):
    demo.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 3)
    assert flow_between(taken(), FRONTEND.ipv4, DATABASE.ipv4, 6666) is None


@pytest.mark.parametrize("address", [DATABASE.ipv4, DATABASE.ipv6])
def test_a_connection_that_both_sides_allow_is_approved_by_both(demo, taken, address):
    source = CART.ipv6 if ":" in address else CART.ipv4
    demo.send(CART, "tcp", address, 5432, 1)
    flow = flow_between(taken(), source, address, 5432)
    assert (flow.half_approved, flow.back.approved, flow.replied) == (False, True, True)
    assert flow.back.bits & RST  # nobody listens


def test_a_syn_that_the_receiver_denied_is_sent_and_not_answered(demo, taken):
    demo.send(PROBE, "tcp", DATABASE.ipv4, 9999, 1)
    snapshot = taken()
    found = [one for one in snapshot.conntrack.get().entries if one.protocol == 6 and one.source.address == PROBE.ipv4]
    assert [(one.half_approved, one.timeout) for one in found] == [(True, 20)]


def test_all_readers_see_the_same_flows(demo, taken):
    demo.send(FRONTEND, "flows", CART.ipv4, 8080, 40)
    found = [taken(reader, ("conntrack",)).conntrack.get() for reader in ("libbpf", "bcc", "bpftool")]
    assert len({(frozenset(one.entries), frozenset(one.counts.items())) for one in found}) == 1
    assert sum(found[0].counts.values()) >= 40


def test_conntrack_and_why_name_who_was_denied(demo):
    demo.send(PROBE, "udp", DATABASE.ipv6, 9998, 7)

    def answer(*words):
        where = ["--bpf.fs", demo.bpf.path, "--calico.run-dir", demo.run_dir, "-o", "json"]
        inside = ["ip", "netns", "exec", demo.namespace, installed.program()]
        done = subprocess.run([*inside, *words, *where], capture_output=True, text=True, check=False)
        assert done.returncode in {0, 3}, done.stderr
        return json.loads(done.stdout)

    for words in (
        ("conntrack", "--pod", "db"),
        ("why", "--for", "0.1", "--pod", "db"),
        ("conntrack", "--pod", "probe"),
    ):
        (denied,) = [one for one in answer(*words)["denied_flows"] if one["port"] == 9998]
        assert (denied["peer_pod"], denied["peer"], denied["packets"]) == ("ops/probe", PROBE.ipv6, 7)
        assert (denied["receiver"]["pod"], denied["protocol"]) == ("db", 17)
    peers = answer("conntrack", "--pod", "probe")["peers"]
    assert ("outbound", "data/db", 9998) in {(one["direction"], one["peer_pod"], one["port"]) for one in peers}


def test_the_routes_of_a_pod_that_is_removed_are_gone(demo, taken):
    demo.remove_pod(PROBE)
    try:
        assert not taken(parts=("routes_4",)).routes(4).get().of(PROBE.ipv4).local_workload
    finally:
        demo.add_pod(PROBE)
