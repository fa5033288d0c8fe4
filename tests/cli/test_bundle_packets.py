"""`bundle --packets`: what all pods sent is recorded, and `why` of the bundle says what it says on the node."""

import json
import tarfile

import pytest

from exporter.cli import capture
from exporter.node import NodeError
from exporter.node.packet_flows import Capture, SeenFlow
from exporter.snapshot import bundle_writer
from tests.cli.changing_node import ChangingNode
from tests.cli.edits import added, edits
from tests.cli.test_why_packets import DENIED, HERE, PLAIN_ADDRESS, SERVER, SERVER_ADDRESS, words
from tests.redacting import Redacted

PLAIN = "cali14a81566bd7"
# One to somebody else, which no sentence about the server may name.
OTHER = SeenFlow(4, 17, PLAIN_ADDRESS, 1, "192.0.2.9", 53, None, PLAIN, 2)
UNREADABLE = {PLAIN: {"short": 3}, "eth0": {"fragment": 1}}


class FakeSocket:
    """A capture of all pods that sees these flows while the node moves on to its next snapshot."""

    def __init__(self, node, flows):
        self.node, self.flows, self.watched, self.closed = node, flows, None, False

    def __call__(self, watched):
        self.watched = watched
        return self

    def run(self, seconds):
        self.seconds = seconds
        self.node.at += 1

    def close(self):
        self.closed = True

    def capture(self):
        return Capture(self.flows, UNREADABLE, 15, 4, seconds=self.seconds)


@pytest.fixture
def fake(monkeypatch, changed):
    """The capture of a node that drops ten packets of the server's meanwhile."""
    frames = [changed(f"{HERE}.before", edits(*one)) for one in ([], [added(SERVER, 1, 4, 10)])]
    node = ChangingNode(*frames)
    monkeypatch.setattr("exporter.cli.bundle.open_source", node.open_source)
    fake = FakeSocket(node, (DENIED, OTHER))
    monkeypatch.setattr(capture, "PacketSocket", fake)
    return fake


@pytest.fixture
def written(run, tmp_path):
    """Makes a bundle with these words, and returns its file and what was said."""

    def make(*words):
        file = tmp_path / "node.tar.xz"
        made = run("bundle", file, *words)
        assert 0 == made.exit_code
        return file, " ".join(made.stderr.split())

    return make


def members(file):
    with tarfile.open(file) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}


def test_all_pods_are_watched_and_it_says_what_it_holds(fake, written):
    file, said = written("--packets", "10s")
    assert {"cali34769d6a557", PLAIN} <= fake.watched.interfaces
    assert (10.0, True) == (fake.seconds, fake.closed)
    assert "capturing for 10 s; Ctrl-C ends it sooner" in said
    assert "in the bundle: 2 flows of 15 packets that were seen: addresses, ports and counts, no content" in said
    found = json.loads(members(file)["packets.json"])
    assert {"capture", "counted"} == found.keys()
    allowed = {"protocol", "source", "source_port", "destination", "destination_port", "icmp", "interface", "packets"}
    assert all(one.keys() == allowed | {"passed_to", "answered_by", "same_passed"} for one in found["capture"]["flows"])


def test_to_standard_output_nothing_is_said_of_a_key_that_ends_it(fake, run):
    made = run("bundle", "-", "--packets", "10s")
    assert (0, False) == (made.exit_code, "Ctrl-C" in made.stderr)


def test_why_of_the_bundle_names_the_peer_and_the_rule_and_counts_its_time(fake, written, run):
    file, _ = written("--packets", "10s")
    result = run("why", "--pod", "server", "--bundle", file)
    by = "denied by GlobalNetworkPolicy security.gate, tier security, rule 0"
    assert "Denied packets that were seen on this node in 10 s while the bundle was made:" in words(result)
    line = f"10 packets from ns-c/plain ({PLAIN_ADDRESS}), udp/9999 at {SERVER_ADDRESS}: ns-b/server, {by}"
    assert line in words(result)
    assert "Reason policy, inbound: 10 packets counted, 10 seen: they agree." in words(result)
    assert "The packet socket lost 4 packets" in words(result)
    assert ("192.0.2.9" in result.stdout, result.exit_code) == (False, 3)


def test_the_other_pods_of_the_bundle_have_their_own(fake, written, run):
    file, _ = written("--packets", "10s")
    found = json.loads(run("why", "--pod", "plain", "--bundle", file, "-o", "json").stdout)["packets"]
    assert {(SERVER_ADDRESS, "denied"), ("192.0.2.9", "unanswered")} == {
        (one["peer"], one["verdict"]) for one in found["groups"]
    }
    assert [] == found["agreement"]  # the server counts them
    assert {"why": "cut off", "packets": 3} in found["not_placed"]
    assert not any("fragment" in one["why"] for one in found["not_placed"])


def test_it_is_what_the_node_itself_says(fake, written, run, monkeypatch, changed):
    file, _ = written("--packets", "5")
    frames = [changed(f"{HERE}.before", edits(*one)) for one in ([], [added(SERVER, 1, 4, 10)])]
    node = ChangingNode(*frames)
    monkeypatch.setattr("exporter.cli.snapshots.open_source", node.open_source)
    live = FakeSocket(node, (DENIED,))
    monkeypatch.setattr(capture, "PacketSocket", live)
    node.wait = lambda seconds: None
    monkeypatch.setattr("exporter.cli.snapshots.time.sleep", node.wait)
    words = ["why", "--pod", "server", "-o", "json"]
    there = json.loads(run(*words, "--packets", "--for", "5").stdout)["packets"]
    monkeypatch.undo()
    assert there == json.loads(run(*words, "--bundle", file).stdout)["packets"]


@pytest.mark.parametrize("wanted", [[], ["--packets"]])
def test_why_may_be_asked_for_the_packets_or_not(fake, written, run, wanted):
    file, _ = written("--packets", "10s")
    result = run("why", "--pod", "server", *wanted, "--bundle", file)
    assert "10 packets from ns-c/plain" in words(result)


def test_of_two_bundles_it_is_the_capture_of_the_last(fake, written, run, tmp_path):
    before, _ = written()
    before = before.rename(tmp_path / "before.tar.xz")
    file, _ = written("--packets", "10s")
    result = run("why", "--pod", "server", "--bundle", before, "--bundle", file)
    assert "10 packets from ns-c/plain" in words(result)
    assert "Reason policy, inbound: 10 packets counted, 10 seen: they agree." in words(result)


def test_a_bundle_without_packets_says_so_only_where_they_are_asked_for(run, recording):
    command = "why", "--pod", "server", "--bundle", recording(f"{HERE}.after")
    without, asked = run(*command), run(*command, "--packets")
    assert "captured" not in without.stdout
    sentence = "No packets were captured: this bundle was made without them; bundle --packets 10s records them too."
    assert (sentence, without.exit_code) == (asked.stdout.splitlines()[-1], asked.exit_code)
    assert without.stdout.splitlines() == asked.stdout.splitlines()[:-2]
    assert "packets" not in json.loads(run(*command, "-o", "json").stdout)


def test_the_packets_of_a_host_interface_are_not_shown(fake, written, run):
    file, _ = written("--packets", "10s")
    command = "why", "--interface", "eth0", "--bundle", file
    assert "packets" not in json.loads(run(*command, "-o", "json").stdout)
    asked = run(*command, "--packets")
    assert (2, True) == (asked.exit_code, "--packets watches a pod" in asked.stderr)


def test_without_the_right_the_rest_is_written_and_says_why(fake, written, run, monkeypatch):
    def refuse(_):
        raise NodeError("packets cannot be seen without CAP_NET_RAW")

    monkeypatch.setattr(capture, "PacketSocket", refuse)
    file, said = written("--packets", "10s")
    assert "not in the bundle: packets: packets cannot be seen without CAP_NET_RAW" in said
    assert "packets.json" not in members(file)
    result = run("why", "--pod", "server", "--bundle", file)
    assert "No packets were captured: packets cannot be seen without CAP_NET_RAW." == result.stdout.splitlines()[-1]


def test_more_than_a_bundle_may_hold_is_left_out_with_a_sentence(fake, written, run, monkeypatch):
    monkeypatch.setattr(bundle_writer, "max_bytes", lambda name: 10 if name == "packets.json" else 1 << 30)
    file, said = written("--packets", "10s")
    assert "not in the bundle: packets: it has 0 MiB, more than a bundle may hold" in said
    assert "more than a bundle may hold" in run("why", "--pod", "server", "--bundle", file).stdout


def test_without_the_option_nothing_is_captured(fake, written):
    file, said = written()
    assert (None, False) == (fake.watched, "packets.json" in members(file))
    assert "captur" not in said


def test_why_says_the_same_of_a_redacted_bundle(fake, written, run, tmp_path):
    file, _ = written("--packets", "10s")
    redacted = Redacted(members(file), tmp_path)
    redacted.names.replaced |= {"plain": redacted.names.name("plain")}
    for pod in ("ns-b/server", "ns-c/plain"):
        for output in ("text", "json"):
            assert "denied" in redacted.same(run, "why", "--pod", pod, "-o", output)
    shown = redacted.members["packets.json"]
    for name in (PLAIN_ADDRESS, SERVER_ADDRESS, "192.0.2.9", PLAIN, "cali34769d6a557"):
        assert name.encode() not in shown
    assert b'"eth0"' in shown


def test_a_redacted_bundle_is_written_with_its_packets(fake, written, run):
    file, _ = written("--packets", "10s", "--redact")
    pods = json.loads(run("counters", "-o", "json", "--bundle", file).stdout)["endpoints"]
    shown = [run("why", "--pod", f"{one['namespace']}/{one['pod']}", "--bundle", file) for one in pods if one["pod"]]
    denied = [line for one in shown for line in one.stdout.splitlines() if "10 packets from" in line]
    assert 1 == len(denied)
    assert not {PLAIN_ADDRESS, SERVER_ADDRESS} & set(denied[0].replace("(", " ").replace(")", " ").split())
