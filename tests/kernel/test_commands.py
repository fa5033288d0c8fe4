"""The commands for people on a demo node: what they say of packets that are counted, while they wait and after."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.cli.main import COMPLETE, PROGRAM
from exporter.demo.node import Node
from exporter.demo.plan import BLACKHOLE, CART, DATABASE, FRONTEND, PROBE
from tests import installed
from tests.kernel.machine import ROOT

pytestmark = pytest.mark.kernel

_SLEEPS = {"35", "101", "115", "230"}  # nanosleep and clock_nanosleep on x86_64 and aarch64


class Commands:
    """A demo node and the exporter's commands inside it."""

    def __init__(self, folder):
        self.node = Node(f"c{os.getpid()}", folder / "demo")
        self.printed = folder / "printed"

    def _words(self, words):
        where = ["--bpf.fs", self.node.bpf.path, "--calico.run-dir", self.node.run_dir]
        inside = ["ip", "netns", "exec", self.node.namespace, installed.program()]
        return [str(one) for one in (*inside, *words, *where)]

    def run(self, *words):
        """What a command prints, to its end."""
        return subprocess.run(self._words(words), capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)

    def told(self, *words):
        """Its JSON."""
        return json.loads(self.run(*words, "-o", "json").stdout)

    def meanwhile(self, work, *words):
        """The exit code, output and errors of a command that waits, during which `work` is done; Ctrl-C ends it."""
        with self.printed.open("w") as out:
            self.process = subprocess.Popen(self._words(words), cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True)
        with self.process:
            try:
                _wait_for_its_sleep(self.process)
                work()
                self.process.send_signal(signal.SIGINT)
                _, said = self.process.communicate(timeout=60)
            except BaseException:
                self.process.kill()
                raise
        return self.process.returncode, self.printed.read_text(), said

    def wait_for_lines(self, more):
        """Waits until the command that waits has printed so many more lines."""
        there, until = self.printed.read_text().count("\n"), time.monotonic() + 60
        while self.printed.read_text().count("\n") < there + more:
            assert time.monotonic() < until, self.printed.read_text()
            time.sleep(0.02)

    @contextmanager
    def between_two_snapshots(self):
        """The command that waits takes none meanwhile."""
        _wait_for_its_sleep(self.process)
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def _wait_for_its_sleep(process):
    # It sleeps only after the first snapshot.
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        if Path(f"/proc/{process.pid}/syscall").read_text(encoding="ascii").split()[0] in _SLEEPS:
            return
        time.sleep(0.02)
    raise AssertionError(f"it does not wait: {process.communicate()}")


@pytest.fixture(scope="module")
def demo(machine, tmp_path_factory):
    one = Commands(tmp_path_factory.mktemp("demo"))
    try:
        one.node.build()
        yield one
    finally:
        one.node.close()


def words(text):
    return " ".join(text.split())


SENT = [
    (FRONTEND, "udp", DATABASE.ipv4, 6666, 17, "outbound", "policy", "deny 17 GlobalNetworkPolicy security.gate"),
    (FRONTEND, "udp", DATABASE.ipv6, 6666, 9, "outbound", "policy", "deny 9 GlobalNetworkPolicy security.gate"),
    (PROBE, "short", DATABASE.ipv4, 0, 5, "outbound", "too_short", "a header was cut off"),
    (PROBE, "malformed", DATABASE.ipv4, 0, 6, "outbound", "malformed_ip", "the IP header contradicts itself"),
    (PROBE, "fragment", DATABASE.ipv4, 0, 7, "outbound", "fragment_out_of_order", "without the first one"),
    (PROBE, "udp", BLACKHOLE, 443, 8, "outbound", "blackhole_route", "routes into nothing"),
]


@pytest.mark.parametrize(("pod", "kind", "address", "port", "count", "way", "reason", "said"), SENT)
def test_why_says_what_dropped_the_packets_sent_while_it_waits(
    demo, pod, kind, address, port, count, way, reason, said
):
    code, out, errors = demo.meanwhile(
        lambda: demo.node.send(pod, kind, address, port, count), "why", "--pod", pod.name, "--for", "60"
    )
    assert (3, "watching for 60 s; Ctrl-C ends it sooner\n") == (code, errors)
    assert f"{count} packets ({way}, tc_ingress), reason {reason}: " in words(out)
    assert said in words(out)


def test_why_finds_the_receiver_that_denies_and_the_rule_that_did(demo):
    def work():
        demo.node.send(PROBE, "udp", DATABASE.ipv4, 9999, 12)

    code, out, _ = demo.meanwhile(work, "why", "--pod", "probe", "--for", "60")
    assert 0 == code
    assert f"data/db ({DATABASE.interface}): 12 packets, inbound (policy 12)" in words(out)
    code, out, _ = demo.meanwhile(work, "why", "--ip", DATABASE.ipv6, "--for", "60")
    assert 3 == code
    assert "deny 12 end of tier default: what no rule of the tier matched" in words(out)


def test_why_ends_by_itself_with_an_answer(demo):
    done = demo.run("why", "--pod", "shop/cart", "--for", "0.5")
    assert 0 == done.returncode
    assert done.stdout.startswith(f"shop/cart ({CART.interface}), in ")


def test_a_pod_that_goes_while_why_waits_is_gone_and_loses_nothing(demo):
    code, out, _ = demo.meanwhile(lambda: demo.node.remove_pod(CART), "why", "--pod", "cart", "--for", "60")
    demo.node.add_pod(CART)
    assert 0 == code
    assert "It is gone now" in words(out)


def test_a_pod_made_again_while_why_waits_is_explained_since_then(demo):
    def work():
        demo.node.remove_pod(FRONTEND)
        demo.node.add_pod(FRONTEND)
        demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 4)

    code, out, _ = demo.meanwhile(work, "why", "--pod", "frontend", "--for", "60")
    assert 3 == code
    assert "4 packets (outbound, tc_ingress), reason policy" in words(out)
    assert "It appeared in this time" in words(out)


def test_what_a_pod_did_that_went_while_why_waited_is_not_said_to_be_anothers(demo):
    guest = replace(FRONTEND, name="guest", number=97)
    demo.node.add_pod(guest)

    def work():
        demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 4)
        demo.node.send(guest, "udp", DATABASE.ipv4, 6666, 5)
        demo.node.remove_pod(guest)

    _, out, _ = demo.meanwhile(work, "why", "--pod", "frontend", "--for", "60")
    assert "deny 9 GlobalNetworkPolicy security.gate" in words(out)
    assert "it denied these packets" not in words(out)


def dropped(answer):
    return {
        (one["pod"], row["reason"]): row["count"]
        for one in answer["endpoints"]
        for row in one["counted"]
        if row["category"] == "dropped"
    }


def test_a_difference_is_what_was_sent_in_between(demo):
    code, out, errors = demo.meanwhile(
        lambda: demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 17), "counters", "--diff", "60", "-o", "json"
    )
    assert (0, "") == (code, errors)
    assert {("frontend", "policy"): 17} == dropped(json.loads(out))
    assert 0 < json.loads(out)["seconds"] < 60


def test_watching_shows_every_packet_once_and_ends_well(demo):
    def work():
        for _ in range(3):
            demo.node.send(PROBE, "udp", DATABASE.ipv4, 9999, 5)
            demo.wait_for_lines(2)  # only whole intervals are shown

    code, out, errors = demo.meanwhile(work, "counters", "--watch", "0.3", "-o", "json", "--pod", "db")
    assert (0, "") == (code, errors)
    answers = [json.loads(line) for line in out.splitlines()]
    assert 15 == sum(answer["dropped"].get("policy", 0) for answer in answers)
    assert len(answers) > 3


def test_watching_goes_on_when_a_pod_is_made_again(demo):
    def work():
        with demo.between_two_snapshots():
            demo.node.remove_pod(FRONTEND)
        demo.wait_for_lines(2)
        with demo.between_two_snapshots():  # where it is there and its name is not, nobody can tell that it appeared
            demo.node.add_pod(FRONTEND)
            demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 4)
        demo.wait_for_lines(2)  # only whole intervals are shown

    code, out, _ = demo.meanwhile(work, "counters", "--watch", "0.3", "-o", "json", "--pod", "frontend")
    answers = [json.loads(line) for line in out.splitlines()]
    assert (0, 4) == (code, sum(answer["dropped"].get("policy", 0) for answer in answers))
    assert ["vanished", "appeared"] == [one["fate"] for answer in answers for one in answer["endpoints"] if one["fate"]]


def hits(answer):
    """The hits of each rule and tier's end by interface, direction, tier, policy and place, of IPv4."""
    found = {}
    for program in answer["programs"]:
        for tier in program["tiers"] if program["ip_family"] == 4 else ():
            place = program["pod"], program["direction"], tier["tier"]
            found |= {
                (*place, one["name"], rule["rule"]): rule["hits"] for one in tier["policies"] for rule in one["rules"]
            }
            found |= {(*place, "", "end"): tier["end_hits"]} if tier["tier"] else {}
    return {key: count for key, count in found.items() if count is not None}


def test_policy_shows_the_hits_of_the_rules_that_packets_met(demo):
    before = hits(demo.told("policy"))
    demo.node.send(PROBE, "udp", DATABASE.ipv4, 9999, 12)
    demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 17)
    after = hits(demo.told("policy"))
    moved = {key: count - before[key] for key, count in after.items() if count != before[key]}
    assert 12 == moved["db", "inbound", "default", "", "end"]
    assert 17 == moved["frontend", "outbound", "security", "security.gate", 0]
    assert "probe" not in {pod for pod, _, _, name, _ in moved if name == "security.gate"}


def test_policy_names_the_pods_in_an_ip_set(demo):
    done = demo.run("policy", "--pod", "cart", "--ip-sets")
    assert (0, "") == (done.returncode, done.stderr)
    assert f"{{{FRONTEND.ipv4}/32, {FRONTEND.ipv6}/128}}" in words(done.stdout)


def test_policy_of_every_pod_is_there_in_each_direction(demo):
    for direction in ("inbound", "outbound"):
        done = demo.run("policy", "--direction", direction)
        for pod in (FRONTEND, CART, DATABASE, PROBE):
            assert f"  {pod.interface}  (ifindex " in done.stdout


def test_two_bundles_of_the_node_say_what_was_sent_between_them(demo, tmp_path):
    bundles = [tmp_path / "before.tar.xz", tmp_path / "after.tar.xz"]
    assert 0 == demo.run("bundle", bundles[0]).returncode
    demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 17)
    assert 0 == demo.run("bundle", bundles[1]).returncode
    given = [word for one in bundles for word in ("--bundle", one)]
    answer = demo.told("counters", *given)
    assert {("frontend", "policy"): 17} == dropped(answer)
    assert answer["seconds"] is None or answer["seconds"] > 0
    done = demo.run("why", "--pod", "frontend", *given)
    assert 3 == done.returncode
    assert "deny 17 GlobalNetworkPolicy security.gate" in words(done.stdout)


_COMPLETE = """
import encodings.idna, io, os, sys
import exporter.cli.counters, exporter.cli.shells, exporter.bpf.libbpf, exporter.bpf.readers, exporter.node.live_links
import exporter.node.netlink, exporter.snapshot.reading, exporter.snapshot.source
from exporter.cli.main import main
os.setresuid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
main()
"""


@pytest.mark.parametrize(
    ("user", "typed", "offered"),
    [
        (0, "--pod ", {f"{pod.namespace}/{pod.name}" for pod in (CART, DATABASE, FRONTEND, PROBE)}),
        (0, "--pod fr", {FRONTEND.name}),
        (0, f"--interface {CART.interface[:-1]}", {CART.interface}),
        (0, "--ip fd", {pod.ipv6 for pod in (CART, DATABASE, FRONTEND, PROBE)}),
        (65534, "--pod ", set()),
        (65534, "--interface ", set()),
    ],
)
def test_a_shell_is_offered_the_nodes_own_endpoints_and_nothing_without_root(demo, user, typed, offered):
    where = f"--bpf.fs {demo.node.bpf.path} --calico.run-dir {demo.node.run_dir}"
    asked = {"COMP_BEFORE": f"{PROGRAM} counters {where} {typed}", "COMP_AFTER": "", COMPLETE: "zsh_complete"}
    # Imported before the user changes, who may not be allowed to read the program.
    command = ["ip", "netns", "exec", demo.node.namespace, sys.executable, "-c", _COMPLETE, str(user)]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, cwd=ROOT, check=True)
    assert ("", offered) == (done.stderr, {line.split("\t")[1] for line in done.stdout.split("\n") if line})
