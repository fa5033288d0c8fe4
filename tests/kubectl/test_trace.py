"""`trace FROM TO` asks the node of each end for its half, and joins what they say."""

import json
import os
import pty
import sys
from contextlib import suppress

import pytest

from tests import installed
from tests.kubectl.cluster import exporter, pod
from tests.kubectl.conftest import RECORDINGS, TOOLS
from tests.web.fake_api_server import refusal

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


@pytest.mark.parametrize("words", [["ns-c/agent", "ns-b/server"], ["ns-b/server", "ns-c/agent"]])
def test_a_pod_in_the_network_of_its_node_is_asked_about_by_the_node_s_address(both, kubectl, words):
    both.pods.append(pod("agent", "n1", "ns-c", network=True, podIP="192.0.2.1"))
    says(both, "n1", "allow")
    says(both, "n2", "unknown", why_unknown="192.0.2.1 may use a tunnel to pods here")
    done = kubectl("trace", *words, "--port", "80")
    assert (1, True) == (done.returncode, "Why: node n2: 192.0.2.1 may use a tunnel" in done.stdout)
    option = "--from" if words[0] == "ns-c/agent" else "--to"
    assert [True, True] == [f"{option}=192.0.2.1" in words for _, words in both.ran]


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


def service(*ports):
    """The service ns-b/web; each port is a number and a protocol, None for the default."""
    rows = [{"port": number, **({"protocol": protocol} if protocol else {})} for number, protocol in ports]
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "ns-b"},
        "spec": {"clusterIPs": ["10.96.0.9"], "ports": rows},
    }  # fmt: skip


DNS = [(53, "UDP"), (53, "TCP"), (9153, None)]


@pytest.mark.parametrize(
    ("ports", "words", "expected"),
    [
        ([(5300, "UDP")], [], ["--protocol=udp", "--port=5300"]),
        (DNS, ["--port", "9153"], ["--protocol=tcp", "--port=9153"]),
        (DNS, ["--port", "53", "--protocol", "17"], ["--protocol=udp", "--port=53"]),
        (DNS, ["--port", "53/tcp"], ["--protocol=tcp", "--port=53"]),
        (DNS, ["--protocol", "UDP"], ["--protocol=udp", "--port=53"]),
        (DNS, ["--protocol", "icmp"], ["--protocol=icmp"]),
    ],
)
def test_a_service_s_port_tells_the_protocol(both, kubectl, ports, words, expected):
    both.services.append(service(*ports))
    says(both, "n1", "allow")
    assert 0 == kubectl("trace", "ns-c/plain", "svc/ns-b/web", *words).returncode
    assert expected == both.ran[0][1][4:-1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "53"], "svc/ns-b/web has several such ports: name one with --port: 53/udp, 53/tcp"),
        ([], "svc/ns-b/web has several such ports: name one with --port: 53/udp, 53/tcp, 9153/tcp"),
        (["--port", "80"], "svc/ns-b/web has no such port: name one with --port: 53/udp, 53/tcp, 9153/tcp"),
        (["--port", "53/sctp"], "svc/ns-b/web has no such port"),
        (["--port", "53/udp", "--protocol", "tcp"], "--port is of udp, --protocol is tcp"),
        (["--protocol", "icmp", "--port", "53"], "only tcp, udp and sctp have --port"),
    ],
)
def test_a_port_that_does_not_fit_is_a_sentence_with_those_that_do(both, kubectl, words, sentence):
    both.services.append(service(*DNS))
    done = kubectl("trace", "ns-c/plain", "svc/ns-b/web", *words)
    assert (2, []) == (done.returncode, both.ran)
    assert sentence in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        ["--port", "000000999999"],
        ["--port", "9" * 5000],
        ["--port", "65536/tcp"],
        ["--port", "٣"],
        ["--port", "80/icmp"],
        ["--protocol", "256"],
        ["--protocol", "9" * 5000],
        ["--protocol", "x" * 5000],
        ["--protocol", "-1"],
    ],
)
def test_a_wrong_port_or_protocol_is_one_sentence(both, kubectl, words):
    done = kubectl("trace", "ns-c/plain", "ns-b/server", *words)
    assert (2, []) == (done.returncode, both.ran)
    _, sentence = done.stderr.split("Error: ")
    assert len(sentence) < 200


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("ended", [0, 1])
def test_a_pod_that_has_ended_is_a_sentence(both, kubectl, phase, ended):
    both.pods.append(pod("job", "n1", "ns-c", phase=phase, podIP="10.65.0.4"))
    ends = ["ns-c/job", "ns-b/server"]
    done = kubectl("trace", *(ends[::-1] if ended else ends), "--port", "80")
    assert (1, []) == (done.returncode, both.ran)
    assert f"Error: pod ns-c/job has ended ({phase}): its interface is gone" == done.stderr.splitlines()[-1]


def test_the_host_s_interface_is_named_to_each_node(both, kubectl):
    says(both, "n1", "allow")
    says(both, "n2", "allow")
    assert 0 == kubectl("trace", "ns-c/plain", "ns-b/server", "--port=80", "--via", "eth1").returncode
    assert [True, True] == ["--via=eth1" in words for _, words in both.ran]


def location(address, where, node=""):
    return {"address": address, "where": where, "node": node}


@pytest.mark.parametrize(
    ("where", "expected", "code"), [("other_node", "unknown", 1), ("outside", "allow", 0), ("unknown", "allow", 0)]
)
@pytest.mark.parametrize("words", [["ns-c/plain", "10.65.9.9"], ["10.65.9.9", "ns-c/plain"]])
def test_an_end_on_a_node_that_is_not_known_is_not_known(both, kubectl, words, where, expected, code):
    node = "192.0.2.7" if where == "other_node" else ""
    says(both, "n1", "allow", locations=[location("10.65.0.4", "here"), location("10.65.9.9", where, node)])
    done = kubectl("trace", *words, "--port", "80")
    assert code == done.returncode
    why = "Why: node 192.0.2.7: no pod has the address 10.65.9.9 now, so it is not known which exporter to ask."
    assert (expected == "unknown") == (why in done.stdout.splitlines())
    says(both, "n1", "deny", locations=[location("10.65.9.9", where, node)])
    assert 3 == kubectl("trace", *words, "--port", "80").returncode


@pytest.mark.parametrize(("where", "code"), [("other_node", 1), ("unknown", 1), ("outside", 0)])
def test_who_may_not_list_pods_gets_the_half_that_can_be_asked(both, kubectl, where, code):
    both.refused["list", None] = refusal(403, 'pods is forbidden: User "me" cannot list resource "pods"', "Forbidden")
    says(both, "n1", "allow", locations=[location("10.65.9.9", where)])
    done = kubectl("trace", "ns-c/plain", "10.65.9.9", "--port", "80", "--exporter-namespace", "calico-system")
    assert code == done.returncode
    assert (code == 1) == ("you may not list pods in all namespaces" in done.stdout)


def test_a_backend_on_a_node_that_is_not_known_is_not_known(both, kubectl):
    both.services.append(service((80, "TCP")))
    backends = [{"address": one, "port": 8080, "verdict": "allow"} for one in ("10.65.0.3", "10.65.9.9")]
    locations = [location("10.65.0.4", "here"), location("10.65.9.9", "other_node", "192.0.2.7")]
    says(both, "n1", "allow", service={"address": "10.96.0.9", "port": 80, "backends": backends}, locations=locations)
    says(both, "n2", "allow")
    done = kubectl("trace", "ns-c/plain", "svc/ns-b/web")
    assert "  backend 10.65.0.3:8080 (ns-b/server): allowed" in done.stdout.splitlines()
    assert "  backend 10.65.9.9:8080 (10.65.9.9): not known" in done.stdout.splitlines()
    assert (1, True) == (done.returncode, "Why: node 192.0.2.7: no pod has" in done.stdout)


@pytest.mark.parametrize("locations", [7, [7], [{}], [{"address": [], "where": "here", "node": ""}]])
def test_locations_that_cannot_be_read_are_not_known(both, kubectl, locations):
    says(both, "n1", "allow", locations=locations)
    says(both, "n2", "allow")
    done = kubectl("trace", "ns-c/plain", "ns-b/server", "--port", "80")
    assert (1, True) == (done.returncode, "its response cannot be read" in done.stdout)


def test_if_all_exporters_are_older_it_is_one_sentence(both, kubectl):
    for node in ("n1", "n2"):
        says(both, node, "", OLDER.format("trace"), 2)
    done = kubectl("trace", "ns-c/plain", "ns-b/server", "--port", "80/tcp")
    assert (1, "") == (done.returncode, done.stdout)
    sentence = "this exporter has no trace: upgrade the DaemonSet"
    assert f"Error: node n1: {sentence}; node n2: {sentence}" in " ".join(done.stderr.split())


def test_on_a_terminal_no_usage_comes_before_the_sentence(both, environment):
    says(both, "n2", "", OLDER.format("conntrack"), 2)
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment)
        os.execv(TOOLS / "kubectl", ["kubectl", "calico-bpf", "conntrack", "ns-b/server"])
    printed = b""
    with suppress(OSError):  # how a terminal ends on Linux
        while piece := os.read(terminal, 4096):
            printed += piece
    _, status = os.waitpid(child, 0)
    assert b"Error: this exporter has no conntrack: upgrade the DaemonSet" in printed
    assert (1, False) == (os.waitstatus_to_exitcode(status), b"Usage:" in printed)


def test_the_node_of_each_backend_of_a_service_is_asked_too(both, kubectl):
    both.services.append(service((80, None)))
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
