"""The demo node with a Calico that is upgraded: whole maps made, renamed, left behind and removed under its pods."""

import json
import struct
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from exporter.calico.hooks import TC_HOOKS
from exporter.demo.bpffs import BpfFs
from exporter.demo.commands import run
from exporter.demo.node import Node
from exporter.demo.plan import Pod
from exporter.demo.policy_files import policy_files
from exporter.demo.policy_rules import Policy
from tests.kernel.pinned import (
    HASH,
    NO_PREALLOC,
    PERCPU_HASH,
    PROG_ARRAY,
    PinnedMap,
    interface_state,
    on_each_cpu,
    put_program,
    u32,
)

COUNTERS = "cali_counters6"
# A total that no traffic here comes near.
LEFT_BEHIND = 10**12
ARRAY = "cali_progs_ing2"
# The programs of each side, in their order.
_SIDES = {"ingress": ("translate", "from_endpoint"), "egress": ("to_endpoint",)}


class ChangingFs(BpfFs):
    """The demo's file system, whose counter map and programs may lie under other names than at first."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.counters, self.programs = COUNTERS, "programs"

    def pin(self, *parts: str) -> Path:
        return super().pin(*(self.counters if part == COUNTERS else part for part in parts))

    def program(self, name: str) -> Path:
        return self.pin("demo", self.programs, name)

    def rename(self, name: str) -> None:
        """Renames the counter map."""
        self.pin("tc/globals", COUNTERS).rename(self.pin("tc/globals").joinpath(name))
        self.counters = name


class ChangingNode(Node):
    """A demo node whose dataplane can be changed while it counts."""

    def __init__(self, name: str, state: Path):
        super().__init__(name, state)
        self.bpf: ChangingFs = ChangingFs(state / "bpf")
        self.pins = self.bpf.path / "tc/globals"
        self._generation = 0

    def indexes(self) -> dict[str, int]:
        """The indexes of the node's interfaces by name."""
        return {link["ifname"]: link["ifindex"] for link in json.loads(run("ip", "-n", self.namespace, "-j", "link"))}

    def upgrade(self, number: int, *, with_array: bool) -> None:
        """Another Calico: its own counter map, all entries zero, and programs that count in it; the old map stays."""
        self._generation += 1
        (self.pins / ARRAY).unlink(missing_ok=True)
        old, self.bpf.programs = self.bpf.programs, f"programs{self._generation}"
        self.bpf.counters = f"cali_counters{number}"
        made = PinnedMap(self.pins / self.bpf.counters, PERCPU_HASH, 8, 216, max_entries=20000)
        for index in self.indexes().values():
            for hook in TC_HOOKS:
                made.put(u32(index, hook), *on_each_cpu(27, {}))
        made.close()
        self._load()
        for interface in self.indexes():
            for side, names in _SIDES.items():
                for priority, name in enumerate(names, 1):
                    words = ("filter", "replace", "dev", interface, side, "pref", priority, "handle", 1)
                    run("tc", "-n", self.namespace, *words, "bpf", "da", "object-pinned", self.bpf.program(name))
        if with_array:
            self._pin_array()
        for name in chain(*_SIDES.values()):
            (self.bpf.path / "demo" / old / name).unlink()
        (self.bpf.path / "demo" / old).rmdir()

    def _load(self) -> None:
        shared = {"cali_counters6": self.pins / self.bpf.counters}
        shared |= {name: self.pins / name for name in ("cali_rule_ctrs2", "cali_v4_ip_sets", "cali_v6_ip_sets")}
        shared |= {name: self.bpf.path / "demo" / name for name in ("demo_policy", "demo_homes")}
        words = [word for name, pin in shared.items() for word in ("map", "name", name, "pinned", pin)]
        run("bpftool", "prog", "loadall", self.state / "node.o", self.bpf.path / "demo" / self.bpf.programs, *words)

    def _pin_array(self) -> None:
        array = PinnedMap(self.pins / ARRAY, PROG_ARRAY, 4, 4, max_entries=10)
        for slot, name in enumerate(chain(*_SIDES.values())):
            put_program(array, slot, self.bpf.program(name))
        array.close()

    def leave_behind(self, number: int) -> None:
        """A counter map of an older Calico, of another shape and with large counts of interfaces that exist."""
        left = PinnedMap(self.pins / f"cali_counters{number}", PERCPU_HASH, 8, 200, max_entries=20000)
        for index in self.indexes().values():
            for hook in TC_HOOKS:
                left.put(u32(index, hook), *on_each_cpu(25, {0: LEFT_BEHIND, 2: 10**9, 4: 10**9}))
        left.close()

    def recreate_states(self, interfaces: Sequence[str]) -> None:
        """Replaces the interface state map by a new one."""
        aside = self.pins / "being_filled"
        made = PinnedMap(aside, HASH, 4, 52, max_entries=1000, flags=NO_PREALLOC)
        for name, index in self.indexes().items():
            if name in interfaces or not name.startswith("cali"):
                made.put(u32(index), interface_state(0x7 if name in interfaces else 0xE, name, 52))
        made.close()
        aside.rename(self.pins / "cali_iface4")

    def change_policy(self, old: Pod, new: Pod) -> None:
        """The same pod under other policies: its programs' policy, then its files."""
        for hook in TC_HOOKS:
            self._write_policy(self.ifindex(old.interface), hook, new)
        for name, text in policy_files(new).items():
            (self._policy_folder / name).write_text(text, encoding="utf-8")

    def rename_link(self, old: str, new: str) -> None:
        """Another name for an interface, which takes its routes."""
        for words in (("down",), ("name", new)):
            run("ip", "-n", self.namespace, "link", "set", old, *words)


def policies_named(name: str, policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
    """Policies of a pod with the last one under another name."""
    *others, last = policies
    space = last.name.rpartition("/")[0]
    renamed = Policy(last.kind, f"{space}/{name}" if space else name, last.tier, last.ingress, last.egress)
    return (*others, renamed)


def counter_key(ifindex: int, hook: int) -> bytes:
    """The key of an entry of the counter map."""
    return struct.pack("<2I", ifindex, hook)
