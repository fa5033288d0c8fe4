"""`why POD --to POD2` watches both at the same time, says who dropped, and no more than two pods' counters can say."""

import json
import sys

import pytest

from exporter.kubectl.answers import Answer
from exporter.kubectl.kubectl import PodName
from exporter.kubectl.targets import Target
from exporter.kubectl.two_pods import legs_of, verdict
from tests.kubectl.cluster import exporter, pod
from tests.kubectl.conftest import RECORDINGS

# Two recordings are two snapshots: the exporter does not wait between them.
COMPARE_BUNDLES = """
import sys
sys.argv = ["why", *(word for word in sys.argv[1:] if not word.startswith("--for="))]
from exporter.cli.main import main
main()
"""
PRINT = "import sys; sys.stdout.write({0!r}); sys.stderr.write({1!r}); sys.exit({2})"


@pytest.fixture
def both(cluster):
    """Two nodes, each with one pod, whose exporters read the same two recordings."""

    def make(name, sender, receiver):
        window = ":".join(str(RECORDINGS / f"{name}.{when}.tar.xz") for when in ("before", "after"))
        for node, (namespace, title) in {"n1": sender.split("/"), "n2": receiver.split("/")}.items():
            there = exporter(node)
            cluster.pods += [there, pod(title, node, namespace)]
            cluster.runs(there, [sys.executable, "-c", COMPARE_BUNDLES], CALICO_BPF_EXPORTER_BUNDLE=window)
        return cluster

    return make


def test_the_receiver_s_denial_is_seen_from_both_sides(both, kubectl):
    cluster = both("02-ingress-deny", "ns-c/plain", "ns-b/server")
    done = kubectl("why", "ns-c/plain", "--to", "ns-b/server", "--for=7s")
    lines = done.stdout.splitlines()
    assert [
        "From ns-c/plain to ns-b/server, in 7s:",
        "  there  ns-c/plain   outbound  1 new connection, nothing dropped",
        "  there  ns-b/server  inbound   0 new connections, 10 packets dropped (policy 10)",
        "  back   ns-b/server  outbound  0 new connections, nothing dropped",
        "  back   ns-c/plain   inbound   0 new connections, nothing dropped",
        "ns-b/server dropped 10 inbound packets (policy 10).",
    ] == lines[:6]
    assert "What ns-c/plain says, on node n1:" in lines
    assert "What ns-b/server says, on node n2:" in lines
    assert "      deny        10  GlobalNetworkPolicy security.gate, tier security, rule 0: udp, to port 9999" in lines
    assert 3 == done.returncode
    assert {
        "calico-system/exporter-n1": ["why", "--pod", "ns-c/plain", "--for=7s", "--output=json"],
        "calico-system/exporter-n2": ["why", "--pod", "ns-b/server", "--for=7s", "--output=json"],
    } == {where: words[1:] for where, words in cluster.ran}


def test_the_sender_s_denial_is_the_sender_s(both, kubectl):
    both("01-egress-deny", "ns-a/client", "ns-b/server")
    done = kubectl("why", "client", "-n", "ns-a", "--to", "ns-b/server", "-o", "json")
    found = json.loads(done.stdout)
    assert (3, ["n1", "n2"]) == (done.returncode, [found[side]["node"] for side in ("sender", "receiver")])
    assert found["verdict"][0].startswith("ns-a/client dropped ")
    assert " outbound packets (policy " in found["verdict"][0]
    assert ["there", "there", "back", "back"] == [leg["way"] for leg in found["legs"]]


def test_pods_that_drop_nothing_exit_with_0(both, kubectl):
    both("07-profile-allow", "ns-b/server", "ns-c/plain")
    done = kubectl("why", "ns-b/server", "--to", "ns-c/plain")
    assert 0 == done.returncode
    assert "Neither dropped a packet for a reason that Calico counts.\n" in done.stdout


def answer(name, *counted):
    keys = ("direction", "category", "reason", "count")
    return Answer(Target("n", PodName("x", "e"), PodName("ns", name)), {
        "counted": [dict(zip(keys, one, strict=True)) for one in counted]
    })  # fmt: skip


OPENED = ("outbound", "accepted", "policy", 2)
SENT = ("outbound", "total", "", 9)
REPEATED = "Each repeated SYN of a connection that is denied counts at its sender as a new connection"
ALL_PEERS = "The counters are of a pod: packets of and to others than these two are in them"
NOTHING = "Neither dropped a packet for a reason that Calico counts"


@pytest.mark.parametrize(
    ("sender", "receiver", "expected"),
    [
        ([], [], ["ns/a sent nothing in this time: let it send, and watch again"]),
        ([], [("inbound", "total", "", 4)], ["ns/a sent nothing in this time: let it send, and watch again"]),
        # Packets of known connections do not count where they enter the receiver: silence there says nothing of them.
        ([SENT], [], [NOTHING]),
        (
            [SENT, OPENED],
            [],
            [
                "Neither dropped a packet, but ns/a opened 2 connections and nothing reached ns/b: it was sent "  # noqa: ISC004
                "elsewhere, or lost between the two nodes"
            ],
        ),
        ([SENT, OPENED], [("inbound", "total", "", 2)], [NOTHING]),
        (
            [SENT, ("outbound", "dropped", "policy", 1)],
            [("outbound", "dropped", "policy", 3), ("outbound", "dropped", "unknown_route", 4)],
            [
                "ns/a dropped 1 outbound packet (policy 1)",
                "ns/b dropped 7 outbound packets (unknown_route 4, policy 3)",
                ALL_PEERS,
            ],
        ),
        ([("inbound", "dropped", "policy", 1)], [], ["ns/a dropped 1 inbound packet (policy 1)", ALL_PEERS]),
        (
            [SENT, OPENED],
            [("inbound", "dropped", "policy", 2)],
            ["ns/b dropped 2 inbound packets (policy 2)", REPEATED, ALL_PEERS],
        ),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_four_stretches_can(sender, receiver, expected):
    assert expected == list(verdict(legs_of(answer("a", *sender), answer("b", *receiver))))


ODD = "its response cannot be read: is that exporter of another version?"


@pytest.mark.parametrize(
    ("output", "errors", "code", "sentence"),
    [
        ("", "Error: no pod ns-b/server on this node: is it on another node?\n", 1,
         "node n2: no pod ns-b/server on this node: is it on another node?"),
        ("", "", 137, "node n2: its response is not JSON (exit code 137)"),
        ("<html>", "", 0, "node n2: its response is not JSON (exit code 0)"),
        ("[]", "", 0, f"node n2: {ODD}"),
        ("{}", "", 0, ODD),
        ('{"counted": [{"direction": "inbound"}], "loses_packets": false, "text": []}', "", 0, ODD),
        ('{"counted": 7, "loses_packets": false, "text": []}', "", 0, ODD),
    ],
)  # fmt: skip
def test_a_side_that_cannot_be_read_is_one_sentence(both, kubectl, output, errors, code, sentence):
    cluster = both("02-ingress-deny", "ns-c/plain", "ns-b/server")
    cluster.runs(exporter("n2"), [sys.executable, "-c", PRINT.format(output, errors, code)])
    done = kubectl("why", "ns-c/plain", "--to", "ns-b/server")
    assert (1, f"Error: {sentence}") == (done.returncode, done.stderr.splitlines()[-1])
    # The other side's output is not lost, unless both were read and one is invalid.
    assert (sentence == ODD and output != "[]") == (done.stdout == "")


def test_a_pod_is_not_watched_twice(both, kubectl):
    both("02-ingress-deny", "ns-c/plain", "ns-b/server")
    done = kubectl("why", "ns-c/plain", "--to", "plain", "-n", "ns-c")
    assert (2, True) == (done.returncode, "--to names another pod than POD" in done.stderr)


def test_names_from_the_cluster_move_no_cursor(both, kubectl):
    cluster = both("02-ingress-deny", "ns-c/plain", "ns-b/server")
    counted = [{"direction": "inbound", "category": "dropped", "reason": "\x1b[2J", "count": 1}]
    odd = json.dumps({"counted": counted, "loses_packets": True, "text": ["\x1b]0;x\x07"]})
    cluster.runs(exporter("n2"), [sys.executable, "-c", PRINT.format(odd, "", 3)])
    done = kubectl("why", "ns-c/plain", "--to", "ns-b/server")
    assert 3 == done.returncode
    assert "\\x1b[2J 1" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
