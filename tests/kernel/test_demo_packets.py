"""`why --packets` on a demo node: every kind of drop that it makes, counted and seen, in both families."""

import json
import os
import subprocess
import sys
import time

import pytest

from exporter.demo import DemoError
from exporter.demo.node import Node
from exporter.demo.plan import BLACKHOLE, CART, CART_SERVICE, DATABASE, EMPTY_SERVICE, FRONTEND, PROBE
from tests import installed

pytestmark = pytest.mark.kernel
SPOOFED = "10.65.0.77"
# Writes a UDP packet with a false source to the link, past the pod's own stack.
SPOOF = """
import socket, struct, sys
source, destination, port, count = sys.argv[1:]
udp = struct.pack(">HHHH", 40000, int(port), 12, 0) + b"demo"
head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0)
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
    link.bind(("eth0", 0))
    mac = link.getsockname()[4]
    for _ in range(int(count)):
        addresses = socket.inet_aton(source) + socket.inet_aton(destination)
        link.send(bytes.fromhex("eeeeeeeeeeee") + mac + b"\\x08\\x00" + head + addresses + udp)
"""


@pytest.fixture(scope="module")
def demo(machine, tmp_path_factory):
    node = Node(f"t{os.getpid()}", tmp_path_factory.mktemp("demo") / "demo")
    try:
        node.build()
        yield node
    finally:
        node.close()


def in_namespace(name, *words):
    done = subprocess.run(["ip", "netns", "exec", name, *map(str, words)], capture_output=True, text=True, check=True)
    return done.stdout


def has_packet_socket(demo):
    return len(in_namespace(demo.namespace, "cat", "/proc/net/packet").splitlines()) > 1


@pytest.fixture
def watched(demo):
    """The JSON of `why --packets` about a pod, while `send` sends."""

    def watch(pod, send, *words, seconds=2):
        command = [*words, installed.program(), "why", "--pod", pod.name, "--packets", "--for", seconds, "-o", "json"]
        return json.loads(while_captured(demo, command, send))

    return watch


def while_captured(demo, command, send):
    """What a command prints that captures packets on the node, while `send` sends."""
    where = ["--bpf.fs", demo.bpf.path, "--calico.run-dir", demo.run_dir, "--no-kubernetes"]
    inside = ["ip", "netns", "exec", demo.namespace, *map(str, (*command, *where))]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if has_packet_socket(demo) or process.poll() is not None:
                break
            time.sleep(0.05)
        time.sleep(0.3)  # until the counters are read
        send()
        output, errors = process.communicate()
    assert process.returncode in {0, 3}, errors
    return output


@pytest.fixture(params=[[], ["--redact"]], ids=["bundle", "redacted"])
def bundle(demo, request, tmp_path):
    """`bundle --packets` of the node while `send` sends: what `why` says of it about the pod at an address."""
    file = tmp_path / "node.tar.xz"

    def record(send, seconds=4):
        words = [installed.program(), "bundle", file, "--packets", seconds, *request.param]
        while_captured(demo, words, send)
        shown = subprocess.run(
            [installed.program(), "counters", "-o", "json", "--bundle", file], capture_output=True, check=True
        )
        return sorted(json.loads(shown.stdout)["endpoints"], key=lambda one: one["ifindex"])

    def why(endpoint):
        words = [installed.program(), "why", "--interface", endpoint["interface"], "-o", "json", "--bundle", file]
        done = subprocess.run(words, capture_output=True, check=False)
        assert done.returncode in {0, 3}, done.stderr
        return json.loads(done.stdout)

    return record, why


def groups(answer, *verdicts):
    return {
        (one["verdict"], one["direction"], one["peer"], one["protocol"], one["port"]): one["packets"]
        for one in answer["packets"]["groups"]
        if not verdicts or one["verdict"] in verdicts
    }


def rule(one):
    decided = one["decided_by"]
    return decided["policy"], decided["tier"], decided["rule"]


def agreement(answer):
    return {(one["direction"], one["reason"]): (one["counted"], one["seen"]) for one in answer["packets"]["agreement"]}


def address(pod, family):
    return pod.ipv4 if family == 4 else pod.ipv6


@pytest.mark.parametrize("family", [4, 6])
def test_what_a_receiver_denied_is_seen_with_its_peers_and_rules(demo, watched, family):
    to, ping = address(DATABASE, family), 1 if family == 4 else 58

    def send():
        demo.send(PROBE, "udp", to, 9991, 10)
        demo.send(FRONTEND, "udp", to, 7777, 6)
        demo.send(PROBE, "tcp", to, 9992, 3)
        demo.send(PROBE, "ping", to, 0, 4)
        demo.send(CART, "udp", to, 5432, 5)

    answer = watched(DATABASE, send, seconds=4)
    probe, frontend, cart = (address(one, family) for one in (PROBE, FRONTEND, CART))
    assert {
        ("denied", "inbound", probe, 17, 9991): 10,
        ("denied", "inbound", frontend, 17, 7777): 6,
        ("denied", "inbound", probe, 6, 9992): 3,
        ("denied", "inbound", probe, ping, 0): 4,
    } == groups(answer, "denied")
    assert groups(answer, "passed")["passed", "inbound", cart, 17, 5432] >= 1
    found = {(one["peer_name"], one["port"]): one for one in answer["packets"]["groups"]}
    assert ("security.gate", "security", "0") == rule(found["shop/frontend", 7777])
    assert ("", "default", "end_of_tier") == rule(found["ops/probe", 9991])
    assert {("inbound", "policy"): (23, 23)} == agreement(answer)
    assert (0, []) == (answer["packets"]["lost"], answer["packets"]["not_placed"])
    assert f"10 packets from ops/probe ({probe}), udp/9991 at {to}: data/db, denied by the end of tier default" in str(
        answer["text"]
    )


@pytest.mark.parametrize("family", [4, 6])
def test_what_a_pods_own_policy_denied_is_seen_with_its_destination(demo, watched, family):
    to, cart = address(DATABASE, family), address(CART, family)

    def send():
        demo.send(FRONTEND, "udp", to, 6666, 8)
        demo.send(FRONTEND, "flows", cart, 8080, 4)
        demo.send(FRONTEND, "udp", cart, 8081, 3)

    answer = watched(FRONTEND, send)
    assert {("denied", "outbound", to, 17, 6666): 8, ("denied", "outbound", cart, 17, 8081): 3} == groups(
        answer, "denied"
    )
    assert ("passed", "outbound", cart, 17, 8080) in groups(answer)
    found = {one["port"]: one for one in answer["packets"]["groups"]}
    assert ("frontend", "cart") == (found[6666]["decider"]["pod"], found[8081]["decider"]["pod"])
    assert ("security.gate", "security", "0") == rule(found[6666])
    assert {("outbound", "policy"): (8, 8)} == agreement(answer)


@pytest.mark.parametrize("family", [4, 6])
def test_packets_to_a_service_that_its_backend_denied_show_the_service_and_the_backend(demo, watched, family):
    # The cart's policy allows its port to the frontend alone.
    service, to, probe = CART_SERVICE.addresses[family == 6], address(CART, family), address(PROBE, family)

    def send():
        demo.send(PROBE, "udp", service, CART_SERVICE.port, 7)
        demo.send(FRONTEND, "udp", service, CART_SERVICE.port, 4)

    rule_of_tier_end = ("", "default", "end_of_tier")
    for pod, peer, direction in ((CART, probe, "inbound"), (PROBE, service, "outbound")):
        answer = watched(pod, send)
        (one,) = [one for one in answer["packets"]["groups"] if one["verdict"] == "denied"]
        assert (direction, peer, service, f"{to} 8080", 80, 7) == tuple(
            one[name] for name in ("direction", "peer", "destination", "backend", "port", "packets")
        )
        assert ("cart", rule_of_tier_end) == (one["decider"]["pod"], rule(one))
        assert ({("inbound", "policy"): (7, 7)} if pod is CART else {}) == agreement(answer)
        ends = f"from ops/probe ({probe}), udp/80 at {service}" if pod is CART else f"to a service ({service}), udp/80"
        assert f"7 packets {ends}, backend {to} port 8080: shop/cart, denied by the end of tier default" in str(
            answer["text"]
        )
        asked = f"[{service}]:80" if family == 6 else f"{service}:80"
        assert (probe, asked, to, 8080) in [
            tuple(one[name] for name in ("peer", "service", "destination", "port")) for one in answer["denied_flows"]
        ]


def test_drops_before_policy_are_counted_and_seen(demo, watched):
    (empty, _) = EMPTY_SERVICE.addresses

    def send():
        for kind, count in (("short", 3), ("malformed", 4), ("fragment", 5)):
            demo.send(PROBE, kind, DATABASE.ipv4, 0, count)
        demo.send(PROBE, "udp", BLACKHOLE, 443, 6)
        with pytest.raises(DemoError, match="unreachable"):
            demo.send(PROBE, "tcp", empty, 80, 1)

    answer = watched(PROBE, send)
    assert {
        ("outbound", "too_short"): (3, 3),
        ("outbound", "malformed_ip"): (4, 4),
        ("outbound", "fragment_out_of_order"): (5, 5),
        ("outbound", "blackhole_route"): (6, 6),
    } == agreement(answer)
    assert {("denied", "outbound", BLACKHOLE, 17, 443): 6, ("denied", "outbound", empty, 6, 80): 1} == groups(
        answer, "denied"
    )
    found = {one["port"]: one for one in answer["packets"]["groups"]}
    assert "has no backends: Calico rejects the packet before policy" in found[80]["why"]


def test_a_false_source_is_told_apart(demo, watched):
    def send():
        words = sys.executable, "-c", SPOOF, SPOOFED, CART.ipv4, 8080, 9
        in_namespace(demo.pod_namespace(PROBE), *words)

    answer = watched(PROBE, send)
    assert {("spoofed", "outbound", SPOOFED, 17, 8080): 9} == groups(answer)
    why = "the source is no address of the pod: Calico drops it and counts none"
    assert [{"why": why, "packets": 9}] == answer["packets"]["not_placed"]
    assert any("9 packets: the source is no address of the pod" in line for line in answer["text"])


def test_a_peer_from_outside_the_node_is_named_by_its_address(demo, watched):
    udp = f"import socket; s = socket.socket(2, 2); [s.sendto(b'x', ({CART.ipv4!r}, 9990)) for _ in range(7)]"
    answer = watched(CART, lambda: in_namespace(f"{demo.name}-world", sys.executable, "-c", udp))
    assert {("denied", "inbound", "192.168.50.2", 17, 9990): 7} == groups(answer)
    assert {("inbound", "policy"): (7, 7)} == agreement(answer)


def test_without_the_right_it_is_one_sentence_and_the_rest_as_before(demo):
    where = ["--bpf.fs", demo.bpf.path, "--calico.run-dir", demo.run_dir, "--no-kubernetes"]
    without = ["capsh", "--drop=cap_net_raw", "--", "-c", 'exec "$0" "$@"', installed.program()]
    words = ["why", "--pod", "db", "--for", "0.1", "--packets"]
    inside = ["ip", "netns", "exec", demo.namespace, *without, *map(str, (*words, *where))]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert "No packets were captured: packets cannot be seen without CAP_NET_RAW" in done.stdout
    assert "data/db" in done.stdout.splitlines()[0]


def test_a_bundle_has_of_every_pod_what_was_denied_at_it_or_to_it(demo, bundle):
    record, why = bundle

    def send():
        demo.send(PROBE, "udp", DATABASE.ipv4, 9991, 10)
        demo.send(PROBE, "tcp", DATABASE.ipv6, 9992, 3)
        demo.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 8)
        demo.send(CART, "udp", DATABASE.ipv4, 5432, 5)
        demo.send(PROBE, "short", DATABASE.ipv4, 0, 3)

    order = sorted((FRONTEND, CART, DATABASE, PROBE), key=lambda one: demo.ifindex(one.interface))
    found = dict(zip((one.name for one in order), map(why, record(send)[-4:]), strict=True))

    def seen(pod):
        rows = [one for one in found[pod.name]["packets"]["groups"] if one["verdict"] == "denied"]
        return {
            (one["direction"], one["protocol"], one["port"], one["ip_family"], one["decider"]["pod"]): one["packets"]
            for one in rows
        }

    names = {one.name: found[one.name]["pod"] for one in order}
    database, frontend = names["db"], names["frontend"]
    assert {
        ("inbound", 17, 9991, 4, database): 10,
        ("inbound", 6, 9992, 6, database): 3,
        ("inbound", 17, 6666, 4, frontend): 8,
    } == seen(DATABASE)
    assert {("outbound", 17, 6666, 4, frontend): 8} == seen(FRONTEND)
    assert {("outbound", 17, 9991, 4, database): 10, ("outbound", 6, 9992, 6, database): 3} == seen(PROBE)
    assert {} == seen(CART)
    assert {("inbound", "policy"): (13, 13)} == agreement(found["db"])
    assert {("outbound", "policy"): (8, 8)} == agreement(found["frontend"])
    assert {("outbound", "too_short"): (3, 3)} == agreement(found["probe"])
    assert [0, 0, 0, 0] == [one["packets"]["lost"] for one in found.values()]
    assert ("passed", "inbound", 17, 5432) in {
        (one["verdict"], one["direction"], one["protocol"], one["port"]) for one in found["db"]["packets"]["groups"]
    }
