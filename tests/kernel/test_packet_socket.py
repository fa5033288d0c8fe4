"""The packet socket on real links: what its filter passes, what it counts, and what it has no memory for."""

import json
import os
import subprocess
import sys

import pytest

from exporter.demo.namespace import write_settings

pytestmark = pytest.mark.kernel
# Runs in a namespace with the links out0 and in0, which are each other's peer: sends by one, captures what comes in by
# the other, and prints what was seen.
CAPTURE = """
import dataclasses, json, socket, struct, sys
from exporter.node import packet_socket
from exporter.node.packet_filter import Watched, WatchedNode

settings = json.loads(sys.argv[1])
packet_socket._BUFFER = settings["buffer"]
packet_socket.MAX_PACKETS = settings["limit"]
own, unrelated = settings["packets"], settings["unrelated"]
index = socket.if_nametoindex(settings["interface"])
watched = Watched(index, settings["interface"], ("10.65.0.2",))
if settings["node"]:
    watched = WatchedNode(frozenset({settings["interface"]}), frozenset({socket.inet_aton("10.65.0.2")}), frozenset())
opened = packet_socket.PacketSocket(watched)

def packet(destination, port):
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 17, 0)
    ends = socket.inet_aton("10.65.0.3") + socket.inet_aton(destination)
    return head + ends + struct.pack(">HHHH", 40000, port, 8, 0)

with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
    link.bind(("out0", 0))
    with open("/sys/class/net/in0/address") as file:
        frame = bytes.fromhex(file.read().strip().replace(":", "")) + bytes(6) + b"\\x08\\x00"
    for _ in range(own):
        link.send(frame + packet("10.65.0.2", 9999))
    for _ in range(unrelated):
        link.send(frame + packet("10.65.0.9", 9999))
    for flags in settings["segments"]:
        ends = socket.inet_aton("10.65.0.3") + socket.inet_aton("10.65.0.2")
        head = struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + ends
        link.send(frame + head + struct.pack(">HHIIBBHHH", 40000, 80, 1, 1, 0x50, flags, 1000, 0, 0))
opened.run(0.2)
capture = opened.capture()
opened.close()
print(json.dumps([dataclasses.asdict(capture), [one.packets for one in capture.flows]], default=list))
"""


@pytest.fixture(scope="module")
def namespace(machine):
    name = f"t{os.getpid()}-packets"

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    ip("netns", "add", name)
    try:
        # The links' own packets, such as router solicitations, would be counted too.
        write_settings(name, {f"net/ipv6/conf/{which}/disable_ipv6": 1 for which in ("all", "default")})
        ip("-n", name, "link", "add", "out0", "type", "veth", "peer", "name", "in0")
        for link in ("out0", "in0", "lo"):
            ip("-n", name, "link", "set", link, "up")
        yield name
    finally:
        ip("netns", "delete", name)


@pytest.fixture
def captured(namespace):
    def capture(packets, *, unrelated=0, interface="out0", buffer=4 << 20, limit=1_000_000, node=False, segments=()):
        settings = {
            "node": node,
            "segments": segments,
            "packets": packets,
            "unrelated": unrelated,
            "interface": interface,
            "buffer": buffer,
            "limit": limit,
        }
        words = ["ip", "netns", "exec", namespace, sys.executable, "-c", CAPTURE, json.dumps(settings)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return capture


def test_packets_to_the_pod_are_seen_once_and_others_not_at_all(captured):
    # The pod's interface is another one here: its address lets them pass, where they come in.
    found, packets = captured(50, unrelated=50, interface="lo")
    assert ([50], 0, False) == (packets, found["lost"], found["full"])
    (flow,) = found["flows"]
    assert ("10.65.0.3", "10.65.0.2", 9999, "in0") == (
        flow["source"],
        flow["destination"],
        flow["destination_port"],
        flow["interface"],
    )
    assert [["10.65.0.2", 9999]] == flow["passed_to"]  # they went out by out0


def test_all_that_comes_in_by_the_pods_interface_is_seen(captured):
    _, packets = captured(30, unrelated=20, interface="in0")
    assert [20, 30] == sorted(packets)


def test_what_the_buffer_could_not_hold_is_counted(captured):
    found, packets = captured(400, buffer=4096, interface="in0")
    # Those that out0 sent: they have the pod's address too.
    assert 0 < found["lost"] < 800
    assert 800 == found["packets"] + found["lost"]
    assert sum(packets) < 400


def test_the_capture_ends_at_its_limit(captured):
    found, _ = captured(50, interface="lo", limit=10)
    assert (10, True) == (found["packets"], found["full"])


def test_of_a_node_all_is_seen_but_the_inside_of_connections_and_flows_of_others_are_not_kept(captured):
    found, packets = captured(5, unrelated=7, interface="lo", node=True, segments=[2, 2, 16, 24, 17, 4])
    assert 2 * (5 + 7 + 3) == found["packets"]  # sent by out0 and received by in0
    assert [2, 5] == sorted(packets)
    assert ["10.65.0.2"] * 2 == [one["destination"] for one in found["flows"]]
