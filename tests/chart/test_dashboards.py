"""The dashboards: the rules of grafana/dashboard-linter as laws, and every query asked of a real Prometheus.

That Prometheus scrapes a real exporter on the demo node, under traffic, with drops and broken endpoints.
"""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import combinations
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from exporter.calico.hooks import TC_EGRESS
from exporter.demo.namespace import enter_namespace
from exporter.demo.node import Node
from exporter.demo.plan import BLACKHOLE, CART, FRONTEND, PROBE
from exporter.demo.policy_files import policy_files
from exporter.metrics import conntrack, counters, endpoints, maps, nic, rules, self_metrics
from exporter.metrics.family import Family
from exporter.web import registry
from tests.chart.dashboards import DASHBOARDS, FOLDER, filled_in, links, panels, queries, used_variables, variables
from tests.chart.helm import ROOT
from tests.chart.typescript import Types
from tests.kernel.conftest import give_up, machine  # noqa: F401  a fixture for the one node here
from tests.kernel.machine import Serving, run
from tests.kernel.pinned import u32
from tests.node.pod_server import PodServer
from tests.web.authority import Authority

PROMETHEUS = ROOT / ".tools" / "bin" / "prometheus"
FAMILIES = {
    value.name
    for module in (conntrack, counters, endpoints, self_metrics, maps, nic, rules)
    for value in vars(module).values()
    if isinstance(value, Family)
} | {registry.REJECTED}
# Of Prometheus itself and of its client library: other jobs have them too.
COMMON = {"up", "scrape_duration_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"}
RULES = yaml.safe_load((FOLDER.parent / "rules" / "recording.yaml").read_text())["groups"]
RULES += yaml.safe_load((FOLDER.parent / "rules" / "alerts.yaml").read_text())["groups"]
RECORDS = {rule["record"]: rule["expr"] for group in RULES for rule in group["rules"] if "record" in rule}
# The raw counters that there are recordings of.
RECORDED = {family for expr in RECORDS.values() for family in re.findall(r"rate\((\w+)", expr)}
EXPORTERS = "cluster_job:calico_bpf_exporter_build_info:count"
QUERIES = queries()
each_dashboard = pytest.mark.parametrize("name", DASHBOARDS)
each_query = pytest.mark.parametrize("query", QUERIES, ids=str)
each_panel = pytest.mark.parametrize(
    ("name", "panel"),
    [(name, panel) for name in DASHBOARDS for panel in panels(name)],
    ids=lambda one: one if isinstance(one, str) else one["title"],
)
TEMPLATED = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"short", "pps", "cps", "s", "Bps", "bytes", "percentunit", "reqps", "bool_yes_no"}


def test_the_dashboards_are_those_that_alerts_link_to():
    expected = {name: f"calico-bpf-exporter-{name}" for name in ("overview", "pod", "node", "rules")}
    assert expected == {name: one["uid"] for name, one in DASHBOARDS.items()}


@each_dashboard
def test_a_dashboard_is_fixed_found_by_its_tag_and_leads_to_the_others(name):
    one = DASHBOARDS[name]
    assert (False, "utc", "1m", ["calico-bpf-exporter"]) == (
        one["editable"], one["timezone"], one["refresh"], one["tags"]
    )  # fmt: skip
    assert one["title"].startswith("Calico eBPF / ")
    assert one["schemaVersion"] >= 39
    (link,) = one["links"]
    assert ("dashboards", True, True, True) == (
        link["type"], link["asDropdown"], link["includeVars"], link["keepTime"]
    )  # fmt: skip
    assert one["tags"] == link["tags"]


@each_dashboard
def test_a_dashboard_is_written_as_a_person_reads_it(name):
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert json.dumps(DASHBOARDS[name], indent=2, ensure_ascii=False) + "\n" == text


# What Grafana's Prometheus data source reads of an annotation beside the common fields, as it does of a panel's target.
OF_PROMETHEUS = {"titleFormat", "textFormat", "tagKeys", "useValueForTime", "target"}


@each_dashboard
def test_grafanas_own_types_know_every_field(name):
    declared = ROOT / ".tools" / "definitions" / "dashboard.d.ts"
    if not declared.exists():
        give_up("the types of Grafana's dashboards are not here: `make setup` brings them")
    dashboard = json.loads(json.dumps(DASHBOARDS[name]))
    for one in dashboard["annotations"]["list"]:
        assert one.keys() >= OF_PROMETHEUS
        for field in OF_PROMETHEUS:
            del one[field]
    for one in dashboard["templating"]["list"]:
        one.pop("definition", None)  # what the query is shown as
    types = Types(declared.read_text(encoding="utf-8"))
    assert [] == types.problems(dashboard, "Dashboard")
    for broken in ({"panel": []}, {"editable": "no"}, {"schemaVersion": None}, {"links": [{"title": "a"}]}):
        assert types.problems({**dashboard, **broken}, "Dashboard")


@each_dashboard
def test_panels_lie_beside_each_other(name):
    everything = DASHBOARDS[name]["panels"]
    assert len(everything) == len({panel["id"] for panel in everything})
    places = [panel["gridPos"] for panel in everything]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = [one[at] + one[size] <= other[at] or other[at] + other[size] <= one[at] for at, size in ("xw", "yh")]
        assert any(apart), (one, other)


@each_dashboard
def test_variables_are_asked_of_the_chosen_source_again_when_the_time_changes(name):
    found = variables(name)
    source, job, cluster = found["datasource"], found["job"], found["cluster"]
    assert ("datasource", "prometheus", "Data source") == (source["type"], source["query"], source["label"])
    assert ("Job", True, True, ".+") == (job["label"], job["multi"], job["includeAll"], job["allValue"])
    assert (True, True, ".*") == (cluster["multi"], cluster["includeAll"], cluster["allValue"])
    asked = [one for one in found.values() if one["name"] != "datasource"]
    assert {("query", 2)} == {(one["type"], one["refresh"]) for one in asked}
    assert [TEMPLATED] * len(asked) == [one["datasource"] for one in asked]
    assert all(re.fullmatch(r"label_values\(calico_bpf_\w+(\{[^}]*\})?, \w+\)", one["query"]) for one in asked)


@each_dashboard
def test_every_variable_narrows_something_and_those_of_its_query_stand_before_it(name):
    known = ["datasource"]
    for variable in list(variables(name).values())[1:]:
        assert used_variables(variable["query"]) <= set(known)
        known.append(variable["name"])
    used = set().union(*(used_variables(query.expr) for query in QUERIES if query.dashboard == name))
    assert {*known} == {*used - {"__rate_interval", "__range"}, "datasource"}


def of(name, title):
    """The queries of a panel."""
    return [query for query in QUERIES if (name, title) == (query.dashboard, query.panel)]


@each_panel
def test_a_panel_says_what_it_shows_in_which_unit_and_what_nothing_means(name, panel):
    assert panel["title"]
    assert re.search(r"\.$", panel["description"])
    defaults = panel["fieldConfig"]["defaults"]
    overridden = [one for override in panel["fieldConfig"]["overrides"] for one in override["properties"]]
    assert {defaults["unit"], *(one["value"] for one in overridden if one["id"] == "unit")} <= UNITS
    assert defaults["noValue"]
    assert panel["targets"]
    assert [TEMPLATED] * len(panel["targets"]) == [target["datasource"] for target in panel["targets"]]
    assert TEMPLATED == panel["datasource"]


@each_query
def test_a_query_asks_for_families_that_there_are(query):
    assert query.selectors
    assert {one.metric for one in query.selectors} <= FAMILIES | COMMON | RECORDS.keys()
    assert query.bare_words <= {"and", "unless", "bool"}  # a metric without any matcher would be one


@each_query
def test_every_selector_has_the_chosen_jobs_clusters_and_nodes(query):
    node = 'node=~"$node"' if variables(query.dashboard)["node"]["multi"] else 'node="$node"'
    for one in query.selectors:
        wanted = {'job=~"$job"', 'cluster=~"$cluster"', node}
        if (one.function, one.metric) == ("present_over_time", EXPORTERS):
            wanted.remove(node)  # which jobs are this exporter's: a node that is down all day must not be left out
        assert wanted <= one.matchers


@each_query
def test_a_variable_of_one_value_is_matched_as_it_is_and_one_of_many_as_an_expression(query):
    found = variables(query.dashboard)
    for matcher in set().union(*(one.matchers for one in query.selectors)):
        for name in used_variables(matcher):
            assert matcher == (f'{name}=~"${name}"' if found[name]["multi"] else f'{name}="${name}"')


@each_query
def test_rates_are_read_from_recordings_and_other_counters_as_rates_or_increases(query):
    for one in query.selectors:
        if one.metric in RECORDS:
            steps = {("sum_over_time", "$__range"), ("max_over_time", "$__range"), ("present_over_time", "6h")}
            assert not one.range or (one.function, one.range.removesuffix(":2m")) in steps
            assert not one.range or one.range.endswith(":2m")
            if one.function == "sum_over_time":
                assert "[$__range:2m]) * 120" in query.expr  # rates every two minutes, as packets
        elif one.metric.endswith("_total"):
            if one.metric in RECORDED - {"calico_bpf_program_packets_total"}:
                # Recordings have no zeros: what has not moved are the raw series now, unless there is a recording.
                assert "" == one.range
                assert " unless " in query.expr
                continue
            allowed = {("rate", "$__rate_interval"), ("increase", "$__range"), ("increase", "$__rate_interval")}
            assert (one.function, one.range) in allowed
        else:
            assert not one.range


@each_query
def test_what_other_jobs_have_too_is_taken_of_this_exporters_jobs_alone(query):
    if {one.metric for one in query.selectors} & COMMON:
        assert f"and on (cluster, job) max by (cluster, job) (present_over_time({EXPORTERS}{{" in query.expr
    if "up" in {one.metric for one in query.selectors}:  # a node may have two targets, one of them for rules alone
        assert "min by (cluster, job, node, instance) (up{" in query.expr


@each_query
def test_no_query_claims_more_than_the_counters_say(query):
    asked = [one.metric for one in query.selectors]
    if "/" in query.expr:  # dropped or accepted of what came in is no share: packets and flows, and packets unseen
        assert ["calico_bpf_map_entries", "calico_bpf_map_max_entries"] == asked
    for one in query.selectors:
        if "calico_bpf_policy_rule_hits" in one.metric:  # packets where it denies, flows where it allows
            assert any(matcher.startswith("action=") for matcher in one.matchers) or "action" in query.kept
            assert not {"namespace", "pod", "interface"} & set().union(*query.groupings)
        rate = one.function == "rate" or (one.metric.endswith(":rate5m") and not one.range)
        if rate and "process" not in one.metric and "exporter" not in one.metric:
            flows = "flows" in one.metric or 'action="allow"' in one.matchers
            octets = "bytes" in one.metric
            assert ("cps" if flows else "Bps" if octets else "pps") == query.unit


def test_what_is_shown_of_a_pod_says_what_is_not_the_pods_alone():
    said = {panel["title"]: panel["description"] for panel in panels("pod")}
    for query in QUERIES:
        metrics = {one.metric for one in query.selectors}
        if query.dashboard == "pod" and any("calico_bpf_policy_rule_hits" in one for one in metrics):
            assert "other pods' packets are in it" in said[query.panel]
        if query.dashboard == "pod" and any(one.startswith("calico_bpf_interface_") for one in metrics):
            assert "off by default" in said[query.panel]
    for title, description in said.items():
        assert "drops by reason" not in title or "lower bound" in description
        assert "accepted" not in title or "not packets" in description


@each_panel
def test_a_link_leads_to_a_dashboard_with_what_that_one_asks_for(name, panel):
    columns = {label for query in of(name, panel["title"]) for label in query.kept}
    for column, link in links(panel):
        fields = set(re.findall(r"\$\{__(?:data\.fields|field\.labels)\.(\w+)\}", link["title"] + link["url"]))
        assert fields | {column} - {""} <= columns
        if link["url"].startswith("https://"):
            page = re.fullmatch(r"https://github\.com/[^#]*/blob/main/([^#]+)#\$\{.*\}", link["url"])[1]
            assert (ROOT / page).exists()
            continue
        assert re.match(r"/d/calico-bpf-exporter-(\w+)\?", link["url"])
        other = urlsplit(link["url"]).path.rpartition("-")[2]
        passed = {key.removeprefix("var-") for key, _ in parse_qsl(link["url"].partition("?")[2])}
        passed |= set(re.findall(r"\$\{(\w+):queryparam\}", link["url"]))
        assert {"datasource", "cluster", "job"} <= passed <= set(variables(other))
        assert "${__url_time_range}" in link["url"]


@each_panel
def test_legends_and_columns_are_of_labels_that_the_query_keeps(name, panel):
    for query, target in zip(of(name, panel["title"]), panel["targets"], strict=True):
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= query.kept
    for one in panel.get("transformations", ()):
        told = {*one["options"].get("indexByName", ()), *one["options"].get("excludeByName", ())}
        columns = {column for column in told if not column.startswith("Value") and column != "Time"}
        assert columns <= {label for query in of(name, panel["title"]) for label in query.kept}


@each_panel
def test_no_legend_is_empty(name, panel):
    """Rules of profiles have no tier, those of global policies no namespace, and before v3.32 profiles no name."""
    for target in panel["targets"]:
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        named = set(re.findall(r'"(\w+)", "[^"]+", "\1", ""\)', target["expr"]))
        assert not labels or labels - {"tier", "policy_namespace", "policy"} | labels & named


@pytest.mark.parametrize(
    ("name", "others"), [("overview", {"pod", "node", "rules"}), ("pod", {"node", "rules"}), ("node", {"pod", "rules"})]
)
def test_a_dashboard_leads_to_what_comes_next(name, others):
    to = {link["url"].partition("?")[0] for panel in panels(name) for _, link in links(panel)}
    assert {f"/d/calico-bpf-exporter-{other}" for other in others} <= to


@each_dashboard
def test_rollouts_and_alerts_are_marked_in_time(name):
    found = {one["name"]: one for one in DASHBOARDS[name]["annotations"]["list"]}
    assert {"Exporter rollouts", "Calico rollouts", "Alerts"} == found.keys()
    node = 'node=~"$node"' if variables(name)["node"]["multi"] else 'node="$node"'
    for one in found.values():
        assert TEMPLATED == one["datasource"]
        expr = one["target"]["expr"]
        assert used_variables(expr) <= variables(name).keys()
        assert one["name"] == "Alerts" or node in expr
        kept = set(re.search(r"by \(([^)]*)\)", expr)[1].split(", "))
        assert set(re.findall(r"\{\{(\w+)\}\}", one["titleFormat"] + one["textFormat"])) <= kept
        assert set(one["tagKeys"].split(",")) <= kept


def test_the_linters_rules_are_left_out_for_a_reason_and_only_for_the_instance():
    left_out = yaml.safe_load((FOLDER / ".lint").read_text(encoding="utf-8"))["exclusions"]
    assert {"template-instance-rule", "target-instance-rule"} == set(left_out)
    assert all(one["reason"].endswith(".") for one in left_out.values())


# --- asked of a real Prometheus

JOB, CLUSTER, NODE = "calico-bpf-exporter", "test", "demo"
LOST = replace(CART, namespace="ops", name="lost", number=9)  # everything is wrong with it
SECONDS = 13
SENDER = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    while True:
        for _ in range(20):
            sender.sendto(b"x", (sys.argv[1], 5000))
        time.sleep(0.001)
"""
ALL = {"namespace": ".*", "direction": ".*", "reason": ".+", "tier": ".*"}
RANGES = {"__rate_interval": "10s", "__range": "10s"}
CHOICES = {
    "all": {"job": ".+", "cluster": ".*", "node": ".*", "node=": NODE},
    "chosen": {"job": JOB, "cluster": CLUSTER, "node": NODE, "node=": NODE},
    "without the labels": {"job": "bare", "cluster": ".*", "node": ".*", "node=": ""},
}
PODS = (FRONTEND, LOST)
# What stands still there, so that its answer is 0: all else that counts must have moved.
STILL = {
    "calico_bpf_exporter_scrapes_rejected_total": "nobody is rejected",
    "calico_bpf_exporter_pod_watch_errors_total": "the API server answers",
    "calico_bpf_interface_drops_total": "the kernel drops nothing by itself",
    "calico_bpf_interface_errors_total": "a veth has no errors",
    "calico_bpf_no_profile_match_hits_total": "every pod has a profile",
}


def values_of(dashboard, choice, pod):
    """The values of the variables as Grafana would put them in: one of a single value has no All."""
    values = {**ALL, **RANGES, **CHOICES[choice]}
    single = {name for name, one in variables(dashboard).items() if not one["multi"]}
    values |= {"node": values["node="]} if "node" in single else {}
    return values | {"pod": pod.name} | ({"namespace": pod.namespace} if "namespace" in single else {})


def answer_of(expr, values):
    return shortened(filled_in(expr, values))


def shortened(expr):
    """A query of seconds, as many as the steps of minutes that a dashboard reads."""
    return expr.replace("[6h:2m]", "[1m:2s]").replace(":2m]) * 120", ":2s]) * 2").replace(":2m]", ":2s]")


class Asked:
    """The Prometheus inside the node's namespace; all is asked of the moment at which the traffic ended."""

    def __init__(self, node):
        self.inside, self.moment = ("ip", "netns", "exec", node.namespace), None

    def __call__(self, path, **question):
        words = [word for key, value in question.items() for word in ("--data-urlencode", f"{key}={value}")]
        done = run(*self.inside, "curl", "-s", "-G", *words, f"http://127.0.0.1:9090/api/v1/{path}", check=False)
        answer = json.loads(done.stdout or '{"status": "not up", "data": null}')
        assert answer["status"] in ("success", "not up"), answer
        return answer["data"]

    def query(self, expr):
        """The series of an answer: labels and value."""
        result = self("query", query=expr, time=self.moment)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]


@pytest.fixture(scope="module")
def prometheus(request, tmp_path_factory):
    request.getfixturevalue("machine")
    if not PROMETHEUS.exists():
        give_up("Prometheus is not here: `make setup` as root brings it")
    folder = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as cleanup:
        node = Node(f"g{os.getpid()}", folder / "demo")
        cleanup.callback(node.close)
        node.build()
        lose(node)
        cleanup.enter_context(sending(node, LOST))
        inside = ("ip", "netns", "exec", node.namespace)
        names = cleanup.enter_context(api_server(node, folder))
        where = (node.bpf.path, node.run_dir, folder / "serve.log")
        more = ["--collector.nic", "--collector.conntrack", "--collector.maps.interval=1", *names]
        serving = Serving(*where, prefix=inside, more=more)
        cleanup.callback(serving.end)
        cleanup.enter_context(running(inside, folder, serving.port))
        node.send_forever()
        ask = Asked(node)
        wait_under_traffic(node, ask)
        yield ask


def lose(node):
    """Adds a pod whose interface lacks the program for what it sends, counters, IPv6 programs and a policy file."""
    node.add_pod(LOST)
    run("tc", "-n", node.namespace, "filter", "delete", "dev", LOST.interface, "ingress")
    index = node.ifindex(LOST.interface)
    node.bpf.delete("tc/globals", "cali_counters6", u32(index, TC_EGRESS))
    node.bpf.write_interface(index, LOST.interface, 0x1 | 0x2)  # a workload, ready for IPv4
    (node.run_dir / "bpf" / "policy" / min(name for name in policy_files(LOST) if "v4" in name)).unlink()


@contextmanager
def sending(node, pod):
    """Meanwhile the pod sends 20 packets, which are enough to miss, each millisecond.

    The two jobs scrape one exporter each second, as close to each other as the port, part of what Prometheus spreads
    them by, makes it.
    """
    command = ["ip", "netns", "exec", node.pod_namespace(pod), sys.executable, "-c", SENDER, FRONTEND.ipv4]
    with subprocess.Popen(command) as sender:
        try:
            yield
        finally:
            sender.kill()


@contextmanager
def api_server(node, folder):
    """An API server in the node's namespace that knows no pods; the flags by which the exporter finds it."""
    with ThreadPoolExecutor(1, initializer=enter_namespace, initargs=(node.namespace,)) as thread:
        server = thread.submit(PodServer, Authority(folder)).result()
        try:
            yield ["--kubernetes.kubeconfig", server.kubeconfig(folder / "kubeconfig"), "--kubernetes.node", NODE]
        finally:
            server.over = True
            server.stop()


@contextmanager
def running(inside, folder, port):
    """Prometheus with the exporter as users scrape it, the exporter without labels of place, and a job of others."""
    place = {"cluster": CLUSTER, "node": NODE}
    exporter = {"targets": [f"127.0.0.1:{port}"]}
    scrapes = [
        {"job_name": JOB, "honor_labels": True, "static_configs": [{**exporter, "labels": place}]},
        {"job_name": "bare", "honor_labels": True, "static_configs": [exporter]},
        {"job_name": "other", "static_configs": [{"targets": ["127.0.0.1:9090", "127.0.0.1:9"], "labels": place}]},
    ]
    times = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    told = {"global": times, "scrape_configs": scrapes, "rule_files": [str(FOLDER.parent / "rules" / "*.yaml")]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(told), encoding="utf-8")
    words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command = [*inside, PROMETHEUS, *words, "--web.listen-address=127.0.0.1:9090"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def wait_under_traffic(node, ask):
    """Beside what its pods send: packets denied and let in on their way to one, and some for nowhere from outside."""
    outside = ("ip", "netns", "exec", f"{node.name}-world")
    deadline, began = time.monotonic() + 60, None
    while began is None or time.monotonic() < began + SECONDS:
        assert time.monotonic() < deadline, "Prometheus does not come up"
        node.send(PROBE, "udp", FRONTEND.ipv4, 7777, 3)
        node.send(PROBE, "ping", FRONTEND.ipv4, 0, 1)
        send = (sys.executable, "-m", "exporter.demo.packets", "send", "udp", BLACKHOLE, 443, 2)
        run(*outside, *send, cwd=ROOT)
        if began is None and ask("query", query="up == 1"):
            began = time.monotonic()
        time.sleep(0.3)
    ask.moment = time.time()


@pytest.mark.kernel
@pytest.mark.parametrize("choice", CHOICES)
@each_query
def test_every_query_has_an_answer(prometheus, query, choice):
    asked = [shortened(filled_in(query.expr, values_of(query.dashboard, choice, pod))) for pod in PODS]
    answers = [answer for expr in asked for answer in prometheus.query(expr)]
    assert answers
    counts = {one.metric for one in query.selectors if one.metric.endswith("_total")}
    if counts - set(STILL) and " unless " not in query.expr:
        assert any(value > 0 for _, value in answers)
    assert [] == [labels for labels, _ in answers if labels.get("job") == "other"]
    assert all(value == value and abs(value) != float("inf") for _, value in answers)  # noqa: PLR0124  no NaN


@pytest.mark.kernel
@pytest.mark.parametrize("choice", CHOICES)
@each_dashboard
def test_every_variable_has_values(prometheus, name, choice):
    values = values_of(name, choice, FRONTEND)
    for variable in list(variables(name).values())[1:]:
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()
        found = prometheus(f"label/{label}/values", **{"match[]": filled_in(selector, values)})
        absent = choice == "without the labels" and label in ("cluster", "node")
        assert absent or found, (variable["name"], selector)
        assert "other" not in found


@pytest.mark.kernel
def test_targets_of_other_jobs_are_not_counted_as_exporters_of_a_node(prometheus):
    def value(panel):
        ((_, found),) = prometheus.query(answer_of(of("overview", panel)[0].expr, values_of("overview", "all", LOST)))
        return found

    assert 2 == prometheus.query('count(up{job="other"})')[0][1]
    assert (2, 0) == (value("Nodes seen"), value("Nodes not seen"))  # one exporter, scraped by two jobs


@pytest.mark.kernel
def test_the_rules_beside_a_pod_are_those_that_can_have_denied_its_packets(prometheus):
    (query,) = of("pod", "Deny rules that moved within the time range")
    answers = prometheus.query(answer_of(query.expr, values_of("pod", "chosen", FRONTEND)))
    found = {(labels.get("policy", ""), labels["rule"], labels["direction"]) for labels, _ in answers}
    # Its own two, and the default tier's end, where others' packets went on the same node.
    own = {("security.gate", "0", "inbound"), ("security.gate", "0", "outbound")}
    assert own <= found <= own | {("", "end_of_tier", "inbound")}
    clean = prometheus.query(answer_of(query.expr, values_of("pod", "chosen", CART)))
    assert [] == [labels for labels, _ in clean if labels["direction"] == "outbound"]


@pytest.mark.kernel
def test_the_rules_without_a_hit_are_those_that_nothing_met(prometheus):
    (query,) = of("rules", "Rules without a hit")
    answers = prometheus.query(answer_of(query.expr, values_of("rules", "chosen", LOST)))
    found = {(labels["policy"], labels["rule"], labels["direction"]) for labels, _ in answers}
    assert ("audit.watch", "0", "inbound") in found  # tcp 23, which nobody sends
    assert not {("security.gate", "0", "inbound"), ("allow-db", "1", "inbound")} & found


@pytest.mark.kernel
def test_every_rule_is_evaluated_and_what_alerts_ask_for_is_said_of_the_lost_pod(prometheus):
    rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
    assert [] == [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"]
    empty = [rule["name"] for rule in rules if rule["type"] == "recording" and not prometheus.query(rule["name"])]
    # Every pod here accepts something in each direction in which it is denied.
    assert ["cluster_job_node_interface_namespace_pod_direction:calico_bpf_fully_denied_packets:rate5m"] == empty
    # Alerts demand minutes; tests/rules has those. Here it is what they are made of.
    for family in ("counters_missing", "policy_error", "not_ready", "uncounted_drops"):
        assert {LOST.name} == {labels["pod"] for labels, _ in prometheus.query(f"calico_bpf_endpoint_{family}")}
