"""`why --packets`: a capture between two snapshots, in sentences and in JSON. The capture itself is made up here."""

import json
from dataclasses import replace

import pytest

from exporter.cli import capture, snapshots
from exporter.node import NodeError
from exporter.node.packet_flows import Capture, SeenFlow
from tests.cli.changing_node import ChangingNode
from tests.cli.edits import added, edits

HERE = "v3.32.1/02-ingress-deny"
SERVER, PLAIN_ADDRESS, SERVER_ADDRESS = 7, "10.65.0.4", "10.65.0.3"
DENIED = SeenFlow(4, 17, PLAIN_ADDRESS, 40000, SERVER_ADDRESS, 9999, None, "cali14a81566bd7", 10)


class FakeSocket:
    """A capture that sees these flows while the node moves on to its next snapshot."""

    def __init__(self, node, *flows):
        self.node, self.flows, self.watched, self.ran, self.closed = node, flows, None, None, False

    def __call__(self, watched):
        self.watched = watched
        return self

    def run(self, seconds):
        self.ran = seconds
        self.node.at += 1

    def close(self):
        self.closed = True

    def capture(self):
        return Capture(self.flows, packets=12, seconds=self.ran)


@pytest.fixture
def capturing(monkeypatch, changed):
    """A node that drops ten packets of the server's while these flows are captured."""

    def of(*flows, drops=10):
        later = [added(SERVER, 1, 4, drops)] if drops else []
        frames = [changed(f"{HERE}.before", edits(*one)) for one in ([], later)]
        node = ChangingNode(*frames)
        monkeypatch.setattr(snapshots, "open_source", node.open_source)
        monkeypatch.setattr(snapshots.time, "sleep", node.wait)
        fake = FakeSocket(node, *flows)
        monkeypatch.setattr(capture, "PacketSocket", fake)
        return fake

    return of


def words(result):
    return " ".join(result.stdout.split())


def test_who_was_denied_stands_beside_the_counters(run, capturing):
    fake = capturing(DENIED)
    result = run("why", "--pod", "server", "--packets", "--for", "5")
    assert (3, 5, True) == (result.exit_code, fake.ran, fake.closed)
    assert (SERVER, "cali34769d6a557") == (fake.watched.ifindex, fake.watched.interface)
    assert SERVER_ADDRESS in fake.watched.addresses
    by = "denied by GlobalNetworkPolicy security.gate, tier security, rule 0"
    assert f"10 packets from ns-c/plain ({PLAIN_ADDRESS}), udp/9999 at {SERVER_ADDRESS}: ns-b/server, {by}" in words(
        result
    )
    assert "Reason policy, inbound: 10 packets counted, 10 seen: they agree." in words(result)
    assert "10 packets (inbound, tc_egress), reason policy" in words(result)


def test_json_says_the_same(run, capturing):
    capturing(DENIED)
    answer = json.loads(run("why", "--pod", "server", "--packets", "--for", "5", "-o", "json").stdout)
    found = answer["packets"]
    (group,) = found.pop("groups")
    assert {
        "error": "",
        "seconds": 5.0,
        "seen": 12,
        "lost": 0,
        "limit_reached": False,
        "agreement": [{"direction": "inbound", "reason": "policy", "counted": 10, "seen": 10}],
        "not_placed": [],
    } == found
    decided = group.pop("decided_by")
    assert ("security.gate", "security", "0", "deny") == tuple(
        decided[name] for name in ("policy", "tier", "rule", "action")
    )
    assert {
        "direction": "inbound",
        "peer": PLAIN_ADDRESS,
        "peer_name": "ns-c/plain",
        "destination": SERVER_ADDRESS,
        "backend": None,
        "ip_family": 4,
        "protocol": 17,
        "port": 9999,
        "icmp_type": None,
        "icmp_code": None,
        "flows": 1,
        "packets": 10,
        "verdict": "denied",
        "why": "",
        "reason": "policy",
        "decider": {"interface": "cali34769d6a557", "namespace": "ns-b", "pod": "server"},
        "rule_ids": ["5091920221193603583"],
        "program_checked": None,
        "why_unknown": "",
    } == group
    assert any("udp/9999" in line for line in answer["text"])


def test_what_another_endpoint_denied_is_exit_code_3_too(run, capturing):
    capturing(DENIED, drops=0)
    result = run("why", "--pod", "plain", "--packets", "--for", "5", "-o", "json")
    assert (3, True) == (result.exit_code, json.loads(result.stdout)["loses_packets"])
    capturing(replace(DENIED, same_passed=True), drops=0)
    result = run("why", "--pod", "plain", "--packets", "--for", "5", "-o", "json")
    assert (0, False) == (result.exit_code, json.loads(result.stdout)["loses_packets"])


def test_without_the_right_it_is_one_sentence_and_the_rest_is_as_before(run, capturing, monkeypatch):
    def refuse(_):
        raise NodeError("no right")

    capturing()
    before = run("why", "--pod", "server", "--for", "5")
    capturing()
    monkeypatch.setattr(capture, "PacketSocket", refuse)
    result = run("why", "--pod", "server", "--packets", "--for", "5")
    assert (3, 3) == (before.exit_code, result.exit_code)
    assert result.stdout.splitlines()[-1] == "No packets were captured: no right."
    assert result.stdout.splitlines()[1:-2] == before.stdout.splitlines()[1:]  # the first line has the time


def test_without_packets_nothing_is_said_of_them(run, capturing):
    fake = capturing(DENIED)
    answer = json.loads(run("why", "--pod", "server", "--for", "5", "-o", "json").stdout)
    assert ("packets" in answer, fake.watched) == (False, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interface", "eth0"], "--packets watches a pod"),
        ([], "give --pod, --ip or --interface"),
    ],
)
def test_what_cannot_be_captured_is_wrong_usage(run, capturing, words, message):
    fake = capturing(DENIED)
    result = run("why", *words, "--packets")
    assert (2, None) == (result.exit_code, fake.watched)
    assert message in result.stderr
