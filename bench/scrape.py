"""The cost of a scrape, printed as a table with ratios: `make bench`.

Makes real pinned maps of Calico's shape in a BPF file system of its own, of 30 to 1000 interfaces with two hooks and 27
slots each, and measures CPU time: the parts of a scrape, the whole of it, and beside it in the same run the same
samples through prometheus-client's `generate_latest` and the same map through `bpftool map dump -j`. Every figure is
the median of several runs. Then a real `serve` over 30 to 250 interfaces: resident memory after 300 scrapes, and the
CPU it takes when nobody asks; figures.json keeps these, and tests compare the pages with it. Needs root.
"""

import contextlib
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

from api_server import api_server, as_in_a_pod
from network import private_network
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from exporter.bpf.readers import open_reader
from exporter.calico.counters import decode_counters, layout_of
from exporter.calico.names import workload_interface
from exporter.metrics.collector import Collector, CollectorOptions
from exporter.metrics.exposition import TEXT, render
from exporter.metrics.scrape import ON_BY_DEFAULT, collected_samples, make_collectors, run_collector
from exporter.node.netlink import HostRoute, Link
from exporter.snapshot.memory import Memory
from exporter.snapshot.pinned_maps import columns_of
from exporter.snapshot.reading import Reading, take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.source import LiveNode

INTERFACES = (30, 110, 250, 1000)
SERVED = (30, 110, 250)
FIGURES = Path(__file__).parent / "figures.json"
RUNS = 15
SLOTS = 27


class MadeLinks:
    """Links and routes of interfaces that exist only in the maps."""

    def __init__(self, count: int) -> None:
        self._links = tuple(Link(index + 2, name_of(index)) for index in range(count))
        self._routes = tuple(HostRoute(address_of(index), index + 2) for index in range(count))

    def links(self) -> tuple[Link, ...]:
        """See `LiveLinks`."""
        return self._links

    def host_routes(self) -> tuple[HostRoute, ...]:
        """See `LiveLinks`."""
        return self._routes


def name_of(index: int) -> str:
    """The interface of pod number `index`."""
    return workload_interface("cali", *pod_of(index))


def pod_of(index: int) -> tuple[str, str]:
    """Namespace and name of pod number `index`."""
    return f"namespace-{index % 20}", f"deployment-{index // 5}-5d4f8c7b9-x{index}"


def address_of(index: int) -> str:
    """The address of pod number `index`."""
    return f"10.65.{index // 250}.{index % 250 + 1}"


def main() -> None:
    """Prints the tables."""
    if os.geteuid() != 0:
        sys.exit("the benchmark makes BPF maps: run it as root (sudo make bench)")
    print(f"CPU milliseconds, median of {RUNS} runs, {os.cpu_count()} CPUs, kernel {os.uname().release}\n")
    columns = ("interfaces", "zeros", "samples", "read", "decode", "join", "counters", "render", "scrape")
    beside = ("generate_latest", "scrape/it", "bpftool dump", "read/it")
    print("".join(f"{column:>17}" for column in (*columns, *beside)))
    for count in INTERFACES:
        with made_node(count) as (bpf_fs, run_dir):
            time.sleep(2)  # files newer than that are read again at every scrape, which is not the steady state
            for zeros in ("core", "all"):
                print("".join(f"{cell:>17}" for cell in measured(bpf_fs, run_dir, count, zeros)))
    print()
    keep_figures()
    measure_imports()


def keep_figures() -> None:
    """Measures `serve` and writes its figures to FIGURES, from which the pages are tested."""
    found = {}
    for count in SERVED:
        addresses = {name_of(index): address_of(index) for index in range(count)}
        with made_node(count) as (bpf_fs, run_dir), private_network(addresses):
            time.sleep(2)  # files newer than that are read again at every scrape, which is not the steady state
            found[str(count)] = measure_serve(count, bpf_fs, run_dir)
    where = {"cpus": os.cpu_count(), "kernel": os.uname().release, "python": sys.version.partition(" ")[0]}
    FIGURES.write_text(json.dumps({"machine": where, "serve": found}, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def made_node(count: int) -> Iterator[tuple[Path, Path]]:
    """A BPF file system and a run directory of a node with `count` pods; removed at the end."""
    with tempfile.TemporaryDirectory() as name:
        bpf_fs, run_dir = Path(name) / "bpf", Path(name) / "calico"
        bpf_fs.mkdir()
        subprocess.run(["mount", "-t", "bpf", "bench", bpf_fs], check=True)
        try:
            make_maps(bpf_fs / "tc/globals", Path(name) / "batch", count)
            make_files(run_dir / "endpoint-status", count)
            yield bpf_fs, run_dir
        finally:
            subprocess.run(["umount", bpf_fs], check=True)


def make_maps(pins: Path, batch: Path, count: int) -> None:
    """Pins the three maps of v3.32.1 and fills them; some drop slots of every tenth interface are not zero."""
    pins.mkdir(parents=True)
    lines = [
        f"map create {pins}/cali_counters6 type percpu_hash key 8 value {8 * SLOTS} entries 20000 name cali_counters6",
        f"map create {pins}/cali_rule_ctrs2 type percpu_hash key 8 value 8 entries 10000 name cali_rule_ctrs2",
        f"map create {pins}/cali_iface4 type hash key 4 value 52 entries 1000 name cali_iface4 flags 1",
    ]
    for index in range(count):
        state = struct.pack("<I16s8i", 0x7, name_of(index).encode(), *[-1] * 8)
        lines.append(update(pins / "cali_iface4", struct.pack("<I", index + 2), state))
        dropped = 3 if index % 10 == 0 else 0
        for hook in (0, 1):
            slots = [10**6 + index, 0, 10**4 + index, 0, dropped, *[0] * 14, 10**5, *[0] * 7]
            lines.append(
                update(pins / "cali_counters6", struct.pack("<2I", index + 2, hook), struct.pack("<27Q", *slots))
            )
    batch.write_text("\n".join(lines), encoding="ascii")
    subprocess.run(["bpftool", "batch", "file", batch], check=True, stdout=subprocess.DEVNULL)


def update(pin: Path, key: bytes, value: bytes) -> str:
    """The line of a bpftool batch that writes an entry."""
    return f"map update pinned {pin} key hex {key.hex(' ')} value hex {value.hex(' ')}"


def make_files(folder: Path, count: int) -> None:
    """Writes the endpoint-status files."""
    folder.mkdir(parents=True)
    for index in range(count):
        pod = f"deployment-{index // 5}-5d4f8c7b9-x{index}"
        content = {"ifaceName": name_of(index), "ipv4Nets": [f"{address_of(index)}/32"]}
        (folder / f"k8s namespace-{index % 20}%2F{pod} eth0").write_text(json.dumps(content), encoding="utf-8")


def measured(bpf_fs: Path, run_dir: Path, count: int, zeros: str) -> list[str]:
    """One row of the table."""
    reader = open_reader("libbpf")
    node = LiveNode(reader, bpf_fs, run_dir, MadeLinks(count))  # type: ignore[arg-type]  the same two methods
    memory, collectors = Memory(), make_collectors(ON_BY_DEFAULT, CollectorOptions(zeros=zeros))
    pin = str(bpf_fs / "tc/globals/cali_counters6")
    dump = reader.read(pin, sum_cpus=True)
    whole = scrape(node, memory, collectors)
    snapshot = take_snapshot(node, Settings(), memory, frozenset().union(*(one.parts for one in collectors)))
    results = [run_collector(collector, lambda _: snapshot) for collector in collectors]

    read = cpu(lambda: reader.read(pin, sum_cpus=True))
    decode = cpu(lambda: decode_counters(columns_of(dump), layout_of(SLOTS)))
    join = cpu(lambda: take_snapshot(node, Settings(), memory, {"endpoints"}))
    counters = cpu(lambda: collectors[0].collect(snapshot))
    rendered = cpu(lambda: render(collected_samples(results), TEXT))
    scraped = cpu(lambda: scrape(node, memory, collectors))
    peer = cpu(renderer_of(whole))
    bpftool = cpu(
        lambda: subprocess.run(["bpftool", "-j", "map", "dump", "pinned", pin], stdout=subprocess.DEVNULL, check=True)
    )
    figures = [f"{one:.2f}" for one in (read, decode, join, counters, rendered, scraped, peer)]
    samples = sum(not line.startswith(b"#") for line in whole.splitlines())
    return [
        str(count),
        zeros,
        str(samples),
        *figures,
        f"{scraped / peer:.3f}",
        f"{bpftool:.2f}",
        f"{read / bpftool:.3f}",
    ]


def scrape(node: LiveNode, memory: Memory, collectors: list[Collector]) -> bytes:
    """One whole scrape."""
    read = Reading(node, Settings(), memory).read
    results = [run_collector(collector, read) for collector in collectors]
    failures = [result.failure for result in results if result.failure]
    if failures:
        sys.exit(f"the benchmark's own node is broken: {failures}")
    return render(collected_samples(results), TEXT)


def renderer_of(text: bytes) -> Callable[[], bytes]:
    """prometheus-client's rendering of the same samples."""
    families = list(text_string_to_metric_families(text.decode()))

    class Made:
        def collect(self) -> list[object]:
            return families  # type: ignore[return-value]

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Made())  # type: ignore[arg-type]
    return lambda: generate_latest(registry)


def cpu(work: Callable[[], object]) -> float:
    """Median CPU milliseconds, user and system, of this process and of what it starts."""
    work()
    seconds = []
    for _ in range(RUNS):
        start = spent()
        work()
        seconds.append(spent() - start)
    return median(seconds) * 1000


def spent() -> float:
    """CPU seconds so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure_serve(count: int, bpf_fs: Path, run_dir: Path) -> dict[str, dict[str, float]]:
    """Resident memory of a real `serve` after 300 scrapes, CPU per scrape over HTTP, and its CPU when idle.

    Answers the figures with the API server, by `--collector.counters.zeros`.
    """
    pods, found = [pod_of(index) for index in range(count)], {}
    with tempfile.TemporaryDirectory() as folder, api_server(pods, address_of, Path(folder)) as kubeconfig:
        in_pod, environment = as_in_a_pod(kubeconfig, Path(folder) / "account")
        serve = [sys.executable, "-m", "exporter", "serve", "--bpf.fs", str(bpf_fs), "--calico.run-dir", str(run_dir)]
        for zeros in ("core", "all"):
            for source, words in (("files", serve), ("files and API server", [*in_pod, *serve])):
                print(f"serve, {count:>3} interfaces, {zeros:>4}, {source:>20}: ", end="", flush=True)
                known = environment if words is not serve else {}
                found[zeros] = served([*words, "--collector.counters.zeros", zeros], known, count)
    return found


def served(words: list[str], environment: Mapping[str, str], count: int) -> dict[str, float]:
    """What a `serve` of these words costs: resident MiB, and CPU milliseconds for a scrape; prints that and more.

    Exits where it does not name `count` pods: the figures would be those of another node.
    """
    quiet = ["--web.listen-address", "127.0.0.1:10942", "--log.level", "error"]
    with subprocess.Popen([*words, *quiet], env={**os.environ, **environment}) as server:
        try:
            time.sleep(3)
            rounds = []
            for _ in range(3):
                start = cpu_of(server.pid)
                for _ in range(100):
                    with urllib.request.urlopen("http://127.0.0.1:10942/metrics") as answer:
                        text = answer.read()
                rounds.append((cpu_of(server.pid) - start) * 10)
            per_scrape = min(rounds)  # other work on the machine only adds
            start = cpu_of(server.pid)
            time.sleep(10)
            idle = (cpu_of(server.pid) - start) / 10
            named = set(re.findall(rb'program_packets_total.*namespace="([^"]+)",pod="([^"]+)"', text))
            if len(named) != count:
                sys.exit(f"{len(named)} pods of {count} have a name")
            memory = resident(server.pid)
            print(
                f"{memory:.1f} MiB resident after 300 scrapes, "
                f"{per_scrape:.2f} ms CPU per scrape over HTTP, idle {idle:.4%} of a core"
            )
            return {"resident_mib": round(memory, 1), "scrape_cpu_ms": round(per_scrape, 1)}
        finally:
            server.terminate()


def cpu_of(process: int) -> float:
    """CPU seconds of another process so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> float:
    """Resident memory of another process, in MiB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def measure_imports() -> None:
    """What each import adds to the resident memory of a fresh interpreter, in MiB, and takes, in milliseconds."""
    code = (
        "import time,sys;start=time.perf_counter();__import__(sys.argv[1]);took=time.perf_counter()-start\n"
        "status=open('/proc/self/status').read();print(status.split('VmRSS:')[1].split()[0],took*1000)"
    )
    print("\nimport, alone in a fresh interpreter: MiB resident above a bare one, milliseconds")
    bare = None
    for module in ("sys", "pyroute2", "prometheus_client", "h11", "asyncio", "click", "rich.table", "psutil"):
        done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, check=True)
        kib, took = map(float, done.stdout.split())
        bare = bare or kib
        print(f"{module:>20} {(kib - bare) / 1024:8.1f} {took:8.1f}")


if __name__ == "__main__":
    main()
