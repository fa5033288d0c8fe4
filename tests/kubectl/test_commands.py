"""`kubectl calico-bpf COMMAND POD` prints what the exporter's command prints on the pod's node, and ends as it ends."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests import installed
from tests.kubectl.cluster import exporter, pod
from tests.kubectl.conftest import RECORDINGS, ROOT, TOOLS
from tests.web.fake_api_server import Answer, refusal

LOGIN = """#!/bin/sh
echo 'open https://login.example' >&2
printf 'your code? ' >&2
read code
echo '{"apiVersion": "'$2'", "kind": "ExecCredential", "status": {"token": "'$1'"}}'
"""
HERE = RECORDINGS / "02-ingress-deny.after.tar.xz"


def on_the_node(*words):
    command = [installed.program(), *words, "--bundle", str(HERE)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (["counters", "ns-b/server"], ["counters", "--pod", "ns-b/server"]),
        (["counters", "server", "-n", "ns-b"], ["counters", "--pod", "ns-b/server"]),
        (["counters", "--namespace=ns-b", "pod/server"], ["counters", "--pod", "ns-b/server"]),
        (["counters", "ns-b/server", "--nonzero", "-ojson"], ["counters", "--pod=ns-b/server", "--nonzero", "-ojson"]),
        (["counters", "-n", "ns-a", "ns-b/server"], ["counters", "--pod", "ns-b/server"]),
        (["counters", "--node", "n1", "--top", "2"], ["counters", "--top", "2"]),
        (["counters", "--node", "n1", "--", "--interface", "lo"], ["counters", "--interface", "lo"]),
        (["policy", "ns-b/server", "--family=4"], ["policy", "--pod", "ns-b/server", "--family", "4"]),
        (["policy", "ns-b/server", "--", "--family", "6"], ["policy", "--pod=ns-b/server", "--family=6"]),
        (["why", "ns-b/server"], ["why", "--pod", "ns-b/server"]),
        (["why", "ns-c/plain", "-o", "json"], ["why", "--pod", "ns-c/plain", "-o", "json"]),
        (["check", "ns-b/server"], ["check"]),
        (["check", "--node", "n1", "-o", "json"], ["check", "-o", "json"]),
    ],
)  # fmt: skip
def test_a_command_prints_and_ends_as_on_the_node(recorded, kubectl, words, there):
    recorded()
    expected, actual = on_the_node(*there), kubectl(*words)
    assert "" != expected.stdout
    assert (expected.stdout, expected.returncode) == (actual.stdout, actual.returncode)


def test_the_pod_s_node_and_exporter_are_printed_beside_the_output(recorded, kubectl):
    recorded()
    printed = kubectl("counters", "ns-b/server").stderr
    assert "pod ns-b/server is on node n1, asking calico-system/exporter-n1 there\n" == printed


def test_an_error_of_the_command_there_is_told_here(recorded, kubectl):
    recorded().pods.append(pod("unknown", "n1"))
    done = kubectl("counters", "unknown")
    assert (1, "") == (done.returncode, done.stdout)
    assert "Error: no pod default/unknown on this node: is it on another node?\n" == done.stderr.split("\n", 1)[1]


def test_wrong_usage_there_is_wrong_usage_here(recorded, kubectl):
    recorded()
    done = kubectl("counters", "ns-b/server", "--diff=never")
    assert 2 == done.returncode
    assert "'never' is no time between" in done.stderr


def test_the_pod_is_asked_on_its_own_node(recorded, kubectl, cluster):
    recorded(node="n1")
    recorded("02-ingress-deny.before", node="n2")
    cluster.pods = [
        one for one in cluster.pods if (one["metadata"]["name"], one["spec"]["nodeName"]) != ("server", "n1")
    ]
    assert 0 == kubectl("counters", "ns-b/server").returncode
    assert ["calico-system/exporter-n2"] == [where for where, _ in cluster.ran]


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (None, "there is no pod one in the namespace of your kubectl context; name another namespace with -n"),
        (
            pod("one", None, phase="Pending", conditions=[
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: 3 Insufficient cpu."}
            ]),
            "pod default/one is on no node yet: 0/3 nodes are available: 3 Insufficient cpu.",
        ),
        (pod("one", None, conditions=None), "pod default/one is on no node yet: it waits for the scheduler"),
        (pod("one", phase="Pending"), "pod default/one is on node n1 and has no interface yet: Pending"),
        (
            pod("one", network=True),
            "pod default/one is in the network of its node (hostNetwork) and has no interface of its own; "  # noqa: ISC004
            "see the node's interfaces with --node n1",
        ),
        (pod("one", phase="Succeeded"), "pod default/one has ended (Succeeded): its interface is gone"),
        (pod("one", phase="Failed"), "pod default/one has ended (Failed): its interface is gone"),
        (
            pod("one", "n2"),
            "no calico-bpf-exporter is on node n2 (searched for pods labelled "  # noqa: ISC004
            "app.kubernetes.io/name=calico-bpf-exporter in any namespace): install it there, or see whether its "
            "DaemonSet tolerates the node's taints",
        ),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_one_sentence(recorded, kubectl, one, sentence):
    recorded().pods += [one] if one else []
    done = kubectl("counters", "one")
    assert (1, "", f"Error: {sentence}\n") == (done.returncode, done.stdout, done.stderr)


def test_a_pod_in_its_node_s_network_has_a_node_to_check(recorded, kubectl):
    recorded().pods.append(pod("one", network=True))
    assert on_the_node("check").stdout == kubectl("check", "one").stdout


def waiting(reason):
    return {"containerStatuses": [{"state": {"waiting": {"reason": reason}}}], "conditions": []}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (waiting("CrashLoopBackOff"), "CrashLoopBackOff"),
        ({"phase": "Pending", **waiting("ImagePullBackOff")}, "ImagePullBackOff"),
        ({"phase": "Pending"}, "Pending"),
        ({"phase": ""}, "its status is empty"),
    ],
)
def test_an_exporter_that_does_not_run_is_named(cluster, kubectl, more, why):
    cluster.pods += [exporter("n1", **more), pod("one")]
    done = kubectl("counters", "one")
    sentence = f"Error: the exporter on node n1, pod calico-system/exporter-n1, does not run: {why}\n"
    assert (1, sentence) == (done.returncode, done.stderr)


def test_of_two_exporters_on_a_node_the_one_that_stays_and_is_ready_is_asked(recorded, kubectl):
    cluster = recorded()
    leaving, starting = exporter("n1", "leaving"), exporter("n1", "starting", conditions=[])
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster.pods[:0] = [leaving, exporter("n1", "broken", **waiting("CrashLoopBackOff")), starting]
    cluster.pods.append(exporter("n1", "late", **waiting("CrashLoopBackOff")))
    kubectl("check", "ns-b/server")
    assert ["calico-system/exporter-n1"] == [where for where, _ in cluster.ran]


def test_exporters_are_found_where_the_user_says(recorded, kubectl):
    cluster = recorded()
    cluster.pods[0]["metadata"]["labels"] = {"app": "mine"}
    forbidden = refusal(
        403, 'pods is forbidden: User "me" cannot list resource "pods" at the cluster scope', "Forbidden"
    )
    cluster.refused["list", None] = forbidden
    flags = ["--exporter-namespace", "calico-system", "--exporter-selector", "app=mine"]
    assert 0 == kubectl("check", "ns-b/server", *flags).returncode
    variables = {
        "KUBECTL_CALICO_BPF_EXPORTER_NAMESPACE": "calico-system",
        "KUBECTL_CALICO_BPF_EXPORTER_SELECTOR": "app=mine",
    }
    assert 0 == kubectl("check", "ns-b/server", env=variables).returncode
    elsewhere = kubectl("check", "ns-b/server", *flags[:1], "kube-system")
    assert (
        "(searched for pods labelled app.kubernetes.io/name=calico-bpf-exporter in namespace kube-system)"
        in elsewhere.stderr
    )


EXEC = 'pods "exporter-n1" is forbidden: User "me" cannot create resource "pods/exec" in API group ""'
IN_ALL = "you may not list pods in all namespaces; name the exporter's with --exporter-namespace"
ODD = {"kind": "PodList", "apiVersion": "v1", "items": [3, None, {"metadata": 7}]}
ONE = "get", "default", "one"


@pytest.mark.parametrize(
    ("what", "answer", "sentence"),
    [
        (
            ("calico-system", "exporter-n1"),
            refusal(403, EXEC, "Forbidden"),
            f"you may not run commands in the exporter's pod calico-system/exporter-n1: {EXEC}",
        ),
        (("list", None), refusal(403, "pods is forbidden: no", "Forbidden"), f"{IN_ALL}: pods is forbidden: no"),
        (ONE, refusal(403, 'pods "one" is forbidden: no', "Forbidden"), 'pods "one" is forbidden: no'),
        (ONE, refusal(500, "etcd is away", "InternalError"), "etcd is away"),
        (ONE, Answer(200, b"<html>hello</html>", {"Content-Type": "text/html"}), None),
        (("list", None), Answer(200, ODD), None),
    ],
)
def test_what_the_cluster_refuses_is_one_sentence(recorded, kubectl, what, answer, sentence):
    cluster = recorded()
    cluster.pods.append(pod("one"))
    cluster.refused[what] = answer
    done = kubectl("counters", "one")
    *_, last = done.stderr.splitlines()
    assert (1, "") == (done.returncode, done.stdout)
    assert last.startswith("Error: ")
    assert sentence in (None, last.removeprefix("Error: "))
    assert "Traceback" not in done.stderr


def test_an_api_server_that_is_away_is_one_sentence(recorded, kubectl, api):
    recorded()
    api.stop()
    done = kubectl("counters", "ns-b/server")
    assert 1 == done.returncode
    assert 1 == len(done.stderr.splitlines())
    assert "was refused" in done.stderr


def test_without_kubectl_the_plugin_says_so(environment):
    command = [installed.program("kubectl-calico_bpf"), "counters", "one"]
    nowhere = {**environment, "PATH": "/nowhere"}
    done = subprocess.run(command, env=nowhere, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (1, "Error: there is no kubectl in PATH\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ["counters"],
        ["counters", "one", "two"],
        ["counters", "one", "--node", "n1"],
        ["counters", "one", "--nosuch"],
        ["counters", "--", "--nonzero"],
        ["counters", "-o", "yaml", "one"],
        ["why", "one", "--to", "two", "--node", "n1"],
        ["why", "--to", "two"],
        ["why", "one", "--to", "two", "--packets"],
        ["bundle"],
        ["bundle", "one"],
        ["bundle", "one", "two", "three"],
        ["nosuch"],
    ],
)
def test_wrong_usage_is_known_before_the_cluster_is_asked(kubectl, api, words):
    done = kubectl(*words)
    assert (2, "") == (done.returncode, done.stdout)
    assert [] == api.seen


@pytest.mark.parametrize("flag", ["--watch", "--diff"])
def test_a_flag_that_takes_the_pod_for_its_time_says_how_it_is_written(kubectl, recorded, cluster, flag):
    recorded()
    done = kubectl("counters", flag, "server", "-n", "ns-b")
    assert 2 == done.returncode
    assert f"write {flag}=10s, or the pod before {flag}" in done.stderr
    assert [] == cluster.ran


@pytest.mark.parametrize("more", [[], ["--for", "1s"], ["-o", "json"], ["--", "--family", "4"]])
def test_why_of_a_whole_node_says_how_to_name_an_endpoint(kubectl, recorded, more):
    recorded()
    done = kubectl("why", "--node", "n1", *more)
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.endswith(
        "Error: why is about one endpoint: name POD, or with --node an interface after --: "
        "kubectl calico-bpf why --node NODE -- --interface NAME\n"
    )


def test_a_capture_is_asked_for_at_the_node(recorded, kubectl):
    recorded()
    done = kubectl("why", "ns-b/server", "--packets")
    assert "No packets were captured: this bundle was made without them" in done.stdout.splitlines()[-1]
    assert 3 == done.returncode


def test_why_of_a_node_s_interface_is_asked_there(recorded, kubectl):
    recorded()
    expected = on_the_node("why", "--interface", "eth0")
    assert expected.stdout == kubectl("why", "--node", "n1", "--", "--interface", "eth0").stdout


def test_a_namespace_says_nothing_of_a_whole_node(kubectl, recorded):
    recorded()
    assert (2, True) == (
        (done := kubectl("counters", "--node", "n1", "-n", "ns-b")).returncode,
        "--node is about every namespace" in done.stderr,
    )


def test_what_a_login_says_is_seen_while_it_waits(recorded, environment, tmp_path):
    recorded()
    login = tmp_path / "login"
    login.write_text(LOGIN)
    login.chmod(0o755)
    file = Path(environment["KUBECONFIG"])
    config = json.loads(file.read_text())
    token = config["users"][0]["user"]["token"]
    version = "client.authentication.k8s.io/v1"
    program = {"apiVersion": version, "command": str(login), "args": [token, version], "interactiveMode": "Always"}
    config["users"][0]["user"] = {"exec": program}
    file.write_text(json.dumps(config))
    words = ["kubectl", "calico-bpf", "check", "ns-b/server"]
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe(words[0], words, environment)
    printed, answered = b"", 0
    with suppress(OSError):  # how a terminal ends on Linux
        while piece := os.read(terminal, 4096):
            printed += piece
            while answered < printed.count(b"your code? "):  # kubectl keeps no answer from one call to the next
                answered += os.write(terminal, b"1\n") // 2
    os.waitpid(pid, 0)
    assert b"open https://login.example\r\nyour code? " in printed
    assert b"pod ns-b/server is on node" in printed


@pytest.mark.parametrize("name", ["", "a/b/c", "/one", "one/", "\x1b[2J"])
def test_what_is_no_pod_s_name_is_not_asked_for(kubectl, recorded, name):
    recorded()
    done = kubectl("counters", name)
    assert 1 == done.returncode
    assert "\x1b" not in done.stderr


def test_flags_for_kubectl_reach_each_call_of_it(recorded, kubectl, api, environment):
    recorded()
    config = environment["KUBECONFIG"]
    flags = [
        "--kubeconfig",
        config,
        "--context",
        "test",
        "--token",
        "another",
        "--as",
        "bob",
        "--as-group",
        "a",
        "--as-group=b",
    ]
    api.own = "another"
    assert 0 == kubectl("check", "ns-b/server", *flags, env={"KUBECONFIG": ""}).returncode
    pods = [one for one in api.seen if "pods" in one.path]
    assert {"bob"} == {one.headers.get("impersonate-user") for one in pods}
    assert {"Bearer another"} == {one.headers.get("authorization") for one in pods}
    unknown = kubectl("check", "ns-b/server", "--context", "nosuch")
    assert (1, 'Error: context "nosuch" does not exist\n') == (unknown.returncode, unknown.stderr)


TERMINAL = """
import os, signal, sys
# Not print: the signal may come before the print below has returned, which must not be entered twice.
signal.signal(signal.SIGINT, lambda *_: (os.write(1, b"interrupted\\n"), os._exit(3)))
print("columns", os.get_terminal_size().columns, sys.stdout.isatty(), sys.argv[1:], flush=True)
signal.pause()
"""


def test_in_a_terminal_the_command_has_that_terminal_and_ctrl_c_ends_it_there(cluster, environment):
    there = exporter("n1")
    cluster.pods += [there, pod("one")]
    cluster.runs(there, [sys.executable, "-c", TERMINAL])
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment)
        os.execv(TOOLS / "kubectl", ["kubectl", "calico-bpf", "counters", "one", "--watch"])
    printed = b""
    deadline = time.monotonic() + 20
    interrupted = False
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            printed += os.read(terminal, 4096)
        except OSError:
            break
        if b"--watch']" in printed and not interrupted:
            os.write(terminal, b"\x03")
            interrupted = True
    _, status = os.waitpid(child, 0)
    assert b"True ['counters', '--pod', 'default/one', '--watch']" in printed
    assert b"interrupted" in printed
    assert b"terminated with exit code" not in printed
    assert 3 == os.waitstatus_to_exitcode(status)
