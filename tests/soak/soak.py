"""A soak: two servers on a demo node that changes all the time, four scrapers, and the invariants.

Both processes stay flat (`flat.py`); scrapes fail only because of injected faults; every count of every pod equals what
was sent (`node_changes.py`). One server is plain, the other has TLS and users; both use the API server.
"""

import math
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from exporter.demo.namespace import enter_namespace
from tests.kernel.machine import Serving
from tests.soak.changing_demo import ChangingNode
from tests.soak.flat import Sample, growth, measure, table
from tests.soak.ledger import PACKETS
from tests.soak.node_changes import NodeChanges
from tests.soak.restarting_api_server import Cluster
from tests.soak.scrapers import Faults, Scraper, Server
from tests.soak.web_config import WebConfig
from tests.web.authority import Authority

_INTERVALS = (1.0, 0.3)
_SAMPLES = 160


@dataclass
class Report:
    """What a soak found: `problems` is empty if every invariant held, `lines` are for people."""

    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


class Sampler(threading.Thread):
    """Measures processes periodically."""

    def __init__(self, processes: dict[str, psutil.Process], interval: float):
        super().__init__(daemon=True)
        self.samples: dict[str, list[Sample]] = {name: [] for name in processes}
        self._processes, self._interval = processes, interval
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._interval):
            for name, process in self._processes.items():
                self.samples[name].append(measure(process))

    def end(self) -> None:
        self._over.set()
        self.join()


def soak(seconds: float, *, warm_up: float, seed: int = 1, program: Sequence[object] = ()) -> Report:
    """Does everything once, goes on for `warm_up` seconds, and then for `seconds` in which the processes are watched.

    Needs root. `program` are other words than those of the installed program.
    """
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        node = ChangingNode(f"soak{os.getpid()}", folder / "demo")
        ends.callback(node.close)
        node.build()
        authority = Authority(folder)
        inside = ends.enter_context(ThreadPoolExecutor(1, initializer=enter_namespace, initargs=(node.namespace,)))
        cluster = inside.submit(Cluster, authority).result()
        ends.callback(cluster.end)
        web = WebConfig(folder, Authority(folder, "web"))
        servers = _serve(node, cluster, web, folder, program, ends)
        faults = Faults()
        changes = NodeChanges(node, cluster, web, servers, faults, inside, seed)
        ends.callback(changes.traffic.close)
        scrapers = [
            Scraper(node.namespace, server, interval, faults, keep=interval == _INTERVALS[0])
            for server in servers
            for interval in _INTERVALS
        ]
        for scraper in scrapers:
            scraper.start()
            ends.callback(scraper.end)
        changes.round(math.inf)  # from then on, everything that an act allocates once is allocated
        run_rounds(changes, time.monotonic() + warm_up)
        sampler = Sampler({one.name: psutil.Process(one.process.pid) for one in servers}, min(1.0, seconds / _SAMPLES))
        sampler.start()
        ends.callback(sampler.end)
        run_rounds(changes, time.monotonic() + seconds)
        sampler.end()
        if not changes.problems:
            changes.finish()
        for scraper in scrapers:
            scraper.end()
        return _report(changes, scrapers, sampler)


def run_rounds(changes: NodeChanges, until: float) -> None:
    """Rounds of acts until it is time or something is wrong: every comparison would report a wrong count again."""
    while time.monotonic() < until and not changes.problems:
        changes.round(until)


def _serve(node, cluster, web, folder, program, ends) -> list[Server]:
    names = ("--kubernetes.kubeconfig", cluster.kubeconfig(folder / "kubeconfig"), "--kubernetes.node", "node-1")
    inside = ("ip", "netns", "exec", node.namespace)
    servers = []
    for name, more in (("plain", ()), ("TLS and users", ("--web.config.file", web.path))):
        log = folder / f"{len(servers)}.log"
        words = (*names, *more)
        serving = Serving(node.bpf.path, node.run_dir, log, prefix=inside, more=words, program=program)
        ends.callback(serving.end)
        servers.append(Server(name, serving.process, serving.port, web.authority if more else None))
    return servers


def _report(changes: NodeChanges, scrapers, sampler) -> Report:
    report = Report(problems=list(changes.problems))
    for name, samples in sampler.samples.items():
        report.problems += [f"{name}: {one}" for one in growth(samples)]
    report.lines += [*table(sampler.samples), "", *_scrapes(scrapers), "", *_acts(changes), "", *_totals(changes)]
    for scraper in scrapers:
        if not scraper.made:
            report.problems.append(f"{scraper.server.name}: no scrape was made")
        who = f"{scraper.server.name}, each {scraper.interval:g} s"
        report.problems += [f"{who}: {count} scrapes: {why}" for why, count in scraper.failures.items()]
    return report


def _scrapes(scrapers):
    yield "| scraper | scrapes | connected again | a collector failed of an injected fault | failed otherwise |"
    yield "|---|---|---|---|---|"
    for one in scrapers:
        why = "; ".join(f"{count} {what}" for what, count in one.injected.most_common())
        who = f"{one.server.name}, each {one.interval:g} s"
        yield f"| {who} | {one.made} | {one.reconnected} | {why or 'none'} | {sum(one.failures.values())} |"


def _acts(changes: NodeChanges):
    cluster = changes.cluster
    asked = {"lists of pods": cluster.lists, "watches": cluster.watches, "watches refused with 410": cluster.refused}
    yield "| what happened | times |"
    yield "|---|---|"
    for what, count in [*sorted(changes.acts.items()), *asked.items()]:
        yield f"| {what} | {count} |"


def _totals(changes: NodeChanges):
    sent, counted = changes.ledger.closed["sent"], changes.ledger.closed["counted"]
    yield "| what | sent | counted |"
    yield "|---|---|---|"
    for direction, count in sorted(sent.keys() | counted.keys()):
        own = " (beside the links' own)" if count == PACKETS else ""
        what = " ".join(filter(None, (direction, *count)))
        yield f"| {what}{own} | {sent[direction, count]} | {counted[direction, count]} |"
