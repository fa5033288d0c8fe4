"""Real packets through a real tc program, and what the exporter says of them inside the node's namespace.

A namespace is the node, another one a pod; between them a veth with the name and the route that Calico gives it.
"""

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporter.calico.names import workload_interface
from exporter.demo.namespace import write_settings
from tests.kernel.conftest import give_up
from tests.kernel.machine import Serving, exporter, load_programs, run, sample, samples_of, success
from tests.kernel.pinned import (
    HASH,
    NO_PREALLOC,
    PERCPU_HASH,
    PinnedMap,
    delete,
    interface_state,
    on_each_cpu,
    open_pin,
    put,
    u32,
)

pytestmark = pytest.mark.kernel

INTERFACE = workload_interface("cali", "ns-a", "client")
POD, GATEWAY, NODE = "10.65.0.2", "169.254.1.1", "10.0.0.1"
NODE_MAC, POD_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
DENIED, ALLOWED = 9999, 5000
OUTBOUND = {"interface": INTERFACE, "hook": "tc_ingress", "direction": "outbound", "namespace": "ns-a", "pod": "client"}
INBOUND = OUTBOUND | {"hook": "tc_egress", "direction": "inbound"}

_SEND = """
import socket, sys
host, port, datagrams = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    for _ in range(datagrams):
        sender.sendto(b"x" * 20, (host, port))
"""


@dataclass(frozen=True)
class Node:
    """The node and its pod: the namespaces, where the pins and Calico's files are, the interface's index."""

    node: str
    pod: str
    bpf_fs: Path
    run_dir: Path
    ifindex: int

    @property
    def inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.node)

    @property
    def where(self) -> tuple[str, ...]:
        return ("--bpf.fs", str(self.bpf_fs), "--calico.run-dir", str(self.run_dir))

    def send(self, port: int, datagrams: int) -> None:
        run("ip", "netns", "exec", self.pod, sys.executable, "-c", _SEND, NODE, port, datagrams)

    def command(self, *words: str):
        """A command of the exporter, run in the node's namespace."""
        return exporter(*words, *self.where, prefix=self.inside)


@pytest.fixture(scope="module")
def node(module_fs, counting, tmp_path_factory):
    with ExitStack() as ends:
        names = [f"bpf-test-{kind}-{os.getpid()}" for kind in ("node", "pod")]
        for name in names:
            added = run("ip", "netns", "add", name, check=False)
            if added.returncode:
                give_up(f"needs root with the right to make network namespaces: {added.stderr.strip()}")
            ends.callback(run, "ip", "netns", "delete", name)
            # Nobody but the test sends anything.
            write_settings(name, {f"net/ipv6/conf/{which}/disable_ipv6": 1 for which in ("all", "default")})
            run("ip", "-n", name, "link", "set", "lo", "up")
        ifindex = connect(*names)
        pins = module_fs / "tc/globals"
        for made in (pin_counters(pins, ifindex), pin_states(pins, ifindex)):
            ends.callback(made.close)
        attach(names[0], counting, module_fs)
        yield Node(*names, module_fs, write_status_file(tmp_path_factory.mktemp("run")), ifindex)


def connect(node: str, pod: str) -> int:
    """A veth pair between the namespaces, as Calico sets it up; answers the index of the node's side."""
    run("ip", "-n", node, "link", "add", INTERFACE, "address", NODE_MAC, "type", "veth", "peer", "eth0", "netns", pod)
    run("ip", "-n", pod, "link", "set", "eth0", "address", POD_MAC)
    run("ip", "-n", node, "link", "set", INTERFACE, "up")
    run("ip", "-n", node, "address", "add", f"{NODE}/32", "dev", "lo")
    run("ip", "-n", node, "route", "add", f"{POD}/32", "dev", INTERFACE, "scope", "link")
    run("ip", "-n", node, "neigh", "add", POD, "lladdr", POD_MAC, "dev", INTERFACE, "nud", "permanent")
    run("ip", "-n", pod, "address", "add", f"{POD}/32", "dev", "eth0")
    run("ip", "-n", pod, "link", "set", "eth0", "up")
    run("ip", "-n", pod, "neigh", "add", GATEWAY, "lladdr", NODE_MAC, "dev", "eth0", "nud", "permanent")
    run("ip", "-n", pod, "route", "add", GATEWAY, "dev", "eth0", "scope", "link")
    run("ip", "-n", pod, "route", "add", "default", "via", GATEWAY, "dev", "eth0")
    (link,) = json.loads(run("ip", "-j", "-n", node, "link", "show", INTERFACE).stdout)
    return link["ifindex"]


def pin_counters(pins: Path, ifindex: int) -> PinnedMap:
    """The counter map with its two zero entries, which Felix makes before it attaches its programs."""
    made = PinnedMap(pins / "cali_counters6", PERCPU_HASH, 8, 216, max_entries=20000)
    for hook in (0, 1):
        made.put(u32(ifindex, hook), *on_each_cpu(27, {}))
    return made


def pin_states(pins: Path, ifindex: int) -> PinnedMap:
    PinnedMap(pins / "cali_rule_ctrs2", PERCPU_HASH, 8, 8, max_entries=10000)
    made = PinnedMap(pins / "cali_iface4", HASH, 4, 52, max_entries=1000, flags=NO_PREALLOC)
    workload, ready = 0x1, 0x2 | 0x4
    made.put(u32(ifindex), interface_state(workload | ready, INTERFACE, 52))
    return made


def attach(node: str, counting: Path, bpf_fs: Path) -> None:
    """Our programs on both sides of clsact, counting in the pinned map; never loaded by tc itself."""
    load_programs(counting, bpf_fs / "loaded", bpf_fs / "tc/globals/cali_counters6")
    run("tc", "-n", node, "qdisc", "add", "dev", INTERFACE, "clsact")
    for side, program in (("ingress", "from_pod"), ("egress", "to_pod")):
        run(
            "tc",
            "-n",
            node,
            "filter",
            "add",
            "dev",
            INTERFACE,
            side,
            "bpf",
            "da",
            "pinned",
            bpf_fs / "loaded" / program,
        )


def write_status_file(run_dir: Path) -> Path:
    folder = run_dir / "endpoint-status"
    folder.mkdir()
    status = {"ifaceName": INTERFACE, "mac": POD_MAC, "ipv4Nets": [f"{POD}/32"], "ipv6Nets": []}
    (folder / "k8s ns-a%2Fclient eth0").write_text(json.dumps(status))
    return run_dir


@pytest.fixture(scope="module")
def serving(node, tmp_path_factory):
    """The exporter, serving in the node's namespace."""
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with_port = "127.0.0.1:10042"
    server = Serving(node.bpf_fs, node.run_dir, log, prefix=node.inside, address=with_port)
    try:
        yield server
    finally:
        server.end()


def moved(before: dict, after: dict, name: str, **labels: str) -> float:
    """By how much a series that was there before has moved."""
    return after[sample(name, **labels)] - before[sample(name, **labels)]


def test_exactly_the_packets_that_were_sent_are_counted(node, serving):
    before = serving.scrape()
    node.send(DENIED, 25)
    node.send(ALLOWED, 7)
    after = serving.scrape()
    assert 25 == moved(before, after, "calico_bpf_dropped_packets_total", **OUTBOUND, reason="policy")
    assert 7 == moved(before, after, "calico_bpf_accepted_flows_total", **OUTBOUND, reason="policy")
    assert 32 == moved(before, after, "calico_bpf_program_packets_total", **OUTBOUND)
    assert 0 == moved(before, after, "calico_bpf_dropped_packets_total", **INBOUND, reason="policy")
    # What comes back are refusals by ICMP, as many as the kernel's rate limit lets out.
    assert 7 >= moved(before, after, "calico_bpf_program_packets_total", **INBOUND) >= 1


def test_packets_to_the_pod_count_as_inbound(node, serving):
    before = serving.scrape()
    run(*node.inside, sys.executable, "-c", _SEND, POD, ALLOWED, 11)
    after = serving.scrape()
    assert 11 == moved(before, after, "calico_bpf_program_packets_total", **INBOUND)
    assert 0 == moved(before, after, "calico_bpf_dropped_packets_total", **OUTBOUND, reason="policy")


def test_a_scrape_of_the_node_is_whole(node, serving):
    samples = serving.scrape()
    assert {"counters": 1, "endpoints": 1, "rules": 1, "maps": 1} == success(samples)
    pod = {"interface": INTERFACE, "namespace": "ns-a", "pod": "client"}
    assert 1 == samples[sample("calico_bpf_endpoint_info", **pod, endpoint_kind="workload", ifindex=str(node.ifindex))]
    assert 1 == samples[sample("calico_bpf_endpoint_address_info", **pod, ip=POD, ip_family="4")]
    assert 0 == samples[sample("calico_bpf_unknown_interfaces")]
    assert 0 == samples[sample("calico_bpf_endpoint_problems", problem="not_ready")]
    assert 0 == samples[sample("calico_bpf_endpoint_problems", problem="counters_missing")]
    assert 0 == samples[sample("calico_bpf_exporter_endpoint_mismatches")]
    assert 1 == samples[sample("calico_bpf_exporter_pods")]
    assert 2 == samples[sample("calico_bpf_map_entries", map="counters", ip_family="")]
    assert 1 == samples[sample("calico_bpf_map_entries", map="iface", ip_family="")]
    assert "cali_counters6" in str(samples.keys())


def test_an_interface_without_its_entry_is_a_black_hole_and_is_reported(node, serving, module_fs):
    key = u32(node.ifindex, 0)
    descriptor = open_pin(module_fs / "tc/globals/cali_counters6")
    try:
        kept = serving.scrape()
        delete(descriptor, key)
        before = serving.scrape()
        node.send(ALLOWED, 5)
        after = serving.scrape()
        put(descriptor, key, b"".join(on_each_cpu(27, {})))
    finally:
        os.close(descriptor)
    missing = sample(
        "calico_bpf_endpoint_counters_missing", interface=INTERFACE, hook="tc_ingress", namespace="ns-a", pod="client"
    )
    assert (False, True, True) == tuple(missing in one for one in (kept, before, after))
    assert sample("calico_bpf_program_packets_total", **OUTBOUND) not in after
    assert 0 == moved(before, after, "calico_bpf_program_packets_total", **INBOUND)
    assert missing not in serving.scrape()


def counters_of(done) -> dict[tuple[str, int], int]:
    """From `counters -o json`: values that are not zero, by hook and slot, of the one endpoint shown."""
    assert done.returncode == 0, done.stderr
    (endpoint,) = json.loads(done.stdout)["endpoints"]
    assert ("ns-a", "client", INTERFACE) == (endpoint["namespace"], endpoint["pod"], endpoint["interface"])
    return {
        (hook, row["slot"]): row["value"]
        for hook, table in endpoint["hooks"].items()
        if table
        for row in table["counters"]
        if row["value"]
    }


@pytest.fixture(scope="module")
def counted(node):
    """After some packets, what the map holds now: nobody sends any more."""
    node.send(DENIED, 3)
    node.send(ALLOWED, 2)
    return counters_of(node.command("counters", "--pod", "ns-a/client", "-o", "json"))


@pytest.mark.parametrize("selector", [("--ip", POD), ("--interface", INTERFACE), ("--pod", "client"), ()], ids=" ".join)
def test_every_selector_shows_the_same_counters(node, counted, selector):
    assert counted == counters_of(node.command("counters", *selector, "--nonzero", "-o", "json"))
    assert {("tc_ingress", 0), ("tc_ingress", 2), ("tc_ingress", 4)} <= counted.keys()


@pytest.mark.parametrize("reader", ["libbpf", "bcc", "bpftool"])
def test_every_reader_shows_the_same_counters(node, counted, reader):
    words = ("counters", "--pod", "ns-a/client", "-o", "json", "--bpf.reader", reader)
    assert counted == counters_of(node.command(*words))


def test_the_table_names_the_pod_and_its_drops(node, counted):
    done = node.command("counters", "--pod", "ns-a/client", "--nonzero")
    assert (0, "") == (done.returncode, done.stderr)
    assert f"ns-a/client  {INTERFACE}" in done.stdout
    assert f"{counted['tc_ingress', 4]} packets dropped: policy {counted['tc_ingress', 4]}" in done.stdout


def test_a_scrape_at_the_prompt_has_the_counters_of_the_node(node, counted):
    done = node.command("scrape")
    assert done.returncode == 0, done.stderr
    samples = samples_of(done.stdout)
    dropped = samples[sample("calico_bpf_dropped_packets_total", **OUTBOUND, reason="policy")]
    total = samples[sample("calico_bpf_program_packets_total", **OUTBOUND)]
    assert (counted["tc_ingress", 4], counted["tc_ingress", 0]) == (dropped, total)


def test_check_finds_what_is_needed(node):
    done = node.command("check", "-o", "json")
    found = {one["subject"]: one["state"] for one in json.loads(done.stdout)}
    assert 0 == done.returncode, done.stdout
    notes = {subject for subject, state in found.items() if state == "note"}
    assert {"policy debug"} == notes
    assert "missing" not in found.values()


def test_check_outside_the_nodes_namespace_says_so(node):
    done = exporter("check", *node.where)
    assert 1 == done.returncode
    assert "network namespace" in done.stdout


def test_a_bundle_shows_the_same_numbers_elsewhere(node, counted, tmp_path):
    bundle = tmp_path / "node.tar.xz"
    done = node.command("bundle", str(bundle))
    assert done.returncode == 0, done.stderr
    for selector in (("--pod", "ns-a/client"), ("--ip", POD), ("--interface", INTERFACE)):
        elsewhere = exporter("counters", *selector, "-o", "json", "--bundle", bundle)
        assert counted == counters_of(elsewhere)


def test_a_bundle_makes_the_same_scrape_elsewhere(node, counted, tmp_path):
    bundle = tmp_path / "node.tar.xz"
    node.command("bundle", str(bundle))
    here, elsewhere = node.command("scrape").stdout, exporter("scrape", "--bundle", bundle).stdout
    assert of_the_node(here) == of_the_node(elsewhere)


def of_the_node(scrape: str) -> dict:
    """The samples that do not tell of the program itself."""
    own = ("calico_bpf_exporter_build_info", "calico_bpf_scrape_collector_duration_seconds")
    return {key: value for key, value in samples_of(scrape).items() if key[0] not in own}
