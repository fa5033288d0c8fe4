"""How a snapshot grows, printed as Markdown tables: part of `make bench`; needs no rights.

With the possible CPUs, for which a node has a value each, whether they are there or not: a counter map is read from a
kernel that is made up, batch by batch, in a process of its own for each row. With the slots of a layout: counters as
text with all zeros. And with each kind of compression: CPU and size of a body of 1000 interfaces.
"""

import ctypes
import errno
import gzip
import importlib
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace

from exporter.allocator import keep_memory_small
from exporter.bpf.maps import MapInfo
from exporter.bpf.walk import Calls, read_map
from exporter.calico.counters import RELEASED_COUNTS, CounterTable, decode_counters, layout_of
from exporter.calico.hooks import TC_HOOKS
from exporter.calico.ifstate import InterfaceState
from exporter.calico.names import workload_interface
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.counters import CountersCollector
from exporter.metrics.exposition import TEXT, render
from exporter.metrics.family import Samples
from exporter.node.endpoints import WORKLOAD, Endpoint, Endpoints
from exporter.snapshot.live_map import fingerprint
from exporter.snapshot.pinned_maps import columns_of
from exporter.snapshot.snapshot import Part

RUNS = 9
SLOTS = 27
CPUS = (2, 8, 32, 128, 256)
FEW = 8  # that count, where there are more
INTERFACES = (250, 1000)
PACKERS = ("gzip", "isal.igzip", "zlib_ng.gzip_ng")


def main() -> None:
    """Prints the tables, or as a process of its own one row of the first."""
    keep_memory_small()
    if len(sys.argv) > 1:
        row(*of_cpus(*map(int, sys.argv[1:])))
        return
    took = "read and sum ms", "decode ms", "fingerprint ms"
    row("possible CPUs", "that count", "interfaces", "map MiB", *took, "peak MiB more")
    row(*["---"] * 8)
    for cpus in CPUS:
        for counting in sorted({min(cpus, FEW), cpus}):
            for count in INTERFACES:
                subprocess.run([sys.executable, __file__, str(cpus), str(counting), str(count)], check=True)
    print()
    row("interfaces", "slots", "samples", "collect ms", "render and encode ms", "kB")
    row(*["---"] * 6)
    for count in INTERFACES:
        for slots in RELEASED_COUNTS:
            row(*of_slots(count, slots))
    print()
    row("compressed by", "level", "ms", "kB")
    row(*["---"] * 4)
    body = render(collected(1000, SLOTS), TEXT)
    for name in PACKERS:
        of_packer(name, body)


def of_cpus(cpus: int, counting: int, count: int) -> list[object]:
    """A row of the first table."""
    made, info = MadeKernel(2 * count, cpus, counting), map_info(2 * count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = cpu(lambda: read_map(made.calls(), 0, info, cpus, sum_cpus=True))
    dump = read_map(made.calls(), 0, info, cpus, sum_cpus=True)
    decode = cpu(lambda: decode_counters(columns_of(dump), layout_of(SLOTS)))
    mark = cpu(lambda: fingerprint(dump))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return [
        cpus,
        counting,
        count,
        f"{len(dump.values) * cpus / 2**20:.1f}",
        *(f"{one:.2f}" for one in (read, decode, mark)),
        f"{peak:.0f}",
    ]


class MadeKernel:
    """A per-CPU map whose entries a batched lookup copies from one row."""

    def __init__(self, entries: int, cpus: int, counting: int) -> None:
        self._entries = entries
        self._value = struct.pack(f"<{counting * SLOTS}Q", *range(1, counting * SLOTS + 1))
        self._value += bytes((cpus - counting) * SLOTS * 8)
        self._given = 0

    def calls(self) -> Calls:
        """The calls of which reading needs one."""
        nothing = SimpleNamespace(open_pin=None, object_info=None, next_key=None, lookup=None, program_by_id=None)
        self._given = 0
        return Calls(lookup_batch=self._lookup_batch, **vars(nothing))

    def _lookup_batch(self, _: int, __: int | None, ___: int, keys: int, values: int, count: object) -> int:
        wanted = count._obj  # type: ignore[attr-defined]  # noqa: SLF001  what ctypes.byref holds
        wanted.value = min(wanted.value, self._entries - self._given)
        for number in range(wanted.value):
            key = struct.pack("<II", *divmod(self._given + number + 4, 2))
            ctypes.memmove(keys + 8 * number, key, 8)
            ctypes.memmove(values + number * len(self._value), self._value, len(self._value))
        self._given += wanted.value
        if self._given == self._entries:
            raise OSError(errno.ENOENT, "the end")
        return 0


def map_info(entries: int) -> MapInfo:
    """The shape of the counter map."""
    return MapInfo("made", 1, "cali_counters6", "percpu_hash", 8, 8 * SLOTS, max(entries, 20000), 0)


def of_slots(count: int, slots: int) -> list[object]:
    """A row of the second table."""
    collector, snapshot = CountersCollector(CollectorOptions(zeros="all")), made_snapshot(count, slots)
    collect = cpu(lambda: collector.collect(snapshot))
    samples = collector.collect(snapshot)
    text = cpu(lambda: render(samples, TEXT))
    size = len(render(samples, TEXT))
    lines = sum(len(one.values) for one in samples)
    return [count, slots, lines, f"{collect:.2f}", f"{text:.2f}", f"{size / 1000:.0f}"]


def collected(count: int, slots: int) -> list[Samples]:
    """The samples of all counters of that many interfaces."""
    return CountersCollector(CollectorOptions(zeros="all")).collect(made_snapshot(count, slots))


def made_snapshot(count: int, slots: int) -> SimpleNamespace:
    """What the collector asks of a snapshot."""
    known = {}
    for index in range(2, count + 2):
        pod = f"deployment-{index // 5}-5d4f8c7b9-x{index}"
        name = workload_interface("cali", f"namespace-{index % 20}", pod)
        state = InterfaceState(index, name, 0x7)
        known[index] = Endpoint(index, name, WORKLOAD, f"namespace-{index % 20}", pod, (), state)
    rows = {}
    for number, key in enumerate((index, hook) for index in known for hook in TC_HOOKS):
        dropped = 3 if number % 10 == 0 else 0
        rows[key] = (10**6 + number, 0, 10**4 + number, 0, dropped, *[0] * (slots - 5))
    table = CounterTable(layout_of(slots), rows)
    return SimpleNamespace(counters=Part(table), ifstate=Part(()), endpoints=Part(Endpoints(known)))


def of_packer(name: str, body: bytes) -> None:
    """Rows of the third table, for the levels of one library."""
    try:
        library = importlib.import_module(name)
    except ImportError:
        print(f"{name} is left out: it is not installed")
        return
    for level in range(4 if name == "isal.igzip" else 7):
        if level or name == "isal.igzip":
            packed = library.compress(body, level)
            if gzip.decompress(packed) != body:
                sys.exit(f"{name} level {level} does not come back whole")
            took = cpu(lambda level=level: library.compress(body, level))
            row(name, level, f"{took:.1f}", f"{len(packed) / 1000:.0f}")


def cpu(work: Callable[[], object]) -> float:
    """Median CPU milliseconds."""
    work()
    took = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return median(took) * 1000


def row(*cells: object) -> None:
    """A row of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
