"""Made nodes of a cluster: what each exposes at a moment, served to Prometheus, and written as its history.

Every node exposes what `serve` exposed of one made node, under the names of other pods, interfaces, namespaces and
addresses, with counters that go on at rates of its own.
"""

import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import Process
from pathlib import Path

from cluster_node import GLOBAL, NAMESPACES, OF_NAMESPACE, PODS  # beside this file
from scrape import name_of, pod_of

from exporter.calico.names import workload_interface

JOB, INTERVAL = "calico-bpf-exporter", 15
FULL = 4 * 3600  # the history of the first node
# The only label of a target besides these that Prometheus keeps, where a sample has none of that name.
NAMESPACE = "calico-bpf-exporter"
_NAMES = re.compile(r'namespace-(\d+)|(deployment-\d+-\w+)-x(\d+)|cali[0-9a-f]{11}|"10\.65\.0\.(\d+)"')
_LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


@dataclass(frozen=True, slots=True)
class Series:
    """A series of a node: metric, labels as text, the value at the start, and how it goes on."""

    metric: str
    labels: str
    start: str
    rate: float
    phase: float

    def value(self, seconds: float) -> str:
        """Its value so many seconds after the start."""
        if self.metric.endswith("_total"):
            gone = self.rate * (seconds + 10 * math.sin(seconds / 11 + self.phase))
            return str(int(float(self.start) + gone)) if "." not in self.start else str(float(self.start) + gone)
        if "timestamp" in self.metric:
            return str(float(self.start) + seconds - seconds % 20)
        if self.metric.endswith("duration_seconds"):
            return repr(float(self.start) * (1 + 0.3 * math.sin(seconds * 7 + self.phase)))
        return self.start


class MadeNode:
    """Node number `number` of a cluster with so many policies."""

    def __init__(self, number: int, exposition: str, policies: int) -> None:
        self.name = f"node-{number}"
        self._spread = (policies - GLOBAL) // OF_NAMESPACE
        self._number = number
        self._interfaces = {name_of(index): self._interface(index) for index in range(PODS)}
        chance = random.Random(number)  # noqa: S311  the same at every run, and no secret
        self.series = [self._series(line, chance) for line in exposition.splitlines() if line[0] != "#"]

    def exposition(self, seconds: float) -> bytes:
        """What it answers to a scrape so many seconds after the start."""
        return "".join(f"{one.metric}{{{one.labels}}} {one.value(seconds)}\n" for one in self.series).encode()

    def stored(self, metric: str, labels: str) -> str:
        """A series as Prometheus stores it: with the labels of the target."""
        target = f'job="{JOB}",node="{self.name}",instance="{self.name}:10042"'
        target += "" if "namespace=" in f",{labels}".replace("policy_namespace=", "") else f',namespace="{NAMESPACE}"'
        return f"{metric}{{{labels + ',' if labels else ''}{target}}}"

    def _series(self, line: str, chance: random.Random) -> Series:
        metric, labels, start = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]
        rate = chance.uniform(0.5, 2) * math.sqrt(float(start)) / 10 if metric.endswith("_total") else 0
        return Series(metric, _NAMES.sub(self._renamed, labels or ""), start, rate, chance.uniform(0, 6))

    def _renamed(self, found: re.Match[str]) -> str:
        namespace, deployment, pod, host = found.groups()
        if namespace:
            return f"namespace-{self._namespace(int(namespace))}"
        if deployment:
            return f"{deployment}-x{int(pod) + PODS * self._number}"
        if host:
            return f'"10.{64 + self._number // 250}.{self._number % 250}.{host}"'
        return self._interfaces.get(found[0], found[0])

    def _namespace(self, number: int) -> int:
        return (number + NAMESPACES * self._number) % self._spread

    def _interface(self, index: int) -> str:
        namespace, pod = pod_of(index)
        owner = f"namespace-{self._namespace(int(namespace.rpartition('-')[2]))}"
        return workload_interface("cali", owner, f"{pod.rpartition('x')[0]}x{index + PODS * self._number}")


def serve_nodes(nodes: Sequence[MadeNode], port: int, started: float) -> Process:
    """Serves /NAME for each node, in a process of its own."""
    process = Process(target=_serve, args=({f"/{one.name}": one for one in nodes}, port, started), daemon=True)
    process.start()
    return process


def _serve(nodes: dict[str, MadeNode], port: int, started: float) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = nodes[self.path].exposition(time.time() - started)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 1000

    threading.stack_size(256 * 1024)
    Server(("127.0.0.1", port), Handler).serve_forever()


@dataclass(frozen=True, slots=True)
class History:
    """A series' history: its stored name, its value at a Unix time, seconds between its samples, and how far back."""

    stored: str
    value: Callable[[float], str]
    step: int
    back: int


def write_history(path: Path, series: Iterable[History], begin: int, end: int, now: int) -> int:
    """Writes samples from `begin` up to but without `end` as OpenMetrics; answers how many."""
    written = 0
    with path.open("w", encoding="ascii") as out:
        for one in series:
            first = max(begin, now - one.back)
            times = range(first - first % -one.step, end, one.step)
            out.writelines(f"{one.stored} {one.value(t)} {t}\n" for t in times)
            written += len(times)
        out.write("# EOF\n")
    return written


def raw_history(nodes: Sequence[MadeNode], read: dict[str, tuple[int, int]], started: float) -> Iterator[History]:
    """The metrics of `read`, with seconds between samples and how far back; of the first node, all at every scrape.

    With what Prometheus adds about a target, `up` and the duration of the scrape.
    """
    for node in nodes:
        added = [Series("up", "", "1", 0, 0), Series("scrape_duration_seconds", "", "0.02", 0, 0)]
        for one in added + node.series:
            step, back = read.get(one.metric, (0, 0))
            if node is nodes[0]:
                step, back = INTERVAL, max(back, FULL)
            if step:
                yield History(node.stored(one.metric, one.labels), _at(one, started), step, back)


def _at(series: Series, started: float) -> Callable[[float], str]:
    return lambda t: series.value(t - started)
