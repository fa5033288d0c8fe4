"""Links and routes followed by notification, against what a fresh dump says, in a namespace of the test's own."""

import subprocess
import sys

import pytest

from tests.kernel.machine import ROOT

pytestmark = pytest.mark.kernel

# Each runs in a namespace of its own, where it can do to links what it likes.
AGREE = """
import os, subprocess, sys, time
from exporter.node.live_links import LiveLinks
from exporter.node.netlink import read_host_routes, read_links

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

def agree(live, seconds=5):
    deadline = time.monotonic() + seconds
    while True:
        said = set(live.links()), set(live.host_routes())
        if said == (set(read_links()), set(read_host_routes())):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
"""
CHANGES = (
    "link add x0 type veth peer name x1",
    "link set x0 up",
    "link set x1 up",
    "addr add 10.9.0.1/24 dev x0",
    "route add 10.65.0.7/32 dev x0",
    "-6 route add fd00::7/128 dev x0",
    "route replace 10.65.0.7/32 dev x1",
    "route add 10.65.0.7/32 dev x0 metric 5",
    "route add 10.65.0.3/32 dev x0",
    "route replace 10.65.0.3/32 via 10.9.0.2",
    "route del 10.65.0.7/32 dev x1",
    "link set x0 down",
    "link set x0 up",
    "route add 10.65.0.8/32 dev x0",
    "link set x0 down",
    "link set x0 name x9",
    "link set x9 up",
    "route add 10.65.0.9/32 dev x9 table 77",
    "link add br0 type bridge",
    "link set x9 master br0",
    "link set x9 nomaster",
    "link add x0 index 77 type veth peer name x2",
    "link del x0",
    "link add x3 index 77 type veth peer name x4",
    "link del x9",
)


def in_namespace(body, *arguments, seconds=60):
    """What a script prints that runs in a network namespace of its own."""
    words = ["unshare", "--net", sys.executable, "-c", AGREE + body, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=seconds, check=False)
    assert "" == done.stderr
    return done.stdout.split()


def test_after_every_kind_of_change_it_says_what_a_dump_says(machine):
    body = """
live = LiveLinks()
for change in sys.argv[1:]:
    ip(change)
    if not agree(live):
        print(change.replace(" ", "_"))
live.close()
"""
    assert [] == in_namespace(body, *CHANGES)


def test_a_namespace_with_1000_interfaces_is_followed(machine):
    body = """
live = LiveLinks()
for lines in (
    [f"link add a{i} type veth peer name b{i}" for i in range(500)],
    [f"link del a{i}" for i in range(400)],
):
    subprocess.run(["ip", "-batch", "-"], input="\\n".join(lines), text=True, check=True)
    print(agree(live, 20), len(live.links()))
live.close()
"""
    assert ["True", "1001", "True", "201"] == in_namespace(body)


def test_after_an_overrun_everything_is_read_again(machine):
    # The thread is held up while more is announced than its buffer can take.
    body = """
from exporter.node import live_links
live_links._BUFFER = 4096
reads = []
read_all = live_links.LiveLinks._read_all
live_links.LiveLinks._read_all = lambda self: (reads.append(1), read_all(self))
live = LiveLinks()
live.links()
with live._lock:
    batch = "".join(f"link add a{i} type veth peer name b{i}\\n" for i in range(200))
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
print(agree(live), len(live.links()), len(reads) > 1)
ip("link del a7")
print(agree(live))
live.close()
"""
    assert ["True", "401", "True", "True"] == in_namespace(body)


def test_after_overruns_in_the_middle_of_changes_it_still_says_what_a_dump_says(machine):
    # Until its queue is empty the kernel drops what comes after an overrun without another error.
    body = """
import threading
from exporter.node import live_links
live_links._BUFFER = 4096
live = LiveLinks()
live.links()
for round in range(5):
    for verb in ("add a{i} type veth peer name b{i}", "del a{i}"):
        lines = [f"link {verb}".replace("{i}", str(i)) for i in range(100)]
        subprocess.run(["ip", "-batch", "-"], input="\\n".join(lines), text=True, check=True)
print(agree(live, 20), len(live.links()))
live.close()
"""
    assert ["True", "1"] == in_namespace(body)


def test_a_lost_socket_is_an_error_until_a_new_one_is_there(machine):
    body = """
from exporter.node import NodeError, live_links
live_links._RETRY_DELAY = 0.5
live = LiveLinks()
live.links()
failing = [True]
follow = live_links.LiveLinks._follow
def broken(self, notifications):
    if failing and failing.pop():
        raise OSError(9, "Bad file descriptor")
    follow(self, notifications)
live_links.LiveLinks._follow = broken
other = LiveLinks()
time.sleep(0.2)
try:
    other.links()
    print("no error")
except NodeError as error:
    print("error")
ip("link add x0 type veth peer name x1")
time.sleep(1)
print(agree(other), agree(live))
live.close(), other.close()
"""
    assert ["error", "True", "True"] == in_namespace(body)


def test_while_nothing_changes_the_answer_is_the_same_object(machine):
    body = """
live = LiveLinks()
first = live.links(), live.host_routes()
print(all(one is other for one, other in zip(first, (live.links(), live.host_routes()))))
ip("link add x0 type veth peer name x1")
agree(live)
print(live.links() is not first[0])
live.close()
"""
    assert ["True", "True"] == in_namespace(body)


def test_closing_leaves_no_descriptor_and_no_thread(machine):
    body = """
import threading
def resources():
    return len(os.listdir("/proc/self/fd")), threading.active_count()
LiveLinks().close()
before = resources()
for _ in range(5):
    live = LiveLinks()
    live.links()
    live.close()
print(resources() == before)
"""
    assert ["True"] == in_namespace(body)


INTERFACES = """
from exporter.node.netlink import read_interface_to, read_links

for words in (
    "link set lo up", "link add x0 type veth peer name x1", "link set x0 up", "link set x1 up",
    "addr add 10.9.0.1/24 dev x0", "addr add 10.8.0.1/24 dev x1", "route add default via 10.9.0.2",
    "route add 192.0.2.0/24 via 10.8.0.2", "route add blackhole 198.51.100.0/24", "rule add to 203.0.113.7 lookup 77",
    "route add 203.0.113.0/24 dev x1 table 77", "addr add fd00:9::1/64 dev x0 nodad",
    "-6 route add default via fd00:9::2",
):
    ip(words)
names = {one.ifindex: one.name for one in read_links()} | {None: "none"}
asked = sys.argv[1:]
print(*(names[read_interface_to(one)] for one in asked))
"""


def test_the_kernel_says_by_which_interface_it_sends(machine):
    expected = {
        "8.8.8.8": "x0",
        "10.8.0.9": "x1",
        "192.0.2.1": "x1",  # a network behind a gateway
        "203.0.113.7": "x1",  # a rule and a table of its own
        "203.0.113.8": "x0",
        "198.51.100.1": "none",
        "10.9.0.1": "none",  # its own
        "2001:db8::1": "x0",
        "::1": "none",
    }
    assert list(expected.values()) == in_namespace(INTERFACES, *expected)
