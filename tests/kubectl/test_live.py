"""On a real node under traffic the plugin watches live, through kubectl, a WebSocket and a terminal."""

import json
import os
import pty
import re
import select
import threading
import time

import pytest

from exporter.demo.node import Node
from exporter.demo.plan import DATABASE, FRONTEND, PROBE
from tests import installed
from tests.kubectl.cluster import exporter, pod
from tests.kubectl.conftest import TOOLS

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def demo(machine, tmp_path_factory):
    node = Node(f"k{os.getpid()}", tmp_path_factory.mktemp("demo") / "demo")
    try:
        node.build()
        yield node
    finally:
        node.close()


@pytest.fixture
def live(cluster, demo):
    """A cluster of one node, the demo's, with its exporter and its pods."""
    there = exporter("n1")
    cluster.pods += [there, *(pod(one.name, "n1", one.namespace) for one in (DATABASE, FRONTEND, PROBE))]
    where = {
        "CALICO_BPF_EXPORTER_BPF_FS": str(demo.bpf.path),
        "CALICO_BPF_EXPORTER_CALICO_RUN_DIR": str(demo.run_dir),
    }
    cluster.runs(there, ["ip", "netns", "exec", demo.namespace, installed.program()], **where)
    return cluster


class Sending:
    """Sends every tenth of a second until the end."""

    def __init__(self, *sends):
        self._sends, self._over = sends, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._over.wait(0.1):
            for send in self._sends:
                send()

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


def named(pod_):
    return f"{pod_.namespace}/{pod_.name}"


def test_sender_and_receiver_are_watched_in_the_same_time(live, demo, kubectl):
    with Sending(lambda: demo.send(PROBE, "udp", DATABASE.ipv4, 9999, 3)):
        done = kubectl("why", named(PROBE), "--to", named(DATABASE), "--for", "2s", "-o", "json")
    found = json.loads(done.stdout)
    out, into, back, home = found["legs"]
    assert (3, {}) == (done.returncode, out["dropped"])
    assert ["policy"] == list(into["dropped"])
    # They begin and end some tenths of a second apart: about as much left the one as the other denied.
    assert 0.3 < into["dropped"]["policy"] / out["entered"] < 3
    assert ({}, {}) == (back["dropped"], home["dropped"])
    assert found["verdict"][0].startswith(f"{named(DATABASE)} dropped ")
    assert all(1 < found[side]["seconds"] < 10 for side in ("sender", "receiver"))


def test_what_the_sender_denies_never_enters_the_receiver(live, demo, kubectl):
    with Sending(lambda: demo.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 3)):
        done = kubectl("why", named(FRONTEND), "--to", named(DATABASE), "--for", "2s")
    assert 3 == done.returncode
    assert re.search(
        rf"there +{named(FRONTEND)} +outbound +0 new connections, [0-9]+ packets dropped \(policy ", done.stdout
    )
    assert re.search(rf"there +{named(DATABASE)} +inbound +0 new connections, nothing dropped", done.stdout)


def test_top_sees_what_drops_now(live, demo, kubectl):
    with Sending(lambda: demo.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 3)):
        done = kubectl("top", "--for", "1s", "-o", "json")
    found = json.loads(done.stdout)["droppers"]
    assert [("n1", FRONTEND.name, "outbound", "policy")] == [
        (one["node"], one["pod"], one["direction"], one["reason"]) for one in found
    ]
    assert found[0]["per_second"] > 0


def test_a_live_view_redraws_in_the_user_s_terminal_until_ctrl_c(live, demo, environment):
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment)
        words = ["counters", named(FRONTEND), "--watch=500ms"]
        os.execv(TOOLS / "kubectl", ["kubectl", "calico-bpf", *words])
    printed, deadline = b"", time.monotonic() + 40
    with Sending(lambda: demo.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 3)):
        counts = set()
        while len(counts) < 3 and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                printed += os.read(terminal, 65536)
                counts = set(re.findall(rb"([0-9]+) packets dropped", printed))
        os.write(terminal, b"\x03")
        try:
            while time.monotonic() < deadline:
                printed += os.read(terminal, 65536)
        except OSError:
            pass
    _, status = os.waitpid(child, 0)
    assert 3 <= len(counts), printed[-2000:]
    assert b"Traceback" not in printed
    assert 0 == os.waitstatus_to_exitcode(status)
