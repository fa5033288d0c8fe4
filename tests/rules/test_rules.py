"""The rules that the chart ships: promtool's own cases, and that alerts, cases, values and pages belong together."""

import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import click
import pytest
import yaml

from exporter.calico.map_kinds import EVICTED_BY_DESIGN, SETTINGS, filling_maps
from exporter.cli.main import program as exporter
from exporter.kubectl.plugin import program as plugin
from exporter.metrics import counters, endpoints, maps, nic, rules, self_metrics
from exporter.metrics.family import Family
from exporter.web import registry
from tests.chart.helm import CHART, ROOT, helm, one, refused, render
from tests.kernel.conftest import give_up
from tests.rules import fleet, test_situations

PROMTOOL = ROOT / ".tools" / "bin" / "promtool"
HERE = Path(__file__).parent
FILES = {
    "recording": CHART / "files" / "rules" / "recording.yaml",
    "alerts": CHART / "files" / "rules" / "alerts.yaml",
    "optional": CHART / "files" / "optional" / "alerts.yaml",
}
RUNBOOKS = ROOT / "docs" / "runbooks"


def rules_of(groups):
    return [rule for group in groups for rule in group["rules"]]


GROUPS = {name: yaml.safe_load(file.read_text())["groups"] for name, file in FILES.items()}
RULES = [rule for name in FILES for rule in rules_of(GROUPS[name])]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDS = [rule for rule in RULES if "record" in rule]
OPTIONAL = sorted({rule["alert"] for rule in rules_of(GROUPS["optional"])})
NAMES = sorted({rule["alert"] for rule in ALERTS})
CASES = yaml.safe_load((HERE / "alerts-test.yaml").read_text())["tests"]
FAMILIES = {
    value.name
    for module in (counters, endpoints, self_metrics, maps, nic, rules)
    for value in vars(module).values()
    if isinstance(value, Family)
} | {registry.RELOADED}


@pytest.fixture(scope="module", autouse=True)
def promtool():
    if not PROMTOOL.exists():
        give_up("promtool is not here: `make setup` brings it")


def promtool_says(*words):
    done = subprocess.run([PROMTOOL, *map(str, words)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES)
def test_prometheus_takes_the_file_as_it_stands(name):
    code, said = promtool_says("check", "rules", "--lint-fatal", FILES[name])
    assert 0 == code, said


@pytest.mark.parametrize("file", sorted(HERE.glob("*-test.yaml")), ids=lambda file: file.stem)
def test_every_case_of_promtool_holds(file):
    code, said = promtool_says("test", "rules", file)
    assert 0 == code, said


def test_every_alert_has_a_case_in_which_it_is_quiet_and_one_in_which_it_fires():
    fires, quiet = Counter(), Counter()
    for case in CASES:
        for check in case["alert_rule_test"]:
            for alert in check.get("exp_alerts", ()):
                fires[check["alertname"], alert["exp_labels"]["severity"]] += 1
            quiet[check["alertname"]] += not check.get("exp_alerts")
    assert {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS} == set(fires)
    assert set(NAMES) == set(+quiet)


def test_every_alert_is_in_the_situations():
    alerts = {(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS}
    assert alerts == fleet.FIRING | set(test_situations.OF_EXPORTERS)


def test_every_record_has_a_case():
    text = (HERE / "recording-test.yaml").read_text()
    assert [] == [rule["record"] for rule in RECORDS if f"expr: {rule['record']}\n" not in text]


@pytest.mark.parametrize("rule", [*ALERTS, *RECORDS], ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_families_that_there_are_and_keeps_the_cluster(rule):
    asked = set(re.findall(r"(?<![:\w])calico_bpf_\w+", rule["expr"]))
    assert asked <= FAMILIES
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
    assert [] == [labels for labels in grouped if "cluster" != labels.split(", ")[0]]


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule["record"])
def test_the_name_of_a_record_says_which_labels_are_left(rule):
    labels, _, operation = rule["record"].split(":")
    assert rule["expr"].startswith(("sum by (", "max by (", "count by ("))
    assert labels == re.search(r"by \(([^)]*)\)", rule["expr"])[1].replace(", ", "_")
    rate = "[5m]" in rule["expr"] or ":rate5m" in rule["expr"]
    assert ("rate5m" if rate else "count" if rule["expr"].startswith("count") else "ratio") == operation


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule["record"])
def test_a_record_holds_nothing_that_is_zero(rule):
    made_of_records = re.search(r"\(\s+cluster_\w+:\w+:rate5m\s+\)", rule["expr"])
    assert "> 0" in rule["expr"] or made_of_records


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_what_where_and_where_to_read_on(rule):
    said = rule["annotations"]
    assert re.fullmatch(r"[A-Z].*\.", said["summary"])
    assert "{{" not in said["summary"]  # the same for all that are grouped together
    assert said["runbook_url"].endswith(f"/docs/runbooks/{rule['alert']}.md")
    assert re.match(r"/d/calico-bpf-exporter-(overview|pod|node|rules)(\?|$)", said["dashboard_url"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["for"]
    if "policy" in rule["expr"] and "dropped" in rule["expr"]:
        assert "critical" != rule["labels"]["severity"]  # drops by policy are what policy is for


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_is_of_a_namespace_or_a_cluster_and_says_how_many(rule):
    if rule["alert"] in ("CalicoBPFExporterDown", "CalicoBPFManyExportersDown"):
        return  # of one node, of a share of them, or of nothing
    left = re.match(r"count by \(([^)]*)\) \(", rule["expr"])[1].split(", ")
    assert not {"node", "instance", "interface", "pod"} & set(left)
    text = rule["annotations"]["description"] + rule["annotations"]["dashboard_url"]
    assert {"$value", *(f"$labels.{label}" for label in left if label != "cluster")} <= set(
        re.findall(r"\$value|\$labels\.\w+", text)
    )


def test_each_alert_has_a_runbook_and_each_runbook_an_alert():
    assert sorted(page.stem for page in RUNBOOKS.glob("Calico*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_has_its_four_parts_and_a_command_of_this_project(name):
    text = (RUNBOOKS / f"{name}.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert [f"# {name}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"] == titles
    diagnosis = text.partition("## Diagnosis")[2].partition("## Mitigation")[0]
    assert re.search(r"calico-bpf-exporter|calico-bpf |kubectl", diagnosis)
    parts = re.split(r"^#+ .*$", text, flags=re.MULTILINE)[1:]
    assert all(len(part.split()) > 10 for part in parts[1:])


def commands(text):
    """The words of each command of this project in the code blocks of a page, comments and pipes apart."""
    for block in re.findall(r"```\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(re.split(r"\s#\s|\s\|\s", line)[0])
            if words[:2] == ["kubectl", "calico-bpf"]:
                yield plugin, words[2:]
            elif "calico-bpf-exporter" in words and words[words.index("calico-bpf-exporter") - 1] == "--":
                yield exporter, words[words.index("--") + 2 :]


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_commands_that_there_are(page):
    for program, (name, *words) in commands(page.read_text()):
        whole = click.Context(program, **program.context_settings)
        program.get_command(whole, name).make_context(name, words, parent=whole)  # raises what the program would say


def test_the_table_of_alerts_is_of_the_alerts():
    table = {}
    for line in (RUNBOOKS / "README.md").read_text().splitlines():
        if line.startswith("| ["):
            link, severity, waits, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
            table[re.search(r"\[(\w+)\]\(\1\.md\)", link)[1]] = (severity, waits)
    expected = {
        name: (
            ", ".join(rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == name),
            ", ".join(rule["for"] for rule in ALERTS if rule["alert"] == name),
        )
        for name in NAMES
    }
    assert expected == table


def rendered(**values):
    objects = render({"prometheusRule": {"enabled": True, **values}})
    return one(objects, "PrometheusRule")["spec"]["groups"]


def test_the_chart_ships_the_very_files():
    def meant(rule):
        return {**rule, "expr": re.sub(r"  # threshold: \w+", "", rule["expr"])}  # for the chart alone

    groups = [group for name in FILES for group in GROUPS[name]]
    shipped = [{**group, "rules": [meant(rule) for rule in group["rules"]]} for group in groups]
    assert shipped == rendered(optional=OPTIONAL)
    assert [group for group in shipped if group["name"] != "calico-bpf-optional"] == rendered()


def by_name(groups):
    return {(rule["alert"], rule["labels"]["severity"]): rule for rule in rules_of(groups) if "alert" in rule}


def test_each_threshold_is_a_value_of_the_chart_and_moves_one_alert():
    marked = re.findall(r"  # threshold: (\w+)", "".join(FILES[name].read_text() for name in ("alerts", "optional")))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["prometheusRule"]["thresholds"]
    assert set(defaults) == set(marked)
    usual = by_name(rendered(optional=OPTIONAL))
    for name in defaults:
        moved = by_name(rendered(optional=OPTIONAL, thresholds={name: 0.125}))
        changed = [alert for alert in usual if usual[alert]["expr"] != moved[alert]["expr"]]
        # The alert about one exporter leaves out what the one about many says.
        assert 1 + (name == "exportersDownRatio") == len(changed)
        assert marked.count(name) == sum(rule["expr"].count("0.125") for rule in moved.values())


# A pinned name of each map that can fill.
PINNED = [
    *(f"cali_v4_{name}" for name in ("ct4", "ccq2", "nat_fe3", "nat_be", "nat_aff", "srmsg", "ct_nats", "mglv2")),
    *(f"cali_v4_{name}" for name in ("routes", "ip_sets", "sprefix", "fsafes2", "arp2", "frags2", "frgfwd3")),
    *("cali_qos", "cali_qos_conn"),
]


def test_only_maps_that_eviction_keeps_small_are_left_out_of_the_alert_about_full_ones():
    exprs = [rule["expr"] for rule in ALERTS if rule["alert"] == "CalicoBPFMapNearFull"]
    left_out = [set(re.search(r'map!~"([^"]+)"', expr)[1].split("|")) for expr in exprs]
    assert [EVICTED_BY_DESIGN, {*EVICTED_BY_DESIGN, "rules"}] == left_out
    runbook = (RUNBOOKS / "CalicoBPFMapNearFull.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", runbook))
    kinds = {pin.map for versions in filling_maps(tuple(PINNED)) for pin in versions}
    assert len(PINNED) == len(kinds)
    settings = {word for setting in SETTINGS.values() for word in setting.split(" or ") if word}
    assert (kinds | settings - {"bpfMapSizeNATAffinity"}) - named == set()


def test_alerts_can_be_left_out_relabelled_and_linked_elsewhere(tmp_path):
    groups = rendered(
        disabled=["CalicoBPFMapNearFull", "CalicoBPFExporterDown"],
        additionalRuleLabels={"team": "network", "severity": "page"},
        runbookUrl="https://runbooks.example/",
        grafanaUrl="https://grafana.example",
        job="other",
    )
    alerts = [rule for rule in rules_of(groups) if "alert" in rule]
    left_out = {"CalicoBPFMapNearFull", "CalicoBPFExporterDown", *OPTIONAL}
    assert set(NAMES) - left_out == {rule["alert"] for rule in alerts}
    assert {("network", "page")} == {(rule["labels"]["team"], rule["labels"]["severity"]) for rule in alerts}
    for rule in alerts:
        assert f"https://runbooks.example/{rule['alert']}.md" == rule["annotations"]["runbook_url"]
        assert rule["annotations"]["dashboard_url"].startswith("https://grafana.example/d/")
    assert [] == [rule for rule in rules_of(groups) if "labels" in rule and "record" in rule]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    code, said = promtool_says("check", "rules", tmp_path / "rules.yaml")
    assert 0 == code, said


def test_an_alert_may_wait_otherwise_and_be_of_another_severity():
    alerts = {
        "CalicoBPFMapNearFull": {"critical": {"for": "1m", "severity": "page"}},
        "CalicoBPFExporterDown": {"critical": {"keepFiringFor": "7m"}},
    }
    usual = by_name(rendered(additionalRuleLabels={"severity": "ticket", "team": "network"}))
    assert {"ticket"} == {severity for _, severity in usual}
    changed = {}
    for rule in rules_of(rendered(alerts=alerts, additionalRuleLabels={"team": "network"})):
        if "alert" in rule and rule["alert"] in alerts:
            labels = rule["labels"]
            assert "network" == labels["team"]
            changed[rule["alert"], labels["severity"]] = rule["for"], rule.get("keep_firing_for")
    assert changed == {
        ("CalicoBPFMapNearFull", "warning"): ("15m", "15m"),
        ("CalicoBPFMapNearFull", "page"): ("1m", "15m"),
        ("CalicoBPFExporterDown", "warning"): ("25m", "15m"),
        ("CalicoBPFExporterDown", "critical"): ("15m", "7m"),
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"disabled": ["CalicoBPFNothing"]}, r"prometheusRule.disabled: there is no alert CalicoBPFNothing; .*MapNear"),
        ({"optional": ["CalicoBPFNothing"]}, r"prometheusRule.optional: there is no alert CalicoBPFNothing"),
        ({"alerts": {"CalicoBPFNothing": {}}}, r"prometheusRule.alerts: there is no alert CalicoBPFNothing"),
        ({"alerts": {"CalicoBPFMapNearFull": {"info": {}}}}, r"there is no severity info; there is warning, critical"),
        (
            {"alerts": {"CalicoBPFMapNearFull": {"warning": {"four": "1m"}}}},
            r"properties 'four' not allowed",
        ),
        ({"alerts": {"CalicoBPFMapNearFull": {"warning": {"for": "soon"}}}}, r"does not match pattern"),
    ],
)
def test_what_no_alert_has_is_refused(values, said):
    assert re.search(said, refused({"prometheusRule": {"enabled": True, **values}}))


def monitored(kind, more=(), **values):
    return {kind: {"enabled": True, **dict(more)}, **values}


@pytest.mark.parametrize(
    ("values", "job"),
    [
        ({}, "calico-bpf-exporter"),
        ({"nameOverride": "traffic"}, "traffic"),
        ({"prometheusRule": {"job": "node-traffic"}}, "node-traffic"),
        (monitored("podMonitor", nameOverride="traffic"), "traffic"),
        (monitored("serviceMonitor", nameOverride="traffic"), "traffic"),
        (monitored("podMonitor", {"jobLabel": "app.kubernetes.io/instance"}), "test"),
        (monitored("podMonitor", {"jobLabel": "app"}, podLabels={"app": "{{ .Release.Name }}-net"}), "test-net"),
        (monitored("serviceMonitor", {"jobLabel": "team"}, commonLabels={"team": "net"}), "net"),
        # Labels that there are not: the operator falls back to these.
        (monitored("podMonitor", {"jobLabel": "app"}), "monitoring/test-calico-bpf-exporter"),
        (monitored("podMonitor", {"jobLabel": "", "namespace": "prom"}), "prom/test-calico-bpf-exporter"),
        (monitored("serviceMonitor", {"jobLabel": "app"}, podLabels={"app": "x"}), "test-calico-bpf-exporter"),
        (
            monitored("podMonitor", {"relabelings": [{"targetLabel": "job"}]}, prometheusRule={"job": "relabeled"}),
            "relabeled",
        ),
    ],
)
def test_the_job_of_alerts_is_the_one_that_the_targets_get(values, job):
    objects = render({**values, "prometheusRule": {"enabled": True, **values.get("prometheusRule", {})}})
    text = yaml.safe_dump(one(objects, "PrometheusRule")["spec"]["groups"])
    assert {job} == set(re.findall(r'job="([^"]*)"', text))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (monitored("podMonitor", prometheusRule={"job": "other"}), "job is other, .* label job calico-bpf-exporter"),
        (monitored("serviceMonitor", nameOverride="a", prometheusRule={"job": "calico-bpf-exporter"}), "label job a"),
        (monitored("podMonitor", {"relabelings": [{"targetLabel": "job"}]}), "say in prometheusRule.job what it is"),
    ],
)
def test_alerts_about_another_job_than_the_monitors_are_refused(values, said):
    values = {**values, "prometheusRule": {"enabled": True, **values.get("prometheusRule", {})}}
    assert re.search(said, refused(values))


def test_an_alias_in_a_chart_above_is_the_job_too(tmp_path):
    depends = [{"name": "calico-bpf-exporter", "version": "0.2.0", "alias": "traffic"}]
    chart = {"apiVersion": "v2", "name": "above", "version": "1.0.0", "dependencies": depends}
    (tmp_path / "charts").mkdir()
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(chart))
    (tmp_path / "charts" / "calico-bpf-exporter").symlink_to(CHART)
    values = "traffic.prometheusRule.enabled=true,traffic.podMonitor.enabled=true"
    done = helm("template", "test", tmp_path, "--set", values)
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    name = one(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
    assert {"traffic"} == {name, *re.findall(r'job="([^"]*)"', yaml.safe_dump(one(objects, "PrometheusRule")))}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_without_recording_rules_nothing_refers_to_a_record(rule):
    whole = by_name(rendered(recording=False, optional=OPTIONAL))
    expr = whole[rule["alert"], rule["labels"]["severity"]]["expr"]
    assert not re.search(r"cluster_\w+:", expr)
    assert expr.count("[5m] offset 10m") >= rule["expr"].count(":rate5m offset 10m")
    assert expr.count("{reason=") >= rule["expr"].count("rate5m{reason=")


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_names_both_namespaces_of_calico_and_what_a_restart_of_it_costs(page):
    text = page.read_text()
    for block in re.findall(r"```\n(.*?)```", text, re.DOTALL):
        assert ("calico-system" in block) == ("kube-system" in block)
    linked = text.replace("[Restart calico-node](README.md#restarting-calico-node)", "")
    assert not re.search(r"(?i)restart(s|ing)?( of)? calico-node", re.sub(r"^## .*$", "", linked, flags=re.MULTILINE))
