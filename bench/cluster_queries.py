"""What the chart's dashboards and rules ask of Prometheus, and how many samples each query reads there.

The samples are Prometheus' own statistics of a query. A refresh of a dashboard asks the queries of all its panels and
annotations, as Grafana does with the default time range and all values of each variable; the node's dashboard asks
about the first node, and the pod's about one pod.
"""

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "chart/files"
RANGE, STEP = 3 * 3600, 60
_MARGIN = 900  # of what is read back: the benchmark itself takes a while
_ALL = {"job": ".+", "cluster": ".*", "namespace": ".*", "direction": ".*", "reason": ".+", "tier": ".*"}
# Grafana's own: of the whole range, and four of the intervals that the queries name as the least.
_INTERVALS = {"__range": f"{RANGE}s", "__rate_interval": "4m"}
_SELECTOR = re.compile(r"([a-z_][\w:]*)(?:\{[^}]*\})?(?:\[(\w+)(:\w+)?\])?(?:\s+offset (\w+))?")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a panel, annotation or rule (`of`, `title`); over the time range, or at one instant."""

    of: str
    title: str
    expr: str
    instant: bool

    def reads(self) -> list[tuple[str, int, bool]]:
        """Each metric that it reads, how many seconds back, and whether all samples in a window at each step."""
        range_ = 0 if self.instant else RANGE
        return [
            (metric, range_ + _seconds(window) + _seconds(offset), bool(window and not inner))
            for metric, window, inner, offset in _SELECTOR.findall(self.expr)
        ]


def _seconds(duration: str) -> int:
    found = re.fullmatch(r"(\d+)([smh])", duration)
    return int(found[1]) * _SECONDS[found[2]] if found else 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a query reads: all samples, and the most at once; and the series and seconds of its answer."""

    query: Query
    samples: int
    peak: int
    series: int
    seconds: float


def dashboard_queries(name: str, chosen: dict[str, str]) -> list[Query]:
    """The queries of a dashboard with these values for variables of one value."""
    board = json.loads((CHART / f"dashboards/{name}.json").read_text(encoding="utf-8"))
    values = {"node": ".*", **_ALL, **_INTERVALS, **chosen}

    def query(title: str, target: dict[str, Any]) -> Query:
        filled = re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], target["expr"])
        return Query(name, title, filled, bool(target.get("instant")))

    panels = [query(panel["title"], one) for panel in board["panels"] for one in panel.get("targets", ())]
    marks = [query(f"annotation {one['name']}", one["target"]) for one in board["annotations"]["list"]]
    return panels + marks


def rule_queries() -> list[Query]:
    """The expressions of all rules that are on by default."""
    found = []
    for file in sorted((CHART / "rules").glob("*.yaml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                kind = "record" if "record" in rule else "alert"
                found.append(Query(kind, rule[kind], rule["expr"], instant=True))
    return found


class Asked:
    """A Prometheus on this port of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __call__(self, path: str, **question: object) -> Any:
        """The data of an answer of its API."""
        body = urllib.parse.urlencode(question).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/{path}", body, timeout=120) as answer:
            return json.load(answer)["data"]

    def vector(self, expr: str) -> list[tuple[dict[str, str], str]]:
        """Labels and value of each series of an answer at this moment."""
        return [(one["metric"], one["value"][1]) for one in self("query", query=expr)["result"]]

    def self_metric(self, metric: str) -> float:
        """The value of a metric about itself without labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return float(re.findall(rf"^{metric} (\S+)$", text, re.MULTILINE)[0])

    def cost(self, query: Query, at: float) -> Cost:
        """What the query reads at this moment, or over the time range that ends then."""
        begun = time.monotonic()
        when = {"time": at} if query.instant else {"start": at - RANGE, "end": at, "step": STEP}
        path = "query" if query.instant else "query_range"
        answer = self(path, query=query.expr, stats="all", **when)
        samples = answer["stats"]["samples"]
        read, peak = samples["totalQueryableSamples"], samples["peakSamples"]
        return Cost(query, read, peak, len(answer["result"]), time.monotonic() - begun)


def metric_histories(queries: Sequence[Query], least: int, fine: int, coarse: int) -> dict[str, tuple[int, int]]:
    """The metrics that are read more than `least` seconds back: seconds between samples, and how far back.

    A query that reads one sample at each step reads as many of a history that is no coarser than the step.
    """
    found: dict[str, tuple[int, int]] = {}
    for metric, back, window in (one for query in queries for one in query.reads()):
        step, deepest = found.get(metric, (coarse, 0))
        found[metric] = fine if window and back > least else step, max(back, deepest)
    return {metric: (step, back + _MARGIN) for metric, (step, back) in found.items() if back > least}
