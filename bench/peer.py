"""The cost of `serve` and of a Go exporter of the same counters, printed as Markdown tables: part of `make bench`.

The peer (bench/peer) serves the same series from the same pinned maps with cilium/ebpf and client_golang, and follows
the node's pods with client-go, as ours does by itself; both find the API server as a pod does. Beside them are ours
without an API server, and the peer built without client-go, which is the least that a Go program of this kind takes.
All run at once in a network namespace with as many links and routes as there are pods, all are new in each round, and
each is asked in turn; before anything is timed the counted families must be the same series with the same values. Needs
root and Go; without Go it says so and measures nothing.
"""

import contextlib
import gzip
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from api_server import api_server, as_in_a_pod
from network import private_network
from scrape import INTERFACES, address_of, cpu_of, made_node, name_of, pod_of, resident

from exporter.metrics import counters, endpoints, maps

ROUNDS = 3
SECONDS = 0.8
MIN_SCRAPES = 15
FIRST_PORT = 10942
BETWEEN_SCRAPES = 15
SCRAPES_A_YEAR = 365.25 * 86400 / BETWEEN_SCRAPES
# What clouds charge for 7.5 GiB of memory they charge for a CPU.
GIB_OF_A_CPU = 7.5
OURS, PEER, FILES, FLOOR = "ours", "peer", "ours without API server", "peer without client-go"
ENCODINGS = ("identity", "gzip")
COUNTED = {family.name for module in (counters, endpoints, maps) for family in module.FAMILIES}
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class Figures:
    """What one server took, over all rounds: CPU milliseconds by encoding and round, milliseconds of each scrape by
    encoding, bytes by encoding, milliseconds to the first scrape and MiB resident by round.
    """

    cpu: dict[str, list[float]] = field(default_factory=lambda: {one: [] for one in ENCODINGS})
    took: dict[str, list[float]] = field(default_factory=lambda: {one: [] for one in ENCODINGS})
    size: dict[str, int] = field(default_factory=dict)
    start: list[float] = field(default_factory=list)
    resident: list[float] = field(default_factory=list)


class Running:
    """A server in a separate process, and a persistent connection to it."""

    def __init__(self, words: list[str], port: int, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(words, env={**os.environ, **environment})
        self._client = http.client.HTTPConnection("127.0.0.1", port)

    def first(self) -> None:
        """Retries until there is a response."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                self._client.connect()
            except ConnectionRefusedError:
                time.sleep(0.002)
            else:
                self.ask("identity")
                return
        sys.exit(f"{self.process.args} did not begin to listen")

    def ask(self, encoding: str) -> bytes:
        """The body of one scrape as it came."""
        self._client.request("GET", "/metrics", headers={"Accept-Encoding": encoding})
        answer = self._client.getresponse()
        body = answer.read()
        if answer.status != http.client.OK:
            sys.exit(f"{self.process.args} answered {answer.status}: {body[:200]!r}")
        return body


def main() -> None:
    """Prints the tables."""
    if os.geteuid() != 0:
        sys.exit("the benchmark makes BPF maps: run it as root (sudo make bench)")
    if shutil.which("go") is None:
        print("the Go peer is left out: there is no program called go (apt-get install golang)")
        return
    with tempfile.TemporaryDirectory() as folder:
        binaries = {PEER: f"{folder}/peer", FLOOR: f"{folder}/floor"}
        for name, tags in ((PEER, "informer"), (FLOOR, "")):
            words = ["go", "build", "-tags", tags, "-o", binaries[name], "."]
            if subprocess.run(words, cwd=Path(__file__).parent / "peer", check=False).returncode:
                print("the Go peer is left out: it could not be built, as said above")
                return
        counts = tuple(map(int, sys.argv[1:])) or INTERFACES
        measured = {(count, zeros): figures for count, zeros, figures in measure(binaries, counts)}
    print_scrapes(measured)
    print_processes(measured)
    print_cost(measured)


def measure(binaries: dict[str, str], counts: tuple[int, ...]) -> Iterator[tuple[int, str, dict[str, Figures]]]:
    """For each number of interfaces and `zeros`, what each server took."""
    for count in counts:
        pods = [pod_of(index) for index in range(count)]
        with (
            made_node(count) as (bpf_fs, run_dir),
            private_network({name_of(index): address_of(index) for index in range(count)}),
            tempfile.TemporaryDirectory() as folder,
            api_server(pods, address_of, Path(folder)) as kubeconfig,
        ):
            in_pod, environment = as_in_a_pod(kubeconfig, Path(folder) / "account")
            # Files newer than two seconds are reread at every scrape, which is not the steady state.
            time.sleep(2)
            for zeros in ("core", "all"):
                where = [f"--bpf.fs={bpf_fs}", f"--calico.run-dir={run_dir}", "--log.level=error"]
                what = ["--no-collector.rules", f"--collector.counters.zeros={zeros}"]
                ours = [sys.executable, "-m", "exporter", "serve", *where, *what]
                theirs = [f"-bpf.fs={bpf_fs}", f"-run-dir={run_dir}", f"-zeros={zeros}"]
                sides = {
                    OURS: [*in_pod, *ours, "--web.listen-address={}"],
                    PEER: [*in_pod, binaries[PEER], *theirs, "-listen={}"],
                    FILES: [*ours, "--no-kubernetes", "--web.listen-address={}"],
                    FLOOR: [binaries[FLOOR], *theirs, "-listen={}"],
                }
                yield count, zeros, compared(sides, environment, count)


def compared(sides: dict[str, list[str]], environment: dict[str, str], count: int) -> dict[str, Figures]:
    """Some rounds of all."""
    figures = {name: Figures() for name in sides}
    for number in range(ROUNDS):
        with all_of(sides, environment, figures) as servers:
            if number == 0:
                same_series(servers[OURS].ask("identity"), servers[PEER].ask("identity"))
                knows_pods(servers, count)
            for encoding in ENCODINGS:
                for name, server in servers.items():
                    scrape_for_a_while(server, encoding, figures[name])
            for name, server in servers.items():
                figures[name].resident.append(resident(server.process.pid))
    return figures


@contextlib.contextmanager
def all_of(
    sides: dict[str, list[str]], environment: dict[str, str], figures: dict[str, Figures]
) -> Iterator[dict[str, Running]]:
    """New processes of all, started one after the other; ours has taken the second snapshot of its start."""
    servers: dict[str, Running] = {}
    try:
        for number, (name, given) in enumerate(sides.items()):
            port = FIRST_PORT + number
            began = time.perf_counter()
            words = [*given[:-1], given[-1].format(f"127.0.0.1:{port}")]
            servers[name] = Running(words, port, environment if name in (OURS, PEER) else {})
            servers[name].first()
            figures[name].start.append((time.perf_counter() - began) * 1000)
        time.sleep(1.2)
        yield servers
    finally:
        for server in servers.values():
            server.process.kill()
            server.process.wait()


def knows_pods(servers: dict[str, Running], count: int) -> None:
    """Ends the program unless both were told of the pods by the API server."""
    ours, theirs = (servers[name].ask("identity").decode() for name in (OURS, PEER))
    if "calico_bpf_exporter_pods_last_sync_timestamp_seconds " not in ours or f"peer_pods {count}\n" not in theirs:
        sys.exit("the API server's pods did not arrive: nothing was timed")


def same_series(ours: bytes, theirs: bytes) -> None:
    """Ends the program, and prints what differs, unless both have the same counted series with the same values."""
    here, there = counted(ours), counted(theirs)
    if here == there:
        return
    for series in sorted(here.keys() | there.keys()):
        if here.get(series) != there.get(series):
            print(f"ours {here.get(series)} peer {there.get(series)}: {series}")
    sys.exit("the peer does not serve the same series: nothing was timed")


def counted(body: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of the families that are compared: values by name and labels in alphabetical order."""
    found = {}
    for line in body.decode().splitlines():
        series, _, value = line.rpartition(" ")
        name, _, labels = series.partition("{")
        if name in COUNTED:
            found[name, tuple(sorted(_LABEL.findall(labels)))] = float(value)
    return found


def scrape_for_a_while(server: Running, encoding: str, taken: Figures) -> None:
    """Adds what scrapes of this encoding take."""
    for _ in range(2):
        body = server.ask(encoding)
    taken.size[encoding] = len(body)
    if encoding == "gzip" and not gzip.decompress(body):
        sys.exit("an empty body")
    times: list[float] = []
    before, began = cpu_of(server.process.pid), time.perf_counter()
    while len(times) < MIN_SCRAPES or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        server.ask(encoding)
        times.append((time.perf_counter() - start) * 1000)
    taken.cpu[encoding].append((cpu_of(server.process.pid) - before) / len(times) * 1000)
    taken.took[encoding] += times


def print_scrapes(measured: dict[tuple[int, str], dict[str, Figures]]) -> None:
    """CPU, time and size of a scrape, and the CPU of a year."""
    took = [name for column in ("CPU ms", "median ms", "p95 ms") for name in (column, "peer", "ratio")]
    row("interfaces", "zeros", "encoding", "kB", "peer", *took, "CPU s a year", "peer")
    row(*["---"] * 16)
    for (count, zeros), figures in measured.items():
        sides = figures[OURS], figures[PEER]
        for encoding in ENCODINGS:
            sizes = [f"{side.size[encoding] / 1000:.0f}" for side in sides]
            cpu = [median(side.cpu[encoding]) for side in sides]
            middle = [median(side.took[encoding]) for side in sides]
            slow = [quantiles(side.took[encoding], n=20)[-1] for side in sides]
            year = [f"{one / 1000 * SCRAPES_A_YEAR:.0f}" for one in cpu]
            row(count, zeros, encoding, *sizes, *pair(cpu), *pair(middle), *pair(slow), *year)
    print()


def print_processes(measured: dict[tuple[int, str], dict[str, Figures]]) -> None:
    """Memory and start of all."""
    row("interfaces", "zeros", "MiB resident", "peer", "ratio", FILES, FLOOR, "ms to the first scrape", "peer", "ratio")
    row(*["---"] * 10)
    for (count, zeros), figures in measured.items():
        memory = {name: median(side.resident) for name, side in figures.items()}
        start = [median(figures[name].start) for name in (OURS, PEER)]
        alone = [f"{memory[name]:.1f}" for name in (FILES, FLOOR)]
        row(count, zeros, *pair([memory[OURS], memory[PEER]]), *alone, *pair(start))
    print()


def print_cost(measured: dict[tuple[int, str], dict[str, Figures]]) -> None:
    """One figure for what a node pays: memory in CPUs at the price of clouds, and the CPU of scrapes."""
    row("interfaces", "zeros", "thousandths of a CPU", "peer", "ratio")
    row(*["---"] * 5)
    for (count, zeros), figures in measured.items():
        costs = [1000 * cost(figures[name]) for name in (OURS, PEER)]
        row(count, zeros, *pair(costs))
    print()


def cost(side: Figures) -> float:
    """CPUs: resident GiB / 7.5, and CPU seconds a second with a scrape each 15 s in gzip, which Prometheus asks for."""
    return median(side.resident) / 1024 / GIB_OF_A_CPU + median(side.cpu["gzip"]) / 1000 / BETWEEN_SCRAPES


def pair(figures: list[float]) -> tuple[str, str, str]:
    """Ours, the peer's, and the ratio."""
    ours, theirs = figures
    return f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"


def row(*cells: object) -> None:
    """A row of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
