"""The cost of knowing how full Calico's maps are, printed as a table: `make bench`.

Makes real pinned maps of Calico v3.32's shapes for both IP families. First the CPU of counting a connection-tracking
map that evicts (`cali_v4_ct4`), in how many slices, the longest of them, and the interval at which 0.2 % of a core
counts it, for the collectors `maps` and `conntrack`; the latter decodes the state of each entry. Then the CPU of the
fill of all maps in a scrape, most known from accounted memory and the rest from the last count. Needs root.
"""

import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scrape import cpu, made_node  # beside this file

from exporter.bpf.libbpf import SONAMES
from exporter.bpf.readers import open_reader
from exporter.cli.serving import COUNT_SHARE
from exporter.snapshot.map_fill import MapCounts
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading
from exporter.snapshot.settings import Settings
from exporter.snapshot.source import LiveNode

ENTRIES = (10_000, 100_000, 512_000)
_HASH, _LRU, _TRIE = 1, 9, 11
_FLOW = (_LRU, 16, 88)
# Type, sizes of key and value, maximum, entries.
MAPS = {
    "cali_v4_ccq2": (_HASH, 16, 32, 100_000, 100),
    "cali_v4_nat_fe3": (_TRIE, 16, 20, 65_536, 200),
    "cali_v4_nat_be": (_HASH, 8, 8, 262_144, 1000),
    "cali_v4_nat_aff": (_LRU, 16, 24, 65_536, 10),
    "cali_v4_mglv2": (_HASH, 12, 8, 1009, 0),
    "cali_v4_routes": (_TRIE, 8, 8, 262_144, 1000),
    "cali_v4_ip_sets": (_TRIE, 20, 4, 1_048_576, 5000),
    "cali_v4_sprefix": (_TRIE, 8, 4, 1_048_576, 0),
    "cali_v4_fsafes2": (_TRIE, 12, 4, 65_536, 15),
    "cali_v4_arp2": (_LRU, 8, 12, 10_000, 100),
    "cali_v4_srmsg": (_LRU, 16, 12, 510_000, 0),
    "cali_v4_ct_nats": (_LRU, 24, 16, 10_000, 0),
    "cali_v4_frags2": (_LRU, 24, 1536, 10_000, 0),
    "cali_v4_frgfwd3": (_LRU, 12, 4, 10_000, 0),
    "cali_v6_nat_fe3": (_TRIE, 40, 20, 65_536, 200),
    "cali_v6_nat_be": (_HASH, 8, 20, 262_144, 1000),
    "cali_v6_nat_aff": (_LRU, 40, 32, 65_536, 10),
    "cali_v6_ccq2": (_HASH, 40, 56, 100_000, 100),
    "cali_v6_mglv2": (_HASH, 24, 20, 1009, 0),
    "cali_v6_routes": (_TRIE, 20, 8, 262_144, 1000),
    "cali_v6_ip_sets": (_TRIE, 32, 4, 1_048_576, 5000),
    "cali_v6_sprefix": (_TRIE, 20, 4, 1_048_576, 0),
    "cali_v6_fsafes2": (_TRIE, 24, 4, 65_536, 15),
    "cali_v6_arp2": (_LRU, 20, 12, 10_000, 100),
    "cali_v6_srmsg": (_LRU, 28, 24, 510_000, 0),
    "cali_v6_ct_nats": (_LRU, 40, 28, 10_000, 0),
    "cali_v6_ct4": (_LRU, 40, 128, 512_000, 1000),
    "cali_qos": (_HASH, 8, 32, 2000, 0),
}


@dataclass(frozen=True, slots=True)
class Counted:
    """A count: CPU milliseconds, and those of each slice."""

    slices: list[float]

    @property
    def total(self) -> float:
        """Milliseconds of the whole."""
        return sum(self.slices)

    def cells(self) -> list[str]:
        """The cells of the table."""
        seconds = self.total / 1000 / COUNT_SHARE
        return [f"{self.total:.1f}", str(len(self.slices)), f"{max(self.slices):.2f}", f"{seconds:.0f}"]


def main() -> None:
    """Prints the tables."""
    if os.geteuid() != 0:
        sys.exit("the benchmark makes BPF maps: run it as root (sudo make bench)")
    with made_node(30) as (bpf_fs, run_dir):
        node = LiveNode(open_reader("libbpf"), bpf_fs, run_dir)
        pins = bpf_fs / "tc/globals"
        for name, (kind, key, value, most, entries) in MAPS.items():
            make_map(pins / name, (kind, key, value), most, entries)
        columns = ("count ms", "slices", "longest ms", "interval s")
        print(f"{'':>10}{'collector maps':>48}{'collector conntrack':>48}")
        print(f"{'entries':>10}{''.join(f'{one:>12}' for one in columns * 2)}")
        for entries in ENTRIES:
            make_map(pins / "cali_v4_ct4", _FLOW, max(ENTRIES), entries)
            cells = [cell for count in (count_entries, decode_entries) for cell in counted(count, node).cells()]
            print(f"{entries:>10,}{''.join(f'{one:>12}' for one in cells)}")
            if entries < max(ENTRIES):
                (pins / "cali_v4_ct4").unlink()
        measure_scrape(node, pins)


def measure_scrape(node: LiveNode, pins: Path) -> None:
    """The fill of all maps in a scrape."""
    counts = MapCounts(background=True)
    for _ in range(2):
        list(counts.count_pinned(node))
    names = node.pin_names()
    found = counts.fills(node, names)
    spent = median(cpu(lambda: counts.fills(node, names)) for _ in range(5))
    known = sum(one.entries is not None for one in found)
    counted_maps = sum(one.counted_at is not None for one in found)
    print(f"\nfill of {len(found)} maps in a scrape: {spent:.2f} ms CPU; {known} known, {counted_maps} of them counted")
    (pins / "cali_v4_ct4").unlink()
    others = cpu(lambda: list(counts.count_pinned(node)))
    print(f"a count of all maps but IPv4 connection tracking: {others:.1f} ms CPU")


def count_entries(node: LiveNode) -> Iterator[None]:
    """Counts this node's connection-tracking map as the collector `maps` does."""
    return MapCounts(background=True).count(node, ["cali_v4_ct4"])


def decode_entries(node: LiveNode) -> Iterator[None]:
    """Counts it as the collector `conntrack` does."""
    return Reading(node, Settings(), Memory()).count_conntrack()


def counted(count: Callable[[LiveNode], Iterator[None]], node: LiveNode) -> Counted:
    """The cost of a count, the median of five."""
    return sorted((_counted(count(node)) for _ in range(5)), key=lambda one: one.total)[2]


def _counted(steps: Iterator[None]) -> Counted:
    slices = []
    while True:
        start = time.process_time()
        more = next(steps, 1) is None
        slices.append((time.process_time() - start) * 1000)
        if not more:
            return Counted(slices)


def make_map(pin: Path, shape: tuple[int, int, int], most: int, entries: int) -> None:
    """Pins a map of this shape with this many entries."""
    kind, key_size, value_size = shape
    library = ctypes.CDLL(SONAMES[0], use_errno=True)
    options = struct.pack("=Q6I", 48, *[0] * 5, int(kind != _LRU)) + bytes(16)
    number = library.bpf_map_create(kind, pin.name.encode()[:15], key_size, value_size, most, options)
    if number < 0 or library.bpf_obj_pin(number, os.fsencode(pin)):
        sys.exit(f"{pin} could not be made: {os.strerror(ctypes.get_errno())}")
    value, flags = bytes(value_size), ctypes.c_uint64(0)
    for key in made_keys(kind, key_size, entries):
        library.bpf_map_update_elem(number, key, value, flags)
    os.close(number)


def made_keys(kind: int, size: int, count: int) -> Iterator[bytes]:
    """Distinct keys; of a trie, whole ones, and else of TCP."""
    head = struct.pack("=I", 8 * (size - 4) if kind == _TRIE else 6)
    for number in range(count):
        yield (head + struct.pack("=I", number)).ljust(size, b"\1")


if __name__ == "__main__":
    main()
