"""`trace FROM TO` asks the node of each end for its half, and joins what they say."""

import json
import sys

import pytest

from tests import installed
from tests.kubectl.cluster import exporter, pod
from tests.kubectl.conftest import RECORDINGS

PRINT = "import sys; sys.stdout.write({0!r}); sys.stderr.write({1!r}); sys.exit({2})"
OLDER = (
    "Usage: calico-bpf-exporter [OPTIONS] COMMAND [ARGS]...\nTry 'calico-bpf-exporter --help' for help.\n\n"
    "Error: No such command '{}'.\n"
)


@pytest.fixture
def both(cluster):
    """Two nodes with a pod each, whose exporters read the same recording."""
    for node, namespace, name, address in (("n1", "ns-c", "plain", "10.65.0.4"), ("n2", "ns-b", "server", "10.65.0.3")):
        there = exporter(node)
        cluster.pods += [there, pod(name, node, namespace, podIP=address)]
        bundle = RECORDINGS / "02-ingress-deny.after.tar.xz"
        cluster.runs(there, [installed.program()], CALICO_BPF_EXPORTER_BUNDLE=str(bundle))
    return cluster


def says(cluster, node, verdict, errors="", code=0, **more):
    output = json.dumps({"verdict": verdict, "why_unknown": "", "text": [f"{node} says"], **more}) if verdict else ""
    cluster.runs(exporter(node), [sys.executable, "-c", PRINT.format(output, errors, code)])


def test_each_node_is_asked_about_its_pod_by_name_and_the_other_by_address(both, kubectl):
    done = kubectl("trace", "ns-c/plain", "ns-b/server", "--port", "9999/udp")
    lines = done.stdout.splitlines()
    assert "ns-c/plain to ns-b/server, udp to port 9999: denied." == lines[0]
    assert ["What node n1 says:", "What node n2 says:"] == [one for one in lines if one.startswith("What")]
    by = "GlobalNetworkPolicy security.gate, tier security, rule 0"
    assert f"  ns-b/server (cali34769d6a557), inbound (tc_egress), IPv4: denied by {by}" in lines
    assert 3 == done.returncode
    more = ["--protocol=udp", "--port=9999", "--output=json"]
    assert {
        "calico-system/exporter-n1": ["trace", "--from=ns-c/plain", "--to=10.65.0.3", *more],
        "calico-system/exporter-n2": ["trace", "--from=10.65.0.4", "--to=ns-b/server", *more],
    } == {where: words[1:] for where, words in both.ran}


@pytest.mark.parametrize(
    ("first", "second", "expected", "code"),
    [
        ("allow", "allow", "allow", 0),
        ("allow", "deny", "deny", 3),
        ("unknown", "deny", "deny", 3),
        ("allow", "unknown", "unknown", 1),
        ("allow", "perhaps", "unknown", 1),
        ("allow", "", "unknown", 1),
    ],
)
def test_the_halves_are_one_verdict(both, kubectl, first, second, expected, code):
    says(both, "n1", first)
    says(both, "n2", second)
    done = kubectl("trace", "ns-c/plain", "10.65.0.3", "--port", "80", "-o", "json")
    assert (expected, code) == (json.loads(done.stdout)["verdict"], done.returncode)


def test_an_exporter_without_the_command_is_one_sentence(both, kubectl):
    says(both, "n1", "allow")
    says(both, "n2", "", OLDER.format("trace"), 2)
    done = kubectl("trace", "ns-c/plain", "ns-b/server", "--port", "80/tcp")
    assert "Why: node n2: this exporter has no trace: upgrade the DaemonSet." in done.stdout
    assert 1 == done.returncode
    says(both, "n2", "", OLDER.format("conntrack"), 2)
    done = kubectl("conntrack", "ns-b/server")
    assert "Error: this exporter has no conntrack: upgrade the DaemonSet" == done.stderr.splitlines()[-1]
    assert (1, False) == (done.returncode, "Usage:" in done.stderr)


@pytest.mark.parametrize("words", [["--", "-x", "ns-b/server"], ["--", "ns-c/plain", "--help"], ["--", "svc/-x", "a"]])
def test_a_name_is_no_option(both, kubectl, words):
    done = kubectl("trace", "--port=80", *words)
    assert (1, []) == (done.returncode, both.ran)
    assert "is no pod's name" in done.stderr


def test_the_node_of_each_backend_of_a_service_is_asked_too(both, kubectl):
    both.services.append({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns-b"},
        "spec": {"clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]},
    })  # fmt: skip
    backends = [{"address": one, "port": 8080, "verdict": "allow"} for one in ("10.65.0.3", "192.0.2.1")]
    says(both, "n1", "allow", service={"address": "10.96.0.9", "port": 80, "backends": backends})
    says(both, "n2", "deny")
    done = kubectl("trace", "ns-c/plain", "svc/ns-b/web")
    assert [
        "ns-c/plain to svc/ns-b/web, tcp to port 80: not known.",
        "Why: the service's backends differ.",
        "  backend 10.65.0.3:8080 (ns-b/server): denied",
        "  backend 192.0.2.1:8080 (192.0.2.1): allowed",
    ] == done.stdout.splitlines()[:4]
    assert 1 == done.returncode
    asked = [words[2:5] for _, words in both.ran]
    assert ["--from=ns-c/plain", "--to=10.96.0.9", "--protocol=tcp"] == asked[0]
    assert ["--from=10.65.0.4", "--to=ns-b/server", "--protocol=tcp"] == asked[1]
    assert "--port=8080" in both.ran[1][1]
