"""The pictures of the dashboards: a panel of each type, from answers in the shape of Prometheus' API."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.chart.answers import Prometheus, chosen, shown, with_unit
from tests.chart.dashboards import DASHBOARDS, panels, used_variables
from tests.chart.helm import ROOT

ANSWERS = {
    "query": {
        "calico_bpf_endpoint_problems": [
            ({"problem": "counters_missing"}, [1795787640, "0"]),
            ({"problem": "not_ready"}, [1795787640, "1"]),
        ],
        "calico_bpf_map_entries": [
            ({"map": "iface"}, [1795787640, "6"]),
            ({"map": "conntrack"}, [1795787640, "1235"]),
        ],
        "calico_bpf_map_max_entries": [({"map": "iface"}, [1795787640, "1000"])],
        "calico_bpf_map_info": [({"map": "iface", "pin": "cali_iface4"}, [1795787640, "1"])],
    },
    "query_range": {
        "cluster_job_node_namespace_direction_reason:calico_bpf_dropped_packets:rate5m": [
            ({"reason": "policy"}, [[1795787625, "1.1"], [1795787640, "1.16"]]),
            ({"reason": "too_short"}, [[1795787640, "0.19"]]),
        ],
    },
}


class Recorded(BaseHTTPRequestHandler):
    def do_GET(self):
        path = urlsplit(self.path)
        kind = path.path.removeprefix("/api/v1/")
        expr = parse_qs(path.query)["query"][0]
        assert not used_variables(expr)
        found = next((one for metric, one in ANSWERS[kind].items() if metric + "{" in expr), [])
        field = "values" if kind == "query_range" else "value"
        result = [{"metric": labels, field: value} for labels, value in found]
        body = json.dumps({"status": "success", "data": {"result": result}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def recorded():
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorded) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield Prometheus(f"http://127.0.0.1:{server.server_port}", 480)
        finally:
            server.shutdown()


def answer(name, title):
    (panel,) = [one for one in panels(name) if one["title"] == title]
    with recorded() as prometheus:
        return shown(panel, chosen(name, "demo", "data/db", 480), prometheus)


def test_a_stat_is_each_series_name_and_value():
    assert [("counters_missing", 0.0), ("not_ready", 1.0)] == answer("node", "Endpoint problems")


def test_a_graph_is_each_series_legend_and_points():
    expected = [("policy", [(1795787625, 1.1), (1795787640, 1.16)]), ("too_short", [(1795787640, 0.19)])]
    assert expected == answer("node", "Drop rate by reason")


def test_a_table_has_the_columns_in_their_order_and_the_rows_of_its_queries_merged():
    columns, rows = answer("node", "Maps")
    assert ["map", "pin", "entries", "fit"] == columns
    assert [["conntrack", "", "1.24k", ""], ["iface", "cali_iface4", "6", "1k"]] == rows  # the fullest first


def test_a_panel_without_an_answer_shows_nothing():
    assert ([], []) == answer("node", "Interfaces with drops")
    assert [] == answer("node", "Pods known")


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_of_a_dashboard_has_a_value(name):
    values = chosen(name, "demo", "data/db", 480)
    queries = [target["expr"] for panel in panels(name) for target in panel["targets"]]
    assert set().union(*map(used_variables, queries)) <= values.keys()
    assert "480s" == values["__range"]


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (1.1579, "pps", "1.16/s"), (65536, "short", "65.5k"), (0.006, "percentunit", "0.6%"), (1, "bool_yes_no", "Yes"),
        (48 * 1024**2, "bytes", "48 MiB"), (2048, "Bps", "2 KiB/s"), (0.00129, "s", "1.29 ms"), (90, "s", "90 s"),
        (0, "short", "0"),
    ],
)  # fmt: skip
def test_a_value_has_its_units_short_sign(value, unit, written):
    assert written == with_unit(value, unit)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_docs_show_the_picture_of_each_dashboard(name):
    picture = f"images/dashboard-{name}.png"
    assert f"]({picture})" in (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert 0 < (ROOT / "docs" / picture).stat().st_size < 90_000
