"""Reads the dashboards of the chart: panels, queries, and what a query asks for, by the plain shape that they keep."""

import json
import re
from dataclasses import dataclass

from tests.chart.helm import CHART

FOLDER = CHART / "files" / "dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}

_SELECTOR = re.compile(r"(?:(\w+)\()?([a-z_][\w:]*)\{([^}]*)\}(?:\[([^\]]*)\])?")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)("[^"]*")')
_GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


@dataclass(frozen=True)
class Selector:
    """What a query selects: a metric, its matchers as written, its range if any, and the function around it if any."""

    metric: str
    matchers: frozenset[str]
    range: str
    function: str


@dataclass(frozen=True)
class Query:
    """A query of a panel."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    unit: str

    def __str__(self):
        return f"{self.dashboard}: {self.panel} {self.ref}"

    @property
    def selectors(self):
        return [_selector(*found) for found in _SELECTOR.findall(self.expr)]

    @property
    def groupings(self):
        """The labels of each `by` and `on`."""
        return [set(labels.split(", ")) for labels in _GROUPING.findall(self.expr)]

    @property
    def kept(self):
        """The labels of the answer: those of the first `by`, which is the outermost, and none without one."""
        return self.groupings[0] if self.groupings else set()

    @property
    def bare_words(self):
        """What is left of the query without selectors, groupings and strings, and is called by no bracket."""
        rest = re.sub(r'"[^"]*"', "", _GROUPING.sub("", _SELECTOR.sub("0", self.expr)))
        return set(re.findall(r"[a-z_]+\b(?! *\()", rest))


def _selector(function, metric, matchers, range_):
    return Selector(metric, frozenset("".join(one) for one in _MATCHER.findall(matchers)), range_, function)


def panels(name):
    """The panels of a dashboard that show something: all but the titles of rows."""
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


def queries():
    return [
        Query(name, panel["title"], target["refId"], target["expr"], panel["fieldConfig"]["defaults"]["unit"])
        for name in DASHBOARDS
        for panel in panels(name)
        for target in panel["targets"]
    ]


def variables(name):
    return {one["name"]: one for one in DASHBOARDS[name]["templating"]["list"]}


def used_variables(text):
    return set(_VARIABLE.findall(text))


def filled_in(text, values):
    """A query with the values of variables in their places."""
    return _VARIABLE.sub(lambda found: values[found[1]], text)


def links(panel):
    """The links of a panel's values, each with the column it is on, which is empty where it is on all."""
    defaults = [("", link) for link in panel["fieldConfig"]["defaults"].get("links", [])]
    return defaults + [
        (override["matcher"]["options"], link)
        for override in panel["fieldConfig"]["overrides"]
        for one in override["properties"]
        if one["id"] == "links"
        for link in one["value"]
    ]
