"""The chart as docs/install.md installs it without a registry: what then runs on the node, and what it serves."""

import json
import re

import pytest

from exporter import confine
from exporter.demo.plan import DATABASE, FRONTEND, PODS, PROBE
from tests.cluster.release import LABEL, NAME, Release, block_after, create_demo_pods
from tests.kernel.machine import labels_of, sample, success
from tests.kubectl.test_live import Sending, named

INSTALL = "And once, from the clone (tried with Kubernetes 1.34 and containerd 1.6, `make test-cluster`):"


@pytest.fixture(scope="module")
def told(node):
    """What the commands print. The node is reserved for others, which the exporter tolerates."""
    node.import_image(NAME)
    node.api.kubectl("taint", "node", "node-1", "reserved=yes:NoSchedule", "reserved=yes:NoExecute")
    create_demo_pods(node)
    yield node.shell(block_after(INSTALL)).stdout
    Release(node).uninstall()
    for pod in PODS:
        node.api.kubectl("delete", "namespace", pod.namespace, "--ignore-not-found", "--timeout=50s")
    node.api.kubectl("taint", "node", "node-1", "reserved-")


@pytest.fixture
def release(node, told):
    made = Release(node)
    node.shell(f"kubectl -n {NAME} wait pod --selector {LABEL} --for condition=Ready --timeout 60s")
    return made


def test_the_commands_end_with_a_test_that_succeeds(told):
    assert "Phase:          Succeeded" in told


def test_the_kubelet_finds_it_ready_without_a_warning(node, release):
    container = release.pod()["status"]["containerStatuses"][0]
    assert (True, 0) == (container["ready"], container["restartCount"])
    events = node.get("events", f"--namespace={NAME}", "--field-selector=type=Warning")["items"]
    assert [] == [(each["reason"], each["message"]) for each in events]


def test_the_serving_process_is_what_the_security_page_says(release):
    status = release.status()
    ours = "\t".join([str(confine.USER)] * 4)
    assert (ours, ours, "") == (status["Uid"], status["Gid"], status["Groups"].strip())
    assert ("1", "2") == (status["NoNewPrivs"], status["Seccomp"])
    kept = sum(1 << number for number in confine.KEPT)
    for each in ("CapPrm", "CapEff"):
        assert kept == int(status[each], 16)


def test_its_mounts_are_read_only_and_follow_the_node_s(release):
    mounts = release.mounts()
    assert "ro" in mounts["/"][0]
    for path in ("/sys/fs/bpf", "/var/run/calico"):
        options, propagation = mounts[path]
        assert ("ro", "master:") == (options[0], re.sub("[0-9]+$", "", propagation))


def test_a_command_in_the_pod_cannot_write_to_its_root(node, release):
    done = node.shell(f"kubectl -n {NAME} exec daemonset/{NAME} -- calico-bpf-exporter bundle /x.tar.xz", check=False)
    assert done.returncode
    assert "Read-only file system" in done.stderr


def test_every_packet_is_counted_with_the_pod_s_name(node, release):
    before = release.scrape()
    node.demo.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 7)
    after = release.scrape()
    dropped = sample(
        "calico_bpf_dropped_packets_total",
        interface=FRONTEND.interface,
        hook="tc_ingress",
        direction="outbound",
        namespace=FRONTEND.namespace,
        pod=FRONTEND.name,
        reason="policy",
    )
    assert 7 == after[dropped] - before.get(dropped, 0)
    assert {1.0} == set(success(after).values())


def test_the_pods_are_those_of_the_real_api_server(release):
    samples = release.scrape()
    assert len(PODS) == samples[sample("calico_bpf_exporter_pods")]
    assert 1 == samples[sample("calico_bpf_source_available", source="api_server")]
    known = {(each["namespace"], each["pod"]) for each in labels_of(samples, "calico_bpf_endpoint_info") if each["pod"]}
    assert {(pod.namespace, pod.name) for pod in PODS} == known


def test_the_plugin_says_why_through_the_real_kubelet(node, release):
    with Sending(lambda: node.demo.send(PROBE, "udp", DATABASE.ipv4, 9999, 3)):
        why = f"kubectl calico-bpf why {named(PROBE)} --to {named(DATABASE)} --for 2s -o json"
        done = node.shell(why, check=False)
    assert 3 == done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert ["policy"] == list(found["legs"][1]["dropped"])
    assert found["verdict"][0].startswith(f"{named(DATABASE)} dropped ")


def test_the_plugin_traces_a_packet_between_two_pods(node, release):
    trace = f"kubectl calico-bpf trace {named(PROBE)} {named(DATABASE)} --protocol udp --port 9999"
    done = node.shell(trace, check=False)
    assert ", udp to port 9999: denied." in done.stdout, done.stderr


def test_the_plugin_lists_who_drops_now(node, release):
    with Sending(lambda: node.demo.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 3)):
        found = json.loads(node.shell("kubectl calico-bpf top --for 2s -o json").stdout)["droppers"]
    assert ("node-1", FRONTEND.name, "policy") in [(one["node"], one["pod"], one["reason"]) for one in found]


def test_check_finds_nothing_wrong(node, release):
    assert 0 == node.shell("kubectl calico-bpf check --node node-1").returncode
