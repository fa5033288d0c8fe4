"""The demo node: counted packets between its pods, exactly counted in a scrape; and nothing left of it afterwards."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.cli.demo import _start_prometheus
from exporter.demo import DemoError
from exporter.demo.node import Node
from exporter.demo.plan import BLACKHOLE, CART, DATABASE, FRONTEND, PROBE
from exporter.demo.prometheus import start_prometheus
from exporter.node.netlink import HostRoute, Link
from tests import installed
from tests.kernel.machine import ROOT, steady_descriptors

pytestmark = pytest.mark.kernel

RULES = str(ROOT / "chart" / "files" / "rules")
DROPPED, ACCEPTED = "calico_bpf_dropped_packets_total", "calico_bpf_accepted_flows_total"
REDIRECTED, TOTAL = "calico_bpf_redirected_packets_total", "calico_bpf_program_packets_total"


def state_of_the_machine():
    """What a demo must leave as it found it."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    bpf = sorted(str(path) for path in Path("/sys/fs/bpf").rglob("*"))
    return links, spaces, mounts, bpf


class Demo:
    """A demo node of a test, and scrapes of it."""

    def __init__(self, folder):
        self.node = Node(f"t{os.getpid()}", folder / "demo")

    def run(self, *words):
        """What a command of the exporter prints inside the node."""
        where = ["--bpf.fs", self.node.bpf.path, "--calico.run-dir", self.node.run_dir]
        inside = ["ip", "netns", "exec", self.node.namespace, installed.program()]
        done = subprocess.run([*inside, *words, *where], capture_output=True, text=True, cwd=ROOT, check=False)
        assert (0, "") == (done.returncode, done.stderr)
        return done.stdout

    def scrape(self):
        """Every sample of a scrape: (family, labels without those that only name the place) to value."""
        found = {}
        for family in text_string_to_metric_families(self.run("scrape")):
            for sample in family.samples:
                labels = sample.labels
                what = labels.get("reason") or labels.get("path") or ""
                key = sample.name, labels.get("pod", ""), labels.get("direction", ""), what
                found[key] = found.get(key, 0) + sample.value
        return found

    def moved(self, work):
        """What `work` changed of the pods' samples, without the totals, which idle chatter moves too."""
        before = self.scrape()
        work()
        after = self.scrape()
        changed = {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}
        return {key: value for key, value in changed.items() if key[0] in (DROPPED, ACCEPTED, REDIRECTED) and key[1]}


@pytest.fixture(scope="module", autouse=True)
def no_earlier_demo(machine):
    """Removes what a demo that was killed left on this machine: what follows would remove it and miss it."""
    earlier = Node()
    try:
        earlier.build(())
    finally:
        earlier.close()


@pytest.fixture(scope="module")
def demo(no_earlier_demo, tmp_path_factory):
    one = Demo(tmp_path_factory.mktemp("demo"))
    before = state_of_the_machine()
    try:
        one.node.build()
        yield one
    finally:
        one.node.close()
    assert before == state_of_the_machine()


@pytest.mark.parametrize(
    ("pod", "kind", "address", "port", "reason"),
    [
        (FRONTEND, "udp", DATABASE.ipv4, 6666, "policy"),
        (FRONTEND, "flows", DATABASE.ipv6, 6666, "policy"),
        (PROBE, "short", DATABASE.ipv4, 0, "too_short"),
        (PROBE, "malformed", DATABASE.ipv4, 0, "malformed_ip"),
        (PROBE, "fragment", DATABASE.ipv4, 0, "fragment_out_of_order"),
        (PROBE, "udp", BLACKHOLE, 443, "blackhole_route"),
    ],
)
def test_what_is_dropped_on_its_way_out_counts_at_the_sender_by_reason(demo, pod, kind, address, port, reason):
    moved = demo.moved(lambda: demo.node.send(pod, kind, address, port, 17))
    assert {(DROPPED, pod.name, "outbound", reason): 17} == moved


def test_what_the_receiver_denies_is_one_accepted_flow_at_the_sender_and_a_drop_each_at_the_receiver(demo):
    moved = demo.moved(lambda: demo.node.send(PROBE, "udp", DATABASE.ipv4, 9999, 12))
    assert {(ACCEPTED, "probe", "outbound", "policy"): 1, (DROPPED, "db", "inbound", "policy"): 12} == moved


def test_pings_count_as_one_flow_or_as_a_drop_each(demo):
    allowed = demo.moved(lambda: demo.node.send(FRONTEND, "ping", PROBE.ipv4, 0, 11))
    assert 1 == allowed[ACCEPTED, "frontend", "outbound", "policy"]
    assert 1 == allowed[ACCEPTED, "probe", "inbound", "policy"]
    assert not [key for key in allowed if key[0] == DROPPED]
    for address in (DATABASE.ipv4, DATABASE.ipv6):
        denied = demo.moved(lambda address=address: demo.node.send(PROBE, "ping", address, 0, 9))
        assert {(ACCEPTED, "probe", "outbound", "policy"): 1, (DROPPED, "db", "inbound", "policy"): 9} == denied


def test_tcp_connections_count_as_a_flow_each_or_as_a_drop_each(demo):
    allowed = demo.moved(lambda: demo.node.send(CART, "tcp", DATABASE.ipv4, 5432, 6))
    assert 6 == allowed[ACCEPTED, "cart", "outbound", "policy"]
    assert 6 == allowed[ACCEPTED, "db", "inbound", "policy"]
    assert not [key for key in allowed if key[0] == DROPPED]
    denied = demo.moved(lambda: demo.node.send(PROBE, "tcp", DATABASE.ipv4, 9999, 4))
    assert {(ACCEPTED, "probe", "outbound", "policy"): 4, (DROPPED, "db", "inbound", "policy"): 4} == denied


def test_another_pod_with_the_index_of_one_that_went_has_its_own_name_and_starts_from_zero(demo):
    index = demo.node.ifindex(FRONTEND.interface)
    demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 5)
    demo.node.remove_pod(FRONTEND)
    guest = replace(FRONTEND, name="heir", number=99)
    demo.node.add_pod(guest, index)
    try:
        assert index == demo.node.ifindex(guest.interface)
        demo.node.send(guest, "udp", DATABASE.ipv4, 6666, 2)
        found = demo.scrape()
        assert 2 == found[DROPPED, "heir", "outbound", "policy"]
        assert not [key for key in found if key[1] == "frontend"]
    finally:
        demo.node.remove_pod(guest)
        demo.node.add_pod(FRONTEND)


def test_each_flow_counts_once_and_its_later_packets_are_redirected_past_the_receivers_hook(demo):
    before = demo.scrape()[TOTAL, "cart", "inbound", ""]
    moved = demo.moved(lambda: demo.node.send(FRONTEND, "udp", CART.ipv4, 8080, 30))
    expected = {(ACCEPTED, "frontend", "outbound", "policy"): 1, (ACCEPTED, "cart", "inbound", "policy"): 1}
    # Nobody listens on the port, so the first answer is an ICMP error, which is a flow of its own.
    assert expected.items() <= {key: value for key, value in moved.items() if key[0] == ACCEPTED}.items()
    assert 29 == moved[REDIRECTED, "frontend", "outbound", "peer"]
    assert demo.scrape()[TOTAL, "cart", "inbound", ""] - before < 10


def test_a_pod_removed_and_added_again_under_its_name_starts_from_zero(demo):
    demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 5)
    assert demo.scrape()[DROPPED, "frontend", "outbound", "policy"] >= 5
    demo.node.remove_pod(FRONTEND)
    assert not [key for key in demo.scrape() if key[1] == "frontend"]
    demo.node.add_pod(FRONTEND)
    demo.node.send(FRONTEND, "udp", DATABASE.ipv4, 6666, 3)
    assert 3 == demo.scrape()[DROPPED, "frontend", "outbound", "policy"]


def test_the_kernels_own_counters_know_nothing_of_calicos_drops_and_redirects(demo):
    # What the help texts of collector nic say.
    def nics():
        code = (
            "import sys; from exporter.node.nic import read_nics\n"
            "for name, nic in read_nics().items():\n"
            "    for side, one in (('received', nic.received), ('sent', nic.sent)):\n"
            "        print(name, side, one.packets, one.drops)"
        )
        inside = ["ip", "netns", "exec", demo.node.namespace, sys.executable, "-c", code]
        rows = subprocess.run(inside, capture_output=True, text=True, cwd=ROOT, check=True).stdout.splitlines()
        return {(name, side): (int(packets), int(drops)) for name, side, packets, drops in map(str.split, rows)}

    def moved(pod, kind, address, port):
        before = nics()
        demo.node.send(pod, kind, address, port, 100)
        return {key: (now[0] - before[key][0], now[1] - before[key][1]) for key, now in nics().items()}

    outbound = moved(FRONTEND, "udp", DATABASE.ipv4, 6666)
    assert outbound[FRONTEND.interface, "received"][0] >= 100
    assert {0} == {drops for _, drops in outbound.values()}
    inbound = moved(PROBE, "udp", DATABASE.ipv4, 9999)
    assert inbound[DATABASE.interface, "sent"][0] < 20
    assert {0} == {drops for _, drops in inbound.values()}
    redirected = moved(FRONTEND, "flows", CART.ipv4, 8080)
    assert redirected[FRONTEND.interface, "received"][0] >= 100


def test_pods_that_come_and_go_leave_no_wrong_name_and_no_duplicate_while_scraped(demo):
    serving = ["--web.listen-address", "127.0.0.1:10991", "--log.level", "error"]
    where = ["--bpf.fs", demo.node.bpf.path, "--calico.run-dir", demo.node.run_dir]
    inside = ["ip", "netns", "exec", demo.node.namespace]
    server = subprocess.Popen([*inside, installed.program(), "serve", *serving, *where], cwd=ROOT)
    ask = [*inside, "curl", "-s", "--max-time", "5", "http://127.0.0.1:10991/metrics"]
    try:
        deadline = time.monotonic() + 10
        while subprocess.run(ask, capture_output=True, check=False).returncode and time.monotonic() < deadline:
            time.sleep(0.1)
        descriptors = steady_descriptors(server.pid)
        for number in range(50):
            pod = replace(FRONTEND, name=f"guest-{number % 3}", number=100 + number)
            demo.node.add_pod(pod)
            present = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
            demo.node.remove_pod(pod)
            lines = [line for line in present.splitlines() if line.startswith("calico_bpf_") and "interface=" in line]
            assert len(lines) == len({line.rpartition(" ")[0] for line in lines})
            for line in lines:
                if "guest-" in line:
                    assert f'interface="{pod.interface}"' in line
                    assert f'pod="{pod.name}"' in line
        after = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
        assert "guest-" not in after
        assert descriptors >= steady_descriptors(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        assert 0 == server.wait(5)


def test_an_interface_renamed_keeps_counting_under_its_new_name(demo):
    ip = ["ip", "-n", demo.node.namespace, "link", "set"]
    subprocess.run([*ip, PROBE.interface, "down"], check=True)
    subprocess.run([*ip, PROBE.interface, "name", "calirenamed"], check=True)
    try:
        text = demo.run("scrape")
        assert 'interface="calirenamed"' in text
        assert PROBE.interface not in text
    finally:
        subprocess.run([*ip, "calirenamed", "name", PROBE.interface], check=True)
        demo.node.remove_pod(PROBE)  # setting it down took its routes
        demo.node.add_pod(PROBE)


def test_a_second_demo_of_the_same_name_is_refused_and_leaves_the_first_alone(demo):
    second = Node(demo.node.name, demo.node.state)
    with pytest.raises(DemoError, match="already running"):
        second.build()
    assert second.close() is False
    assert "shop" in demo.run("scrape")


@pytest.mark.parametrize("parts", [("..", "elsewhere"), ("/sys/fs/bpf/tc/globals", "cali_counters6"), ("a", "../../b")])
def test_nothing_is_pinned_outside_its_own_file_system(demo, parts):
    with pytest.raises(DemoError, match="not in the demo's own"):
        demo.node.bpf.pin(*parts)


def test_without_its_mount_nothing_is_pinned_at_all(tmp_path, machine):
    node = Node("unbuilt", tmp_path / "demo")
    with pytest.raises(DemoError, match="not in the demo's own"):
        node.bpf.pin("tc/globals", "cali_counters6")


def test_the_command_serves_the_machine_ends_with_ctrl_c_and_removes_what_an_earlier_one_left(machine):
    before = state_of_the_machine()
    words = [installed.program(), "demo", "--web.listen-address", "127.0.0.1:10992", "--rules", RULES]
    path = f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}"

    def started():
        running = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path})
        said = ""
        while "Ctrl-C here" not in said:  # the last line
            line = running.stdout.readline()
            assert line, said
            said += line
        return running, re.search(r"query instant (http://127\.0\.0\.1:[0-9]+) ALERTS", said)[1]

    killed, address = started()
    killed.kill()
    killed.wait()
    killed.stdout.close()
    deadline = time.monotonic() + 20
    while is_there(f"{address}/-/ready"):  # it ends with the demo, however that ends
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running, address = started()
    text = ""
    while targets(address) != {("calico-bpf-exporter", "demo", "up")}:
        assert time.monotonic() < deadline + 20
        time.sleep(0.3)
    with urllib.request.urlopen(f"{address}/api/v1/rules") as answer:
        groups = json.load(answer)["data"]["groups"]
    assert {"CalicoBPFDataplaneDrops", "CalicoBPFPolicyDeniesAll"} <= {
        one["name"] for g in groups for one in g["rules"]
    }
    deadline = time.monotonic() + 20
    while 'reason="blackhole_route"' not in text and time.monotonic() < deadline:
        time.sleep(0.3)
        with urllib.request.urlopen("http://127.0.0.1:10992/metrics") as answer:
            text = answer.read().decode()
    running.send_signal(signal.SIGINT)
    assert "removed" in running.stdout.read()
    assert 0 == running.wait(10)
    running.stdout.close()
    assert 'pod="frontend"' in text
    assert not is_there(f"{address}/-/ready")
    assert before == state_of_the_machine()


def is_there(url):
    """Whether anything answers."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def targets(address):
    """Job, node and health of what this Prometheus scrapes."""
    with urllib.request.urlopen(f"{address}/api/v1/targets") as answer:
        active = json.load(answer)["data"]["activeTargets"]
    return {(one["labels"]["job"], one["labels"]["node"], one["health"]) for one in active}


@pytest.mark.parametrize(
    ("rules", "said"),
    [(None, "there are no rules"), ("groups: [{name: x, rules: [{alert: y}]}]", "Prometheus did not come up: .*")],
)
def test_a_prometheus_that_cannot_be_started_is_one_sentence_and_leaves_no_process(
    tmp_path, monkeypatch, machine, rules, said
):
    monkeypatch.setenv("PATH", f"{ROOT / '.tools' / 'bin'}:{os.environ['PATH']}")
    if rules:
        (tmp_path / "odd.yaml").write_text(rules, encoding="utf-8")
    with pytest.raises(DemoError, match=said):
        start_prometheus(tmp_path / "prometheus", "localhost:9", tmp_path)
    found = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert [] == [one for one in found if str(tmp_path).encode() in one]


def test_without_root_it_is_one_sentence(machine):
    # Imported before the user changes, who may not be allowed to read the program.
    code = (
        "import encodings.idna, os, sys\n"
        "import exporter.cli.demo, exporter.cli.logs, exporter.demo.namespace, exporter.demo.node\n"
        "import exporter.web.transport.listener\n"
        "from exporter.cli.main import main\n"
        "os.setresuid(65534, 65534, 65534); sys.argv = ['x', 'demo']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert "run it as root" in done.stderr


def test_links_and_routes_are_named_and_shaped_as_calicos(demo):
    code = (
        "from exporter.node.netlink import read_host_routes, read_links\n"
        "print(repr(read_links())); print(repr(read_host_routes()))"
    )
    inside = ["ip", "netns", "exec", demo.node.namespace, sys.executable, "-c", code]
    said = subprocess.run(inside, capture_output=True, text=True, cwd=ROOT, check=True).stdout.splitlines()
    links, routes = (eval(line, {"Link": Link, "HostRoute": HostRoute}) for line in said)
    index = {link.name: link.ifindex for link in links}
    for pod in (FRONTEND, CART, DATABASE, PROBE):
        assert {HostRoute(pod.ipv4, index[pod.interface]), HostRoute(pod.ipv6, index[pod.interface])} <= set(routes)


def test_where_no_prometheus_is_installed_the_demo_says_so_and_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    said, started = _start_prometheus(tmp_path, 1, Path(RULES))
    assert "no Prometheus is installed" in said
    assert started is None
