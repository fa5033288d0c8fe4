"""Netlink's buffer overruns while the exporter does not read it: what it says afterwards is what the kernel has."""

import os
import signal
from dataclasses import replace

import pytest

from exporter.demo.node import Node
from exporter.demo.plan import DATABASE, FRONTEND, PODS
from exporter.node import NodeError, live_links
from exporter.node.live_links import LiveLinks
from tests.faults.known_node import ALL_WELL
from tests.kernel.machine import Serving, labels_of, run, steady_descriptors, success

pytestmark = pytest.mark.kernel


@pytest.fixture
def node(machine, tmp_path):
    """A demo node with its pods."""
    node = Node(f"f{os.getpid()}", tmp_path / "demo")
    try:
        node.build()
        yield node
    finally:
        node.close()


@pytest.fixture
def inside(node):
    return ("ip", "netns", "exec", node.namespace)


@pytest.fixture
def server(node, inside, tmp_path):
    one = Serving(node.bpf.path, node.run_dir, tmp_path / "serve.log", prefix=inside)
    yield one
    one.end()


def flood(inside, *lines):
    run(*inside, "ip", "-batch", "-", input="\n".join(lines))


def lost_messages(inside, server):
    """How many notifications the kernel could not deliver to this process."""
    rows = [line.split() for line in run(*inside, "cat", "/proc/net/netlink").stdout.splitlines()]
    columns = {name: number for number, name in enumerate(rows[0])}
    groups = f"{live_links._GROUPS:08x}"
    return sum(int(row[columns["Drops"]]) for row in rows[1:] if row[columns["Groups"]] == groups)


def agreed(server, expected):
    """The pods by interface, asked until they are as expected or half a minute of scrapes is over."""
    for _ in range(300):
        samples = server.scrape()
        said = {(one["interface"], one["pod"]) for one in labels_of(samples, "calico_bpf_endpoint_info") if one["pod"]}
        if said == expected:
            return samples
    raise AssertionError(said)


def test_after_an_overrun_every_pod_has_its_own_name_and_its_own_counts(node, inside, server):
    expected = {(one.interface, one.name) for one in PODS}
    node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 5)
    agreed(server, expected)
    descriptors = steady_descriptors(server.process.pid)
    index = node.ifindex(FRONTEND.interface)
    heir = replace(FRONTEND, name="heir", number=99)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        flood(inside, *(f"link set dev lo txqueuelen {1000 + number % 2}" for number in range(5000)))
        # Nothing of this is heard: the pod goes, and another gets its interface's index.
        node.remove_pod(FRONTEND)
        node.add_pod(heir, index)
        node.send(heir, "udp", DATABASE.ipv4, 6666, 2)
        assert lost_messages(inside, server) > 0
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    samples = agreed(server, (expected - {(FRONTEND.interface, "frontend")}) | {(heir.interface, "heir")})
    assert ALL_WELL == success(samples)
    dropped = {
        (labels["pod"], labels["direction"]): samples[name, frozenset(labels.items())]
        for name, labels in ((name, dict(labels)) for name, labels in samples)
        if name == "calico_bpf_dropped_packets_total" and labels["reason"] == "policy"
    }
    assert 2 == dropped["heir", "outbound"]
    assert "frontend" not in {pod for pod, _ in dropped}
    assert descriptors == steady_descriptors(server.process.pid)
    assert "Traceback" not in server.log.read_text()


def test_a_refusal_of_memory_is_a_sentence_and_ends_with_it(monkeypatch, machine):
    def refused():
        raise MemoryError

    monkeypatch.setattr(live_links, "_RETRY_DELAY", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(live_links, "read_links", refused)
        live = LiveLinks()
        with pytest.raises(NodeError, match="refused memory"):
            live.links()
    try:
        for _ in range(1000):
            try:
                assert live.links()
                break
            except NodeError:
                live._closed.wait(0.01)
        else:
            raise AssertionError("it does not come back")
    finally:
        live.close()
