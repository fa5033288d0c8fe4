"""Pods by the API server's names on real interfaces and maps: when their series come, and that they go."""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyroute2 import netns

from exporter.calico.names import workload_interface
from tests.kernel.machine import Serving, labels_of, run
from tests.kernel.pinned import HASH, NO_PREALLOC, PERCPU_HASH, interface_state, on_each_cpu, u32
from tests.node.pod_server import PodServer, event, pod
from tests.web.authority import Authority

pytestmark = pytest.mark.kernel

NAMESPACE = f"cbe-pods-{os.getpid()}"
INSIDE = ("ip", "netns", "exec", NAMESPACE)


@pytest.fixture
def inside(machine):
    """A thread in a network namespace of its own: what it listens on is there."""
    run("ip", "netns", "add", NAMESPACE)
    try:
        run(*INSIDE, "ip", "link", "set", "lo", "up")
        with ThreadPoolExecutor(1, initializer=netns.setns, initargs=(NAMESPACE,)) as thread:
            yield thread
    finally:
        run("ip", "netns", "delete", NAMESPACE)


@pytest.fixture
def cluster(inside, tmp_path):
    server = inside.submit(PodServer, Authority(tmp_path)).result()
    yield server
    server.over = True
    server.stop()
    assert [] == server.faults


@pytest.fixture
def node(inside, cluster, bpf_fs, make_map, tmp_path):
    """A node whose maps are those of a real one, without Calico's own files: the API server alone names pods."""
    node = Node(cluster, make_map)
    names = ["--kubernetes.kubeconfig", cluster.kubeconfig(tmp_path / "kubeconfig"), "--kubernetes.node", "node-1"]
    node.server = Serving(bpf_fs, tmp_path / "run", tmp_path / "serve.log", prefix=INSIDE, more=names)
    yield node
    node.server.end()


class Node:
    def __init__(self, cluster, make_map):
        self.cluster = cluster
        self.states = make_map("cali_iface4", HASH, 4, 52, max_entries=1000, flags=NO_PREALLOC)
        self.counters = make_map("cali_counters6", PERCPU_HASH, 8, 8 * 27, max_entries=20000, flags=NO_PREALLOC)
        make_map("cali_rule_ctrs2", PERCPU_HASH, 8, 8, max_entries=10000)

    def schedule(self, name, uid):
        """What the API server says before the pod has an interface."""
        self.cluster.events.put(event("ADDED", pod(name, uid=uid, phase="Pending")))

    def connect(self, name, index):
        """The interface of a pod, as the CNI plugin and Felix make it."""
        interface = workload_interface("cali", "ns", name)
        add = ("ip", "link", "add", interface, "index", index, "type", "veth", "peer", f"peer{index}")
        run(*INSIDE, *add)
        self.states.put(u32(index), interface_state(0x1 | 0x2, interface, 52))
        self.counters.put(u32(index, 0), *on_each_cpu(27, {0: index}))

    def disconnect(self, name, index):
        run(*INSIDE, "ip", "link", "delete", workload_interface("cali", "ns", name))
        self.states.delete(u32(index))
        self.counters.delete(u32(index, 0))

    def forget(self, name, uid):
        self.cluster.events.put(event("DELETED", pod(name, uid=uid)))

    def seconds_until(self, condition):
        """How long it takes until a scrape is as it should be; what the scrape itself takes is part of it."""
        start = time.monotonic()
        while not condition(labels_of(self.server.scrape(), "calico_bpf_program_packets_total")):
            assert time.monotonic() < start + 10
        return time.monotonic() - start


def has(name):
    return lambda series: ("ns", name) in {(one["namespace"], one["pod"]) for one in series}


def lacks(name):
    interface = workload_interface("cali", "ns", name)
    return lambda series: not any(interface == one["interface"] or name == one["pod"] for one in series)


def test_the_series_of_a_pod_come_within_a_second_of_its_interface_and_go_with_it(node):
    coming, going = [], []
    for number in range(9):
        name, index = f"web-{number}", 500 + number
        node.schedule(name, "a")
        node.connect(name, index)
        coming.append(node.seconds_until(has(name)))
        node.disconnect(name, index)
        going.append(node.seconds_until(lacks(name)))
        node.forget(name, "a")
    # The one second is what is promised; the median, because this machine may stand still for longer.
    assert (True, True) == (statistics.median(coming) < 1, statistics.median(going) < 1)


def test_a_pod_that_is_known_after_its_interface_is_named_when_it_is_known(node):
    node.connect("late", 700)
    interface = workload_interface("cali", "ns", "late")
    assert [("", "", interface)] == [
        (one["namespace"], one["pod"], one["interface"])
        for one in labels_of(node.server.scrape(), "calico_bpf_program_packets_total")
    ]
    node.schedule("late", "a")
    assert node.seconds_until(has("late")) < 10


def test_a_pod_recreated_under_its_name_within_a_second_keeps_its_name_on_the_new_interface_alone(node):
    for number in range(10):
        old, new = 800 + number, 801 + number
        if not number:
            node.schedule("web-0", "0")
            node.connect("web-0", old)
        assert node.seconds_until(has("web-0")) < 10
        node.disconnect("web-0", old)
        node.connect("web-0", new)
        # The old pod's end is told after the new pod's beginning, as a StatefulSet in a hurry can make it.
        node.schedule("web-0", str(number + 1))
        node.forget("web-0", str(number))
        scrape = node.server.scrape()
        name = "calico_bpf_program_packets_total"
        assert {new} == {value for (family, labels), value in scrape.items() if family == name}
        assert [("ns", "web-0")] == [(one["namespace"], one["pod"]) for one in labels_of(scrape, name)]
