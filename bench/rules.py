"""The cost of policy rules, printed as a table: `make bench`.

Writes 500 policy debug files of Calico's shape (250 pods, two directions) with some 2000 rules in all, a real pinned
rule counter map with a count for each of them, and measures CPU time of parsing all files cold and after a change of
one, of a snapshot when nothing changed, and of the collector `rules` then; and the memory that is kept. Beside it in
the same run: `json.loads` of the same files, which takes nothing apart. Needs root.
"""

import gc
import json
import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from scrape import cpu, made_node, update  # beside this file

from exporter.bpf.readers import open_reader
from exporter.calico import policy_debug
from exporter.demo.plan import Pod
from exporter.demo.policy_files import policy_files
from exporter.demo.policy_rules import Policy, Rule, Tier
from exporter.metrics.rules import RulesCollector
from exporter.node.netlink import HostRoute, Link
from exporter.node.policies import read_policies
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.snapshot import Snapshot
from exporter.snapshot.source import LiveNode

PODS, NAMESPACES, RULES = 250, 50, 19
_SECURITY, _DEFAULT = Tier("security"), Tier("default")


def main() -> None:
    """Prints the table."""
    if os.geteuid() != 0:
        sys.exit("the benchmark makes BPF maps: run it as root (sudo make bench)")
    pods = list(made_pods())
    with made_node(PODS) as (bpf_fs, run_dir):
        folder = run_dir / policy_debug.FOLDER
        write_files(folder, pods)
        measure(bpf_fs, run_dir, folder)


def made_pods() -> Iterator[Pod]:
    """Pods of 50 namespaces, each with a policy of its own, two global ones, and rules of the usual kinds."""
    actions = ("deny", "allow", "pass")
    gates = [
        Policy("GlobalNetworkPolicy", f"security.gate-{one}", _SECURITY, *[_rules(actions, 4) for _ in range(2)])
        for one in range(2)
    ]
    for number in range(PODS):
        namespace = f"namespace-{number % NAMESPACES}"
        own = [_rules(("allow",), RULES) for _ in range(2)]
        yield Pod(namespace, f"pod-{number}", 0, (*gates, Policy("NetworkPolicy", f"{namespace}/own", _DEFAULT, *own)))


def _rules(actions: tuple[str, ...], number: int) -> tuple[Rule, ...]:
    made = [Rule(actions[one % len(actions)], "tcp", 1000 + one) for one in range(number)]
    made[-1] = replace(made[-1], app="client")
    return tuple(made)


def write_files(folder: Path, pods: list[Pod]) -> None:
    """Writes the IPv4 files of these pods, old enough not to be reread as recently changed."""
    folder.mkdir(parents=True)
    for pod in pods:
        for name, text in policy_files(pod).items():
            if name.endswith("_v4.json"):
                (folder / name).write_text(text, encoding="utf-8")
                os.utime(folder / name, (1, 1))


def measure(bpf_fs: Path, run_dir: Path, folder: Path) -> None:
    """Prints the figures."""
    contents = [path.read_bytes() for path in folder.iterdir()]
    one = next(folder.iterdir())

    turns = count(1)

    def changed() -> object:
        os.utime(one, (1, 1 + next(turns)))
        return read_policies(folder, first)

    gc.collect()
    tracemalloc.start()
    first = read_policies(folder)
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    node = LiveNode(open_reader("libbpf"), bpf_fs, run_dir, _MadeLinks(first))  # type: ignore[arg-type]
    memory, collector = Memory(), RulesCollector()
    table = take_snapshot(node, Settings(), memory, {"rules"}).rules.get().table
    fill(bpf_fs / "tc/globals/cali_rule_ctrs2", [one for ids in table.ids for one in ids])
    collector.collect(take_snapshot(node, Settings(), memory, collector.parts))
    cold, plain = cpu(lambda: read_policies(folder)), cpu(lambda: [json.loads(text) for text in contents])
    warm = cpu(lambda: read_policies(folder, first))

    def again(parts: frozenset[str]) -> Snapshot:
        return take_snapshot(node, Settings(), memory, parts)

    # Shared with other collectors, and measured above.
    shared = cpu(lambda: again(frozenset({"endpoints", "policies"})))
    collected = cpu(lambda: collector.collect(again(collector.parts)))
    print(
        f"{len(contents)} policy files of {sum(map(len, contents)) / len(contents) / 1000:.1f} kB, "
        f"{len(table.names)} rules; CPU milliseconds:"
    )
    print(f"{'read all, cold':<40}{cold:10.2f}   json.loads of the same {plain:.2f}: {cold / plain:.2f} times it")
    print(f"{'one file changed':<40}{cpu(changed):10.2f}")
    print(f"{'nothing changed':<40}{warm:10.2f}")
    print(f"{'collector rules, nothing changed':<40}{collected - shared:10.2f}   beside the files and endpoints")
    print(f"memory kept of the files: {kept / 2**20:.2f} MiB")


def fill(pin: Path, ids: list[int]) -> None:
    """Writes a count for each rule."""
    with tempfile.NamedTemporaryFile("w", encoding="ascii") as batch:
        batch.writelines(update(pin, struct.pack("<Q", one), struct.pack("<Q", 7)) + "\n" for one in ids)
        batch.flush()
        subprocess.run(["bpftool", "batch", "file", batch.name], check=True, stdout=subprocess.DEVNULL)


class _MadeLinks:
    """Links of the interfaces that the policy files name."""

    def __init__(self, policies: object) -> None:
        names = sorted({one.about.interface for one in policies.files.values()})  # type: ignore[attr-defined]
        self._links = tuple(Link(index + 2, name) for index, name in enumerate(names))

    def links(self) -> tuple[Link, ...]:
        """See `LiveLinks`."""
        return self._links

    def host_routes(self) -> tuple[HostRoute, ...]:
        """See `LiveLinks`."""
        return ()


if __name__ == "__main__":
    main()
