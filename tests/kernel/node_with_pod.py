"""A network namespace as the node and another as its one pod, with real maps and programs that count.

Between them is a veth with the name and the routes that Calico gives it.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from exporter.calico.names import workload_interface
from exporter.demo.namespace import write_settings
from tests.kernel.conftest import give_up
from tests.kernel.machine import exporter, load_programs, run
from tests.kernel.pinned import HASH, NO_PREALLOC, PERCPU_HASH, PinnedMap, interface_state, on_each_cpu, u32

INTERFACE = workload_interface("cali", "ns-a", "client")
POD, GATEWAY, NODE = "10.65.0.2", "169.254.1.1", "10.0.0.1"
NODE_MAC, POD_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
DENIED, ALLOWED = 9999, 5000
SEND = """
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
        self.in_pod(SEND, NODE, port, datagrams)

    def in_pod(self, code: str, *words) -> None:
        """Python code, run in the pod's namespace."""
        run("ip", "netns", "exec", self.pod, sys.executable, "-c", code, *words)

    def command(self, *words: str):
        """A command of the exporter, run in the node's namespace."""
        return exporter(*words, *self.where, prefix=self.inside)


@contextmanager
def node_with_pod(bpf_fs: Path, counting: Path, run_dir: Path) -> Iterator[Node]:
    """Makes both, with the maps and programs of `counting` in `bpf_fs`, until the end of this."""
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
        pins = bpf_fs / "tc/globals"
        for made in (pin_counters(pins, ifindex), pin_states(pins, ifindex)):
            ends.callback(made.close)
        attach(names[0], counting, bpf_fs)
        yield Node(*names, bpf_fs, write_status_file(run_dir), ifindex)


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
