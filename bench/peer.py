"""The cost of `serve` and of a Go exporter of the same counters, printed as Markdown tables: part of `make bench`.

The peer (bench/peer) serves the same series from the same pinned maps with cilium/ebpf and client_golang. Both run at
once in a network namespace with as many links and routes as there are pods, both are new in each round, and each is
asked in turn; before anything is timed their counted families must be the same series with the same values. Needs root
and Go; without Go it says so and measures nothing.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from scrape import INTERFACES, address_of, cpu_of, made_node, name_of, resident

from exporter.demo.namespace import enter_namespace
from exporter.metrics import counters, endpoints, maps

ROUNDS = 3
SECONDS = 0.8
FEWEST = 15
SCRAPES_A_YEAR = 365.25 * 86400 / 15
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

    def __init__(self, words: list[str], port: int) -> None:
        self.process = subprocess.Popen(words)
        self._port = port
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
        peer = Path(folder) / "peer"
        built = subprocess.run(["go", "build", "-o", peer, "."], cwd=Path(__file__).parent / "peer", check=False)
        if built.returncode:
            print("the Go peer is left out: it could not be built, as said above")
            return
        measured = {(count, zeros): ours_and_peers for count, zeros, ours_and_peers in measure(peer)}
    print_scrapes(measured)
    print_processes(measured)


def measure(peer: Path) -> Iterator[tuple[int, str, tuple[Figures, Figures]]]:
    """For each number of interfaces and `zeros`, what ours and the peer took."""
    for count in INTERFACES:
        with made_node(count) as (bpf_fs, run_dir), private_network(count):
            # Files newer than two seconds are reread at every scrape, which is not the steady state.
            time.sleep(2)
            for zeros in ("core", "all"):
                where = [f"--bpf.fs={bpf_fs}", f"--calico.run-dir={run_dir}", "--no-kubernetes", "--log.level=error"]
                what = ["--no-collector.rules", f"--collector.counters.zeros={zeros}"]
                ours = [sys.executable, "-m", "exporter", "serve", *where, *what]
                ours.append("--web.listen-address=127.0.0.1:10942")
                theirs = [str(peer), f"-bpf.fs={bpf_fs}", f"-run-dir={run_dir}", f"-zeros={zeros}"]
                theirs.append("-listen=127.0.0.1:10943")
                yield count, zeros, compared(ours, theirs)


@contextlib.contextmanager
def private_network(count: int) -> Iterator[None]:
    """Moves this process into a network namespace with the links and routes of `count` pods."""
    name = f"bench-peer-{os.getpid()}-{count}"
    lines = ["link set lo up"]
    for index in range(count):
        # Bridges, since they are one link each; what kind of link it is makes no difference to either.
        lines.append(f"link add name {name_of(index)} index {index + 2} type bridge")
        lines.append(f"route add {address_of(index)}/32 dev {name_of(index)} scope link")
        lines.insert(-1, f"link set {name_of(index)} up")
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines), text=True, check=True)
        enter_namespace(name)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def compared(ours: list[str], theirs: list[str]) -> tuple[Figures, Figures]:
    """Some rounds of both."""
    figures = Figures(), Figures()
    for number in range(ROUNDS):
        with both(ours, theirs, figures) as servers:
            if number == 0:
                same_series(*(server.ask("identity") for server in servers))
            for encoding in ENCODINGS:
                for server, taken in zip(servers, figures, strict=True):
                    scrape_for_a_while(server, encoding, taken)
            for server, taken in zip(servers, figures, strict=True):
                taken.resident.append(resident(server.process.pid))
    return figures


@contextlib.contextmanager
def both(ours: list[str], theirs: list[str], figures: tuple[Figures, Figures]) -> Iterator[tuple[Running, Running]]:
    """New processes of both, started one after the other; ours has taken the second snapshot of its start."""
    servers = []
    try:
        for words, port, taken in zip((theirs, ours), (10943, 10942), figures[::-1], strict=True):
            began = time.perf_counter()
            servers.append(Running(words, port))
            servers[-1].first()
            taken.start.append((time.perf_counter() - began) * 1000)
        time.sleep(1.2)
        yield servers[1], servers[0]
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()


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
    while len(times) < FEWEST or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        server.ask(encoding)
        times.append((time.perf_counter() - start) * 1000)
    taken.cpu[encoding].append((cpu_of(server.process.pid) - before) / len(times) * 1000)
    taken.took[encoding] += times


def print_scrapes(measured: dict[tuple[int, str], tuple[Figures, Figures]]) -> None:
    """CPU, time and size of a scrape, and the CPU of a year."""
    took = [name for column in ("CPU ms", "median ms", "p95 ms") for name in (column, "peer", "ratio")]
    row("interfaces", "zeros", "encoding", "kB", "peer", *took, "CPU s a year", "peer")
    row(*["---"] * 16)
    for (count, zeros), sides in measured.items():
        for encoding in ENCODINGS:
            sizes = [f"{side.size[encoding] / 1000:.0f}" for side in sides]
            cpu = [median(side.cpu[encoding]) for side in sides]
            middle = [median(side.took[encoding]) for side in sides]
            slow = [quantiles(side.took[encoding], n=20)[-1] for side in sides]
            year = [f"{one / 1000 * SCRAPES_A_YEAR:.0f}" for one in cpu]
            row(count, zeros, encoding, *sizes, *pair(cpu), *pair(middle), *pair(slow), *year)
    print()


def print_processes(measured: dict[tuple[int, str], tuple[Figures, Figures]]) -> None:
    """Memory and start of both."""
    row("interfaces", "zeros", "MiB resident", "peer", "ratio", "ms to the first scrape", "peer", "ratio")
    row(*["---"] * 8)
    for (count, zeros), sides in measured.items():
        memory = [median(side.resident) for side in sides]
        start = [median(side.start) for side in sides]
        row(count, zeros, *pair(memory), *pair(start))
    print()


def pair(figures: list[float]) -> tuple[str, str, str]:
    """Ours, the peer's, and the ratio."""
    ours, theirs = figures
    return f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"


def row(*cells: object) -> None:
    """A row of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
