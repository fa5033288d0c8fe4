"""The demo's BPF file system: mounted at a private path, and the only one where the demo pins anything.

On a real Calico node `/sys/fs/bpf/tc/globals` holds the maps that packets depend on; so every path is built here, and
paths outside the demo's mount are refused.
"""

import platform
import struct
from pathlib import Path

from exporter.demo import DemoError
from exporter.demo.commands import run

_SOURCE = Path(__file__).with_name("node.bpf.c")
# Maps that Calico has, with v3.32.1's shapes: type, key, value, entries, flags (1 is BPF_F_NO_PREALLOC). Calico's
# connection tracking has 512,000 entries by default, whose memory is taken at once.
_CALICO_MAPS = {
    "cali_counters6": ("percpu_hash", 8, 216, 20000, 0),
    "cali_rule_ctrs2": ("percpu_hash", 8, 8, 10000, 0),
    "cali_iface4": ("hash", 4, 52, 1000, 1),
    "cali_v4_ip_sets": ("lpm_trie", 20, 4, 1048576, 1),
    "cali_v6_ip_sets": ("lpm_trie", 32, 4, 1048576, 1),
    "cali_v4_ct4": ("lru_hash", 16, 88, 65536, 0),
    "cali_v6_ct4": ("lru_hash", 40, 128, 65536, 0),
    "cali_v4_nat_fe3": ("lpm_trie", 16, 20, 65536, 1),
    "cali_v6_nat_fe3": ("lpm_trie", 40, 20, 65536, 1),
    "cali_v4_nat_be": ("hash", 8, 8, 262144, 1),
    "cali_v6_nat_be": ("hash", 8, 20, 262144, 1),
    "cali_v4_nat_aff": ("lru_hash", 16, 16, 65536, 0),
    "cali_v6_nat_aff": ("lru_hash", 40, 32, 65536, 0),
    "cali_v4_routes": ("lpm_trie", 8, 8, 262144, 1),
    "cali_v6_routes": ("lpm_trie", 20, 20, 262144, 1),
}
# Those that are written for readers; the program counts and tracks in the others, or reads them.
_NOT_IN_PROGRAM = ("cali_iface4", "cali_v4_nat_aff", "cali_v6_nat_aff", "cali_v4_routes", "cali_v6_routes")
# An interface's policy of one direction: `struct policy` of node.bpf.c, 12 rules of 24 bytes.
POLICY_SIZE = 12 * 24
# Maps of the demo's program only.
_DEMO_MAPS = {
    "demo_policy": ("hash", 8, POLICY_SIZE, 4096, 0),
    "demo_homes": ("hash", 16, 12, 4096, 0),
}


class BpfFs:
    """A BPF file system mounted at `path`, which must be the demo's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self) -> None:
        """Mounts it."""
        self.path.mkdir(parents=True)
        try:
            run("mount", "-t", "bpf", "demo-bpf", self.path)
        except DemoError as error:
            raise DemoError(
                f"no BPF file system can be mounted here ({error}): run the demo on Linux 5.10 or later, and not in a "
                "container without the right to mount"
            ) from error
        (self.path / "tc/globals").mkdir(parents=True)
        (self.path / "demo").mkdir()

    def unmount(self) -> None:
        """Unmounts it, if it is mounted; what is pinned in it goes with it."""
        if self.is_mounted():
            run("umount", self.path)

    def is_mounted(self) -> bool:
        """Whether a BPF file system is mounted exactly here."""
        mounts = (line.split(" ") for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines())
        return any(words[1] == str(self.path) and words[2] == "bpf" for words in mounts)

    def pin(self, *parts: str) -> Path:
        """A path in this file system. Raises `DemoError` for one that would lie outside, or when it is not mounted."""
        path = self.path.joinpath(*parts)
        if ".." in path.parts or not path.is_relative_to(self.path) or not self.is_mounted():
            raise DemoError(f"{path} is not in the demo's own BPF file system at {self.path}")
        return path

    def load(self, work: Path) -> None:
        """Compiles the program, makes its maps, loads and pins both."""
        compiled = work / "node.o"
        machine = platform.machine()
        include = f"-I/usr/include/{machine}-linux-gnu"
        run("clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", include, "-c", _SOURCE, "-o", compiled)
        shared: list[object] = []
        for folder, maps in (("tc/globals", _CALICO_MAPS), ("demo", _DEMO_MAPS)):
            for name, (kind, key, value, entries, flags) in maps.items():
                pin = self.pin(folder, name)
                shape = ("type", kind, "key", key, "value", value, "entries", entries, "name", name, "flags", flags)
                run("bpftool", "map", "create", pin, *shape)
                if name not in _NOT_IN_PROGRAM:
                    shared += ["map", "name", name, "pinned", pin]
        run("bpftool", "prog", "loadall", compiled, self.pin("demo", "programs"), *shared)

    def program(self, name: str) -> Path:
        """Where a loaded program is pinned."""
        return self.pin("demo", "programs", name)

    def write(self, folder: str, name: str, key: bytes, value: bytes) -> None:
        """Writes an entry of one of the demo's maps; in a per-CPU map it is every CPU's value."""
        self._map("update", folder, name, "key", "hex", *_hex(key), "value", "hex", *_hex(value))

    def delete(self, folder: str, name: str, key: bytes) -> None:
        """Deletes an entry of one of the demo's maps."""
        self._map("delete", folder, name, "key", "hex", *_hex(key))

    def write_counters(self, ifindex: int, hook: int) -> None:
        """An entry of zeros, as Felix makes it when it attaches: without it the program drops everything."""
        self.write("tc/globals", "cali_counters6", struct.pack("<2I", ifindex, hook), bytes(216))

    def write_interface(self, ifindex: int, name: str, flags: int) -> None:
        """An entry of the interface state map, with no policy-program indexes."""
        value = struct.pack("<I16s8i", flags, name.encode(), *[-1] * 8)
        self.write("tc/globals", "cali_iface4", struct.pack("<I", ifindex), value)

    def _map(self, verb: str, folder: str, name: str, *words: object) -> None:
        run("bpftool", "map", verb, "pinned", self.pin(folder, name), *words)


def _hex(data: bytes) -> list[str]:
    return [f"{byte:02x}" for byte in data]
