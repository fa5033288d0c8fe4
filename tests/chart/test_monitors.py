"""What the chart's monitors make of a scrape, on a real Prometheus: labels, a rollout, and rules scraped by themselves.

The operator's part is written here: which labels it gives a target before the monitor's relabelings.
"""

import json
import re
import time
from urllib.parse import urlencode

import pytest
import yaml

from tests.chart.helm import ROOT, helm, one, refused, render
from tests.kernel.conftest import give_up
from tests.web.conftest import starting
from tests.web.prometheus import PROMETHEUS, prometheus


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return value


KINDS = {"podMonitor": ("PodMonitor", "podMetricsEndpoints"), "serviceMonitor": ("ServiceMonitor", "endpoints")}
META = "__meta_kubernetes"
SELF = re.compile(r"(calico_bpf_exporter|calico_bpf_dataplane|calico_bpf_source|process|python)_")


@pytest.fixture(scope="module", autouse=True)
def tools():
    if helm("version").returncode or not PROMETHEUS.exists():
        give_up("helm or Prometheus is not here: `make setup` as root brings them")


def monitor_of(kind, **values):
    """The spec of the chart's monitor, and its endpoints."""
    name, endpoints = KINDS[kind]
    spec = one(render({kind: {"enabled": True, "interval": "1s", **values}}), name)["spec"]
    return spec, spec[endpoints]


def target(kind, spec, port, pod):
    """What the operator's discovery says of an exporter, and the labels that it makes of that."""
    place = {"namespace": "monitoring", "pod_name": pod, "pod_container_name": "exporter", "pod_node_name": "n1"}
    what = "pod" if kind == "podMonitor" else "service"
    labels = {f"{what}_label_{sanitized(spec['jobLabel'])}": "calico-bpf-exporter", "service_name": "exporter"}
    meta = {f"{META}_{name}": value for name, value in {**place, **labels}.items()}
    return {"targets": [f"127.0.0.1:{port}"], "labels": meta}


def scrape(kind, spec, endpoint, file):
    what, *service = ("pod",) if kind == "podMonitor" else ("service", {"from": "service_name", "to": "service"})
    made = [
        {"from": "namespace", "to": "namespace"},
        {"from": "pod_container_name", "to": "container"},
        {"from": "pod_name", "to": "pod"},
        {"from": f"{what}_label_{sanitized(spec['jobLabel'])}", "to": "job"},
        *service,
    ]
    operators = [{"source_labels": [f"{META}_{each['from']}"], "target_label": each["to"]} for each in made]
    config = {
        "job_name": f"{kind}/{endpoint['interval']}",
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": "1s",
        "honor_labels": endpoint["honorLabels"],
        "metrics_path": endpoint["path"],
        "params": endpoint.get("params", {}),
        "file_sd_configs": [{"files": [str(file)], "refresh_interval": "1s"}],
        "relabel_configs": [*operators, {"target_label": "endpoint", "replacement": endpoint["port"]}],
    }
    config["relabel_configs"] += snake_case(endpoint["relabelings"])
    return {**config, "metric_relabel_configs": snake_case(endpoint.get("metricRelabelings", []))}


def sanitized(label):
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)


def snake_case(relabelings):
    return [{re.sub(r"[A-Z]", r"_\g<0>", key).lower(): value for key, value in each.items()} for each in relabelings]


class Case:
    """A monitor and an exporter that it scrapes; `rules` is whether its rules have an endpoint of their own."""

    def __init__(self, kind, rules, port, folder):
        self.kind, self.rules, self.port = kind, rules, port
        self.spec, self.endpoints = monitor_of(kind, **({"rulesInterval": "2s"} if rules else {}))
        self.file = folder / f"{kind}-{port}.json"

    def scrapes(self):
        configs = [scrape(self.kind, self.spec, endpoint, self.file) for endpoint in self.endpoints]
        return [{**config, "job_name": f"{config['job_name']}/{self.port}"} for config in configs]

    def runs_as(self, pod):
        self.file.write_text(json.dumps([target(self.kind, self.spec, self.port, pod)]))

    def of(self, series):
        """Those of its exporter, each as a set of labels and values."""
        return {frozenset(each.items()) for each in series if each["instance"] == f"127.0.0.1:{self.port}"}


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """The series of each monitor before a rollout of the exporter, and those that there were in all after it."""
    folder = tmp_path_factory.mktemp("monitors")
    everything = "series?" + urlencode({"match[]": '{__name__=~".+"}'})
    with starting(folder) as (run, _):
        cases = [Case(kind, rules, run().ports[0], folder) for kind in KINDS for rules in (False, True)]
        for case in cases:
            case.runs_as("exporter-a")
        with prometheus(folder, [config for case in cases for config in case.scrapes()]) as ask:

            def every_target_is(pod):
                """Whether every target is this pod and has been scraped twice as it."""
                targets = (ask("targets") or {"activeTargets": []})["activeTargets"]
                pods = [each["discoveredLabels"][f"{META}_pod_name"] for each in targets]
                return [pod] * 6 == pods and all(each["health"] == "up" for each in targets)

            assert until(lambda: every_target_is("exporter-a"), 60)
            time.sleep(3)
            before = ask(everything)
            for case in cases:
                case.runs_as("exporter-b")
            assert until(lambda: every_target_is("exporter-b"), 60)
            time.sleep(3)
            after = ask(everything)
    return {(case.kind, case.rules): (case.of(before), case.of(after)) for case in cases}


each_case = pytest.mark.parametrize(("kind", "rules"), [(kind, rules) for kind in KINDS for rules in (False, True)])


@each_case
def test_a_rollout_of_the_exporter_starts_no_series_over(scraped, kind, rules):
    before, after = scraped[kind, rules]
    assert len(before) > 100
    assert before == after


@each_case
def test_labels_of_a_pod_are_those_of_the_counted_pod_and_the_namespace_is_the_exporters_where_there_is_none(
    scraped, kind, rules
):
    series = [dict(each) for each in scraped[kind, rules][1]]
    assert {"n1"} == {each["node"] for each in series}
    assert {"calico-bpf-exporter"} == {each["job"] for each in series}
    assert not {"container", "endpoint"} & {label for each in series for label in each}
    assert {"client", "server", "plain", "open"} == {each["pod"] for each in series if "pod" in each}
    drops = [each for each in series if each["__name__"] == "calico_bpf_dropped_packets_total"]
    assert {("ns-b", "server"), (None, None)} <= {(each.get("namespace"), each.get("pod")) for each in drops}
    assert "monitoring" not in {each.get("namespace") for each in drops}
    for name in ("calico_bpf_map_entries", "calico_bpf_policy_rule_hits_total", "up"):
        assert {"monitoring"} == {each["namespace"] for each in series if each["__name__"] == name}


@pytest.mark.parametrize("kind", KINDS)
def test_rules_on_an_endpoint_of_their_own_are_there_once_and_without_self_metrics(scraped, kind):
    (_, whole), (_, split) = scraped[kind, False], scraped[kind, True]
    of_rules = [dict(each) for each in split if ("scrape", "rules") in each]
    rest = [dict(each) for each in split if ("scrape", "rules") not in each]
    names = {each["__name__"] for each in of_rules}
    assert {"calico_bpf_policy_rule_hits_total", "calico_bpf_policy_interfaces", "up"} <= names
    assert [] == sorted(name for name in names if SELF.match(name))
    collectors = {each["collector"] for each in of_rules if each["__name__"] == "calico_bpf_scrape_collector_success"}
    assert {"rules"} == collectors
    assert "calico_bpf_policy_rule_hits_total" not in {each["__name__"] for each in rest}
    assert any(SELF.match(each["__name__"]) for each in rest)
    # Nothing is lost and nothing is there twice, but what Prometheus says of each scrape.
    own = {"up", "scrape_duration_seconds", "scrape_samples_scraped", "scrape_series_added"}
    own |= {"scrape_samples_post_metric_relabeling"}

    def samples(series):
        left_out = ("instance", "scrape")
        rows = [sorted((key, value) for key, value in each.items() if key not in left_out) for each in series]
        return sorted(row for row in rows if dict(row)["__name__"] not in own)

    assert samples(map(dict, whole)) == samples(of_rules + rest)
    assert 2 == len([each for each in split if ("__name__", "up") in each])


@pytest.mark.parametrize("kind", KINDS)
def test_the_chart_does_what_the_page_about_metrics_says(kind):
    page = (ROOT / "docs" / "metrics.md").read_text().partition("## Scrape configuration")[2]
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    written = [*blocks[0]["podMetricsEndpoints"], *blocks[1]]
    _, endpoints = monitor_of(kind, rulesInterval="2m")
    for said, rendered in zip(written, endpoints, strict=True):
        assert said.items() <= rendered.items()
    assert {"exclude[]": ["rules"]} == endpoints[0]["params"]


CREDENTIALS = {"authorization": {"credentials": {"name": "scraper", "key": "token"}}}
PASSWORD = {"basicAuth": {"username": {"name": "a", "key": "u"}, "password": {"name": "a", "key": "p"}}}
TOKENS, USERS = {"kubernetes": {"authorization": True}}, {"webConfig": {"content": {"basic_auth_users": {"a": "b"}}}}

ALERTS = {"prometheusRule": {"enabled": True}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"podMonitor": {"enabled": True}, **TOKENS}, "podMonitor.authorization.credentials"),
        ({"podMonitor": {"enabled": True, **PASSWORD}, **TOKENS}, "podMonitor.authorization.credentials"),
        ({"serviceMonitor": {"enabled": True}, **TOKENS}, "serviceMonitor.bearerTokenFile"),
        ({"podMonitor": {"enabled": True, **CREDENTIALS}, **USERS}, "podMonitor.basicAuth"),
        ({"serviceMonitor": {"enabled": True}, **USERS}, "serviceMonitor.basicAuth"),
        (
            {"podMonitor": {"enabled": True, "rulesInterval": "1m", "params": {"collect[]": ["maps"]}}},
            "leave both out of podMonitor.params",
        ),
        ({"podMonitor": {"enabled": True, "rulesInterval": "1m"}, "collectors": {"rules": False}}, "collectors.rules"),
        ({"podMonitor": {"enabled": True, "rulesInterval": "2m1s"}}, "podMonitor.rulesInterval is 2m1s"),
        ({"serviceMonitor": {"enabled": True, "interval": "150s"}, **ALERTS}, "serviceMonitor.interval is 150s"),
        (
            {"podMonitor": {"enabled": True, "interval": "1h"}, **ALERTS},
            "which have two samples up to an interval of 2m",
        ),
    ],
)
def test_a_monitor_that_could_only_fail_is_refused_with_the_way_out(values, said):
    assert said in refused(values)


@pytest.mark.parametrize(
    "values",
    [
        {"podMonitor": {"enabled": True, "interval": "1m60s", "rulesInterval": "120000ms"}, **ALERTS},
        {"podMonitor": {"enabled": True, "interval": "5m"}},
        {"podMonitor": {"enabled": True, **CREDENTIALS}, **TOKENS},
        {"podMonitor": {"enabled": True, "scrapeClass": "a"}, **TOKENS},
        {"serviceMonitor": {"enabled": True, "bearerTokenFile": "/token"}, **TOKENS},
        {"serviceMonitor": {"enabled": True, **PASSWORD}, **USERS},
        # Of a Secret that exists nothing is known, and without a monitor nobody of the chart's scrapes.
        {"podMonitor": {"enabled": True}, "webConfig": {"existingSecret": "a"}, "probes": {"scheme": "https"}},
        {**TOKENS},
        {**USERS},
    ],
)
def test_a_monitor_with_credentials_is_taken(values):
    assert render(values)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_monitor_says_of_targets_and_scrapes_reaches_it(kind):
    more = {"scrapeClass": "internal", "podTargetLabels": ["team"], "params": {"exclude[]": ["maps"]}}
    spec, (endpoint,) = monitor_of(kind, **more)
    assert ("internal", ["team"]) == (spec["scrapeClass"], spec["podTargetLabels"])
    assert {"exclude[]": ["maps"]} == endpoint["params"]
    if kind == "serviceMonitor":
        assert "token" == monitor_of(kind, bearerTokenFile="token")[1][0]["bearerTokenFile"]
