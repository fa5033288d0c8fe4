"""Packets that are dropped before Calico's program counts them are found; ordinary traffic is never taken for it."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests import installed
from tests.kernel.machine import Serving, run, sample
from tests.kernel.node_with_pod import ALLOWED, INTERFACE, NODE, node_with_pod

pytestmark = pytest.mark.kernel

SUSPECT = sample("calico_bpf_endpoint_uncounted_drops", interface=INTERFACE, namespace="ns-a", pod="client")
SENT = sample(
    "calico_bpf_program_packets_total",
    interface=INTERFACE,
    hook="tc_ingress",
    direction="outbound",
    namespace="ns-a",
    pod="client",
)
PROBLEM = sample("calico_bpf_endpoint_problems", problem="uncounted")
# Loads a program that drops all, and pins it; attached with TCX, it pins the link too.
DROP_ALL = """
import ctypes, os, sys
lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
code = bytes([0xB7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])  # return TC_ACT_SHOT
made = lib.bpf_prog_load(3, b"drop_all", b"GPL", code, ctypes.c_size_t(2), None)
if len(sys.argv) > 2:
    made = lib.bpf_link_create(made, int(sys.argv[2]), 46, None)  # BPF_TCX_INGRESS
sys.exit(made < 0 or lib.bpf_obj_pin(made, os.fsencode(sys.argv[1])) != 0)
"""
FRAMES = """
import socket, sys
kind, frames = int(sys.argv[1], 16), int(sys.argv[2])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
    sender.bind(("eth0", 0))
    head = bytes.fromhex("020000000001" "020000000002") + kind.to_bytes(2, "big")
    body = {
        0x806: bytes.fromhex("0001080006040001" "020000000002" "0a410002" "000000000000" "a9fe0101"),
        0x86DD: bytes.fromhex("60000000" "0000" "3b40") + bytes(15) + b"\\2" + bytes(15) + b"\\1",
    }
    for _ in range(frames):
        sender.send(head + body[kind])
"""
OFFLOAD = """
import ctypes, fcntl, socket, struct, sys
interface, value = sys.argv[1].encode(), int(sys.argv[2])
with socket.socket() as any_socket:
    for command in map(int, sys.argv[3:]):  # of SIOCETHTOOL
        setting = ctypes.create_string_buffer(struct.pack("II", command, value), 8)
        fcntl.ioctl(any_socket, 0x8946, struct.pack("16sP8x", interface, ctypes.addressof(setting)))
"""
SET_TSO, SET_GSO, SET_GRO = 0x1F, 0x24, 0x2C
SLOWLY = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    while True:
        sender.sendto(b"x", (sys.argv[1], 5000))
        time.sleep(0.01)
"""
RECEIVER = """
import socket
with socket.create_server(("10.0.0.1", 7000)) as server:
    print("ready", flush=True)
    client, _ = server.accept()
    while client.recv(1 << 20):
        pass
"""
SENDER = """
import socket
with socket.create_connection(("10.0.0.1", 7000)) as client:
    for _ in range(320):
        client.sendall(bytes(1 << 16))
"""


@pytest.fixture(scope="module")
def node(module_fs, counting, tmp_path_factory):
    with node_with_pod(module_fs, counting, tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture(scope="module")
def serving(node, tmp_path_factory):
    server = Serving(node.bpf_fs, node.run_dir, tmp_path_factory.mktemp("log") / "serve.log", prefix=node.inside)
    yield server
    server.end()


@contextmanager
def with_clsact(node):
    pin = node.bpf_fs / "drop_all"
    run(*node.inside, sys.executable, "-c", DROP_ALL, pin)
    where = ("dev", INTERFACE, "ingress", "pref", "1")
    run("tc", "-n", node.node, "filter", "add", *where, "bpf", "direct-action", "object-pinned", pin)
    try:
        yield
    finally:
        run("tc", "-n", node.node, "filter", "delete", *where)
        pin.unlink()


@contextmanager
def with_tcx(node):
    pin = node.bpf_fs / "drop_all_link"
    run(*node.inside, sys.executable, "-c", DROP_ALL, pin, node.ifindex)
    try:
        yield
    finally:
        pin.unlink()


@pytest.mark.parametrize("in_front", [with_clsact, with_tcx])
def test_a_program_in_front_that_drops_all_is_found_until_it_is_gone(node, serving, in_front):
    quiet = [serving.scrape(), serving.scrape()][1]
    with in_front(node):
        node.send(ALLOWED, 25)
        once = serving.scrape()  # not enough: it may be between two readings
        node.send(ALLOWED, 25)
        assert 1 == serving.scrape()[SUSPECT]
        node.send(ALLOWED, 5)  # too few to say so
        few = serving.scrape()
    node.send(ALLOWED, 25)
    after = serving.scrape()
    assert [0, 0, 0, 0] == [one[PROBLEM] for one in (quiet, once, few, after)]
    assert not any(SUSPECT in one for one in (quiet, once, few, after))


def test_what_the_exporter_reads_by_itself_after_its_start_is_not_taken_for_a_scrape(node, tmp_path):
    server = Serving(node.bpf_fs, node.run_dir, tmp_path / "serve.log", prefix=node.inside)
    try:
        server.scrape()
        with with_clsact(node):
            node.send(ALLOWED, 25)
            server.scrape()
            node.send(ALLOWED, 15)
            time.sleep(1.5)  # it reads the maps a second after its start
            node.send(ALLOWED, 15)
            assert 1 == server.scrape()[SUSPECT]
    finally:
        server.end()


@pytest.mark.parametrize("in_front", [with_clsact, with_tcx])
def test_why_says_so_and_exits_as_for_a_loss(node, in_front):
    sender = subprocess.Popen(["ip", "netns", "exec", node.pod, sys.executable, "-c", SLOWLY, NODE])
    try:
        with in_front(node):
            done = node.command("why", "--pod", "ns-a/client", "--for", "2s", "-o", "json")
    finally:
        installed.end(sender)
    assert 3 == done.returncode, done.stdout + done.stderr
    assert 20 <= json.loads(done.stdout)["uncounted"]


def arp(node):
    node.in_pod(FRAMES, "806", 50)


def ipv6(node):
    node.in_pod(FRAMES, "86DD", 50)


def datagrams(node):
    node.send(ALLOWED, 50)


def assert_quiet(node, serving, traffic):
    """Two scrapes with traffic in between find nothing; the packets that the kernel and the program saw."""
    before = serving.scrape()
    received = received_by(node)
    traffic(node)
    received = received_by(node) - received
    after = serving.scrape()
    assert (0, False) == (after[PROBLEM], SUSPECT in after)
    return received, after[SENT] - before[SENT]


def received_by(node):
    (link,) = json.loads(run("ip", "-j", "-s", "-n", node.node, "link", "show", INTERFACE).stdout)
    return link["stats64"]["rx"]["packets"]


@pytest.mark.parametrize("traffic", [arp, ipv6, datagrams])
def test_what_the_node_does_not_take_is_not_taken_for_it(node, serving, traffic):
    # The node has IPv6 off, and nobody listens: the program counted all of it.
    received, entered = assert_quiet(node, serving, traffic)
    assert 50 <= received <= entered


def bulk(node):
    node.in_pod(SENDER)


@pytest.fixture
def merging(node):
    """What the pod sends comes in segments, which the node merges before its programs see them."""
    node.in_pod(OFFLOAD, "eth0", 0, SET_TSO, SET_GSO)
    run(*node.inside, sys.executable, "-c", OFFLOAD, INTERFACE, 1, SET_GRO)
    with subprocess.Popen([*node.inside, sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE) as receiver:
        assert b"ready\n" == receiver.stdout.readline()
        yield
        receiver.kill()


@pytest.mark.usefixtures("merging")
def test_bulk_data_that_the_kernel_merges_is_not_taken_for_it(node, serving):
    received, entered = assert_quiet(node, serving, bulk)
    assert received > 5 * entered > 0
