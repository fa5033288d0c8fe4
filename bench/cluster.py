"""What a cluster of made nodes costs a real Prometheus, printed as Markdown: `make bench-cluster`.

One node is made with real maps, policy files and an API server, and `serve` says what it exposes, with each setting.
From that, all nodes of the cluster are made, with other names and with counters that go on, and a Prometheus scrapes
them with the chart's rules. Meanwhile their history is written, and imported with promtool: six hours of what queries
read back that far, of one node all. Of recordings it is what the rules recorded, at every minute. Then every query of
the dashboards and rules is asked, with Prometheus' own statistics. All of it in a network namespace; needs root.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from cluster_fleet import (  # beside this file
    FULL,
    INTERVAL,
    JOB,
    NAMESPACE,
    History,
    MadeNode,
    raw_history,
    serve_nodes,
    write_history,
)
from cluster_node import PODS, cluster_node
from cluster_queries import CHART, RANGE, Asked, Cost, Query, dashboard_queries, metric_histories, rule_queries
from cluster_report import by_collector, print_report, print_settings, settings
from scrape import pod_of, resident

FIGURES = Path(__file__).parent / "cluster.json"
TOOLS = Path(__file__).parents[1] / ".tools/bin"
EVALUATION = 30
HOURS, BLOCK = 6, 7200
_NODES_PORT, _PORT = 9100, 9090
_MIN_SECONDS = 90  # until everything is recorded
_RECENT = 300  # seconds that are scraped, and of which no history is needed


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes, the moment at which their counters start, and that of the first scrape."""

    nodes: Sequence[MadeNode]
    started: float
    scraped: int


def main() -> None:
    """Prints the tables; with `--keep`, adds the figures to FIGURES, from which the page is tested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--policies", type=int, default=1000, help="of the whole cluster")
    parser.add_argument("--seconds", type=int, default=330, help="of scraping; rules read less of fewer than 330")
    parser.add_argument("--keep", action="store_true", help=f"keep the figures in bench/{FIGURES.name}")
    asked = parser.parse_args()
    begun = time.monotonic()
    with cluster_node() as node:
        exposition = node.exposition()
        of_settings = settings(node.exposition)
        print_settings(of_settings, PODS)
        now = int(time.time())
        nodes = [MadeNode(number, exposition, asked.policies) for number in range(asked.nodes)]
        with TemporaryDirectory(prefix="bench-cluster-") as folder:
            found = measured(
                Cluster(nodes, now - HOURS * 3600 - BLOCK, now), Path(folder), max(asked.seconds, _MIN_SECONDS)
            )
    found |= {"series_by_collector": by_collector(exposition), "nodes": asked.nodes, "policies": asked.policies}
    found |= {"benchmark_seconds": round(time.monotonic() - begun)}
    print_report(found)
    if asked.keep:
        keep(found, of_settings)


def keep(found: dict[str, object], of_settings: dict[str, int]) -> None:
    """Adds the figures of this size to the file."""
    kept = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {"sizes": {}}
    kept["settings"] = of_settings
    kept["sizes"][str(found["nodes"])] = {key: one for key, one in found.items() if key != "costs"}
    kept["sizes"] = dict(sorted(kept["sizes"].items(), key=lambda one: int(one[0])))
    FIGURES.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def measured(cluster: Cluster, folder: Path, seconds: int) -> dict[str, object]:
    """The figures of a Prometheus that scraped the cluster for so long."""
    queries = cluster_queries()
    ready = folder / "blocks"
    server = serve_nodes(cluster.nodes, _NODES_PORT, cluster.started)
    try:
        with prometheus(cluster, folder) as (ask, process):
            until = time.monotonic() + seconds
            read = metric_histories(of_all_nodes(queries), _RECENT, INTERVAL, 60)
            import_history(raw_history(cluster.nodes, read, cluster.started), cluster.scraped, ready)
            time.sleep(max(0.0, until - time.monotonic()))
            found = memory_of(ask, process)
            import_history(recorded_history(ask, read, cluster.nodes[0].name), cluster.scraped, ready)
            found |= add_blocks(ask, ready, folder / "data")
            found["sample_bytes"] = sample_bytes(cluster, folder)
            at = time.time()
            costs = [ask.cost(query, at) for query in queries]
            found |= figures_of(costs) | {"records": records(ask)}
    finally:
        server.kill()
    return found


def cluster_queries() -> list[Query]:
    """All queries, with the first node and one of its pods as the choice."""
    namespace, pod = pod_of(0)
    chosen = {"node": {"node": "node-0"}, "pod": {"namespace": namespace, "pod": pod}}
    boards = [dashboard_queries(name, chosen.get(name, {})) for name in ("overview", "node", "pod", "rules")]
    return [query for board in boards for query in board] + rule_queries()


def of_all_nodes(queries: Sequence[Query]) -> list[Query]:
    """Those that are not about one node or pod, of which there is a history of everything."""
    return [one for one in queries if one.of not in ("node", "pod")]


@contextmanager
def prometheus(cluster: Cluster, folder: Path) -> Iterator[tuple[Asked, int]]:
    """A Prometheus that scrapes the nodes and evaluates the chart's rules; its number as a process beside it."""
    targets = [
        {
            "targets": [f"127.0.0.1:{_NODES_PORT}"],
            "labels": {
                "node": one.name,
                "instance": f"{one.name}:10042",
                "namespace": NAMESPACE,
                "__metrics_path__": f"/{one.name}",
            },
        }
        for one in cluster.nodes
    ]
    config = {
        "global": {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{EVALUATION}s"},
        "rule_files": [str(CHART / "rules/*.yaml")],
        "scrape_configs": [{"job_name": JOB, "honor_labels": True, "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    where = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command = [TOOLS / "prometheus", *where, f"--web.listen-address=127.0.0.1:{_PORT}"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Asked(_PORT), process.pid
        finally:
            process.kill()


def import_history(series: Iterator[History], end: int, ready: Path) -> None:
    """Makes blocks of the history before `end` in `ready`; each of two hours, as Prometheus' own."""
    ready.mkdir(exist_ok=True)
    every = list(series)
    begin = end - max(one.back for one in every)
    edges = [begin, *range(begin - begin % -BLOCK, end, BLOCK), end]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda edge: _import(every, edge, end, ready), pairwise(edges)))


def _import(series: Sequence[History], edge: tuple[int, int], now: int, ready: Path) -> None:
    with TemporaryDirectory(dir=ready.parent) as name:
        text, made = Path(name) / "history", Path(name) / "blocks"
        if edge[0] < edge[1] and write_history(text, series, *edge, now):
            create_blocks(text, made)
            for block in made.iterdir():
                shutil.move(block, ready / block.name)


def create_blocks(text: Path, made: Path) -> None:
    """Makes blocks in `made` with promtool."""
    command = [TOOLS / "promtool", "tsdb", "create-blocks-from", "openmetrics", text, made]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"promtool did not import the history: {done.stdout}{done.stderr}")


def memory_of(ask: Asked, process: int) -> dict[str, object]:
    """What Prometheus takes after scraping, before it has a history."""
    scraped = sum(int(value) for _, value in ask.vector(f'scrape_samples_scraped{{job="{JOB}"}}'))
    down = len(ask.vector("up == 0"))
    if down:
        sys.exit(f"{down} of the made nodes are not scraped in time: this machine is too busy")
    return {
        "resident_mib": round(resident(process)),
        "heap_mib": round(ask.self_metric("go_memstats_heap_inuse_bytes") / 2**20),
        "head_series": int(ask.self_metric("prometheus_tsdb_head_series")),
        "samples_per_scrape": scraped,
        "samples_per_second": round(scraped / INTERVAL),
    }


def recorded_history(ask: Asked, read: dict[str, tuple[int, int]], first: str) -> Iterator[History]:
    """What the rules record now, as long as it is read back; of the first node everything."""
    for labels, value in ask.vector('{__name__=~".+:.+"}'):
        metric = labels.pop("__name__")
        step, back = read.get(metric, (0, 0))
        if labels.get("node") == first:
            step, back = EVALUATION, max(back, FULL)
        if step:
            text = ",".join(f'{key}="{one}"' for key, one in labels.items())
            yield History(f"{metric}{{{text}}}", partial(_constant, value), step, back)


def _constant(value: str, _: float) -> str:
    return value


def add_blocks(ask: Asked, ready: Path, data: Path) -> dict[str, object]:
    """Gives Prometheus the blocks, and waits until it has read them: it does that every minute."""
    reloads = "prometheus_tsdb_reloads_total"
    blocks = list(ready.iterdir())
    stats = [json.loads((block / "meta.json").read_text(encoding="utf-8"))["stats"] for block in blocks]
    for block in blocks:
        shutil.move(block, data / block.name)
    before, deadline = ask.self_metric(reloads), time.monotonic() + 180
    while ask.self_metric(reloads) == before:
        if time.monotonic() > deadline:
            sys.exit("Prometheus does not read the blocks of the history")
        time.sleep(1)
    return {"history_samples": sum(one["numSamples"] for one in stats)}


def sample_bytes(cluster: Cluster, folder: Path) -> float:
    """Bytes on disk of a sample with its share of the index: a block of two hours of one node, every scrape."""
    text, made = folder / "one-node", folder / "one-node-blocks"
    end = cluster.scraped - cluster.scraped % BLOCK
    write_history(text, raw_history(cluster.nodes[:1], {}, cluster.started), end - BLOCK, end, end)
    create_blocks(text, made)
    (block,) = made.iterdir()
    samples = json.loads((block / "meta.json").read_text(encoding="utf-8"))["stats"]["numSamples"]
    size = sum(path.stat().st_size for path in [block / "index", *(block / "chunks").iterdir()])
    return round(size / samples, 2)


def figures_of(costs: Sequence[Cost]) -> dict[str, object]:
    """The samples of each dashboard's refresh and of each rule's evaluation."""
    groups: dict[str, dict[str, int]] = {}
    for one in costs:
        titles = groups.setdefault(one.query.of, {})
        titles[one.query.title] = titles.get(one.query.title, 0) + one.samples
    return {
        "read": groups,
        "refresh": {name: sum(titles.values()) for name, titles in groups.items()},
        "peak": max(one.peak for one in costs),
        "slowest_seconds": round(max(one.seconds for one in costs), 2),
        "costs": costs,
        "range_seconds": RANGE,
    }


def records(ask: Asked) -> dict[str, int]:
    """The series of each recording; exits where one is zero."""
    zeros = ask.vector('{__name__=~".+:.+"} == 0')
    if zeros:
        sys.exit(f"a recording is zero: {zeros[0]}")
    counted = ask.vector('count by (record) (label_replace({__name__=~".+:.+"}, "record", "$1", "__name__", "(.+)"))')
    return {labels["record"]: int(value) for labels, value in counted}


if __name__ == "__main__":
    main()
