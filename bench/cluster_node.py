"""One node of a made cluster, and what `serve` exposes of it with each of its settings.

Its maps are real and pinned, its policy files are of Calico's shape, its links and routes are in a network namespace
of its own, which the process enters and stays in. Needs root.
"""

import contextlib
import os
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from api_server import api_server  # beside this file
from map_fill import MAPS, make_map
from network import private_network
from rules import write_files
from scrape import SLOTS, address_of, made_node, name_of, pod_of, update

from exporter.bpf.readers import open_reader
from exporter.calico import policy_debug
from exporter.calico.counters import layout_of
from exporter.demo.plan import Pod
from exporter.demo.policy_rules import Policy, Rule, Tier
from exporter.node.live_links import LiveLinks
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.source import LiveNode

PODS = 30
# Namespaces with a pod on one node, and their policies; the global ones apply to all pods of the cluster.
NAMESPACES, OF_NAMESPACE, GLOBAL = 20, 2, 10
FLOWS = 10_000
_SECURITY, _DEFAULT = Tier("security"), Tier("default")
_READY = 0x6  # for IPv4 and IPv6, and no workload
_DROPPED = {"unknown_source": 500, "malformed_ip": 3}
_PORT = 10942
_MAX_WAIT = 30.0
_COUNT_INTERVAL = 1  # seconds; the entries of some maps are known after the second count only


@dataclass(frozen=True, slots=True)
class NodeServer:
    """Starts `serve` on the made node."""

    bpf_fs: Path
    run_dir: Path
    kubeconfig: Path

    def exposition(self, *flags: str) -> str:
        """What `serve` with these flags answers as soon as it knows all pods and has counted what it counts."""
        where = ["--bpf.fs", self.bpf_fs, "--calico.run-dir", self.run_dir, "--log.level", "error"]
        names = ["--kubernetes.kubeconfig", self.kubeconfig, "--kubernetes.node", "node"]
        names += ["--collector.maps.interval", str(_COUNT_INTERVAL)]
        command = [sys.executable, "-m", "exporter", "serve", *where, *names, *flags]
        with subprocess.Popen([*command, "--web.listen-address", f"127.0.0.1:{_PORT}"]) as server:
            try:
                return _complete(flags)
            finally:
                server.terminate()


def _complete(flags: Sequence[str]) -> str:
    wanted = [f"calico_bpf_exporter_pods {PODS}\n"]
    if "--no-collector.maps" not in flags:
        wanted.append('calico_bpf_map_counted_timestamp_seconds{map="conntrack"')
    if "--collector.conntrack" in flags:
        wanted.append("calico_bpf_conntrack_entries{")
    deadline, before = time.monotonic() + _MAX_WAIT, -1
    while time.monotonic() < deadline:
        time.sleep(_COUNT_INTERVAL * 1.5)
        with contextlib.suppress(urllib.error.URLError):
            with urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/metrics") as answer:
                text = answer.read().decode()
            lines = text.count("\n") if all(one in text for one in wanted) else -1
            if lines == before != -1:
                return text
            before = lines
    sys.exit(f"serve {' '.join(flags)} does not expose all of {wanted}")


@contextmanager
def cluster_node() -> Iterator[NodeServer]:
    """A node with 30 pods of 20 namespaces, a host interface, policies, all maps and an API server."""
    addresses = {name_of(index): address_of(index) for index in range(PODS)} | {"eth0": "192.0.2.1"}
    with made_node(PODS) as (bpf_fs, run_dir), private_network(addresses), TemporaryDirectory() as folder:
        pins = bpf_fs / "tc/globals"
        for name, (kind, key, value, most, entries) in {
            **MAPS, "cali_v4_ct4": (9, 16, 88, 512_000, FLOWS)
        }.items():  # fmt: skip
            make_map(pins / name, (kind, key, value), most, entries)
        _write_host_interface(pins)
        write_files(run_dir / policy_debug.FOLDER, [_pod(index) for index in range(PODS)])
        _hit_rules(bpf_fs, run_dir)
        with api_server([pod_of(index) for index in range(PODS)], address_of, Path(folder)) as kubeconfig:
            yield NodeServer(bpf_fs, run_dir, kubeconfig)


def _pod(index: int) -> Pod:
    namespace, name = pod_of(index)
    gates = [
        Policy("GlobalNetworkPolicy", f"security.gate-{one}", _SECURITY, *[_rules("deny", "allow", "pass")] * 2)
        for one in range(GLOBAL)
    ]
    deny = Policy("NetworkPolicy", f"{namespace}/default-deny", _DEFAULT, (), ())
    allow = Policy("NetworkPolicy", f"{namespace}/allow", _DEFAULT, _rules(*["allow"] * 4), _rules(*["allow"] * 3))
    return Pod(namespace, name, index, (*gates, deny, allow))


def _rules(*actions: str) -> tuple[Rule, ...]:
    return tuple(Rule(action, "tcp", 1000 + number) for number, action in enumerate(actions))


def _write_host_interface(pins: Path) -> None:
    """Adds eth0, which drops what unknown hosts send and what is malformed."""
    index = PODS + 2
    state = struct.pack("<I16s8i", _READY, b"eth0", *[-1] * 8)
    slots = [10**7, 0, 10**5] + [0] * (SLOTS - 3)
    for number, slot in enumerate(layout_of(SLOTS).slots):
        slots[number] = _DROPPED.get(slot.reason, slots[number])
    lines = [update(pins / "cali_iface4", struct.pack("<I", index), state)]
    lines += [
        update(pins / "cali_counters6", struct.pack("<2I", index, hook), struct.pack(f"<{SLOTS}Q", *slots))
        for hook in (0, 1)
    ]
    _batch(lines)


def _hit_rules(bpf_fs: Path, run_dir: Path) -> None:
    """Counts hits of two of three allow rules, of one of four deny rules, and of no tier's end."""
    node = LiveNode(open_reader("libbpf"), bpf_fs, run_dir, LiveLinks())
    table = take_snapshot(node, Settings(), Memory(), {"rules"}).rules.get().table
    pin = bpf_fs / "tc/globals/cali_rule_ctrs2"
    every = {"allow": (3, 2), "deny": (4, 1), "pass": (1, 1)}
    lines = []
    for number, (name, ids) in enumerate(zip(table.names, table.ids, strict=True)):
        of, hit = every[name.action]
        if name.rule != "end_of_tier" and number % of < hit:
            lines += [update(pin, struct.pack("<Q", one), struct.pack("<Q", 1000)) for one in ids]
    _batch(lines)


def _batch(lines: list[str]) -> None:
    text = "\n".join(lines)
    subprocess.run(["bpftool", "batch", "file", "-"], input=text.encode(), check=True, stdout=subprocess.DEVNULL)


if os.geteuid() != 0:
    sys.exit("the benchmark makes BPF maps: run it as root (sudo make bench-cluster)")
