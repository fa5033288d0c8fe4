"""What a panel of a dashboard shows: its queries' answers by a Prometheus as numbers, series or rows. Draws nothing."""

import json
import re
import time
import urllib.parse
import urllib.request

from tests.chart.dashboards import filled_in, variables

STEP = 15


class Prometheus:
    """A Prometheus at an address, asked about the seconds before now."""

    def __init__(self, address, seconds):
        self.address, self.seconds, self.end = address.rstrip("/"), seconds, time.time()

    def _ask(self, path, **question):
        address = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(question)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)["data"]["result"]

    def now(self, expr):
        """Each series' labels and value at the end of the time range."""
        found = self._ask("query", query=expr, time=self.end)
        return [(one["metric"], float(one["value"][1])) for one in found]

    def over_time(self, expr):
        """Each series' labels and its points within the time range."""
        found = self._ask("query_range", query=expr, start=self.end - self.seconds, end=self.end, step=STEP)
        return [(one["metric"], [(at, float(value)) for at, value in one["values"]]) for one in found]


def chosen(dashboard, node, pod, seconds):
    """The values of a dashboard's variables: All, where there is one, else this node and this pod (NAMESPACE/NAME)."""
    namespace, _, name = pod.partition("/")
    single = {"node": node, "namespace": namespace, "pod": name, "datasource": ""}
    values = {name: one["allValue"] if one["multi"] else single[name] for name, one in variables(dashboard).items()}
    return values | {"__range": f"{seconds}s", "__rate_interval": "1m"}


def shown(panel, values, prometheus):
    """What a panel shows: `stat` names and values, `timeseries` names and points, `table` columns and rows of text."""
    ask = prometheus.over_time if panel["type"] == "timeseries" else prometheus.now
    answers = [(target, ask(filled_in(target["expr"], values))) for target in panel["targets"]]
    return _table(panel, answers) if panel["type"] == "table" else _named(answers)


def _named(answers):
    return [
        (" ".join(_legend(target["legendFormat"], labels).split()) or "Value", value)
        for target, answer in answers
        for labels, value in answer
    ]


def _legend(written, labels):
    if written == "__auto":
        return ", ".join(labels.values())
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), written)


def _table(panel, answers):
    """The columns and rows after the panel's transformations, merge and organize, in the panel's order."""
    cells = []
    for target, answer in answers:
        column = f"Value #{target['refId']}" if len(answers) > 1 else "Value"
        for labels, value in answer:
            _merge(cells, {**labels, column: value}, column)
    (organize,) = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
    left_out = {column for column, out in organize["excludeByName"].items() if out}
    columns = sorted({column for row in cells for column in row} - left_out, key=organize["indexByName"].__getitem__)
    titles = [_override(panel, column, "displayName", column) for column in columns]
    for one in panel["options"].get("sortBy", ()):
        by = columns[titles.index(one["displayName"])] if one["displayName"] in titles else ""
        cells.sort(key=lambda row: (by in row, row.get(by, 0)), reverse=one["desc"])
    units = [_override(panel, column, "unit", panel["fieldConfig"]["defaults"]["unit"]) for column in columns]
    return titles, [[_cell(row.get(one, ""), unit) for one, unit in zip(columns, units, strict=True)] for row in cells]


def _merge(rows, new, column):
    """Adds to the row without this column that agrees in all that both have, else as a row of its own."""
    for row in rows:
        if column not in row and all(row[one] == new[one] for one in row.keys() & new.keys()):
            row.update(new)
            return
    rows.append(new)


def _override(panel, column, kind, default):
    """What an override of this column says of this property."""
    found = (
        one["value"]
        for override in panel["fieldConfig"]["overrides"]
        for one in override["properties"]
        if (column, kind) == (override["matcher"]["options"], one["id"])
    )
    return next(found, default)


def _cell(value, unit):
    return value if isinstance(value, str) else with_unit(value, unit)


def with_unit(value, unit):
    """A value as a dashboard writes it, with its unit's short sign."""
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s" and 0 < abs(value) < 1:
        return f"{value * 1000:.3g} ms"
    if unit in ("bytes", "Bps"):
        steps, base = ("B", "KiB", "MiB", "GiB"), 1024
    else:
        steps, base = ("", "k", "M", "G"), 1000
    power = sum(abs(value) >= base**power for power in (1, 2, 3))
    number = f"{value / base**power:.3g}"
    end = {"pps": "/s", "cps": "/s", "reqps": "/s", "Bps": "/s", "s": " s"}.get(unit, "")
    return number + (f" {steps[power]}" if base == 1024 else steps[power]) + end
