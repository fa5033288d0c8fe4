"""The rules that the chart ships: promtool's own cases, and that alerts, cases, values and pages belong together."""

import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import click
import pytest
import yaml

from exporter.cli.main import program as exporter
from exporter.kubectl.plugin import program as plugin
from exporter.metrics import counters, endpoints, maps, nic, rules, self_metrics
from exporter.metrics.family import Family
from tests.chart.helm import CHART, ROOT, one, render
from tests.kernel.conftest import give_up

PROMTOOL = ROOT / ".tools" / "bin" / "promtool"
HERE = Path(__file__).parent
FILES = {name: CHART / "files" / "rules" / f"{name}.yaml" for name in ("recording", "alerts")}
RUNBOOKS = ROOT / "docs" / "runbooks"


def rules_of(groups):
    return [rule for group in groups for rule in group["rules"]]


GROUPS = {name: yaml.safe_load(file.read_text())["groups"] for name, file in FILES.items()}
ALERTS = rules_of(GROUPS["alerts"])
RECORDS = rules_of(GROUPS["recording"])
NAMES = sorted({rule["alert"] for rule in ALERTS})
CASES = yaml.safe_load((HERE / "alerts-test.yaml").read_text())["tests"]
FAMILIES = {
    value.name
    for module in (counters, endpoints, self_metrics, maps, nic, rules)
    for value in vars(module).values()
    if isinstance(value, Family)
}


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


def test_the_five_situations_are_cases_of_each_alert_that_they_could_mislead():
    cases = [case["name"] for case in yaml.safe_load((HERE / "situations-test.yaml").read_text())["tests"]]
    situations = ("first appearance", "pod restart", "exporter restart", "gap", "counter reset")
    for alert in ("CalicoBPFPolicyDropsNew", "CalicoBPFDataplaneDrops"):
        told = [name for name in cases if name.startswith(f"{alert}, ")]
        assert {situation for situation in situations if any(f"{alert}, {situation}:" in name for name in told)} == set(
            situations
        )


def test_every_record_has_a_case():
    text = (HERE / "recording-test.yaml").read_text()
    assert [] == [rule["record"] for rule in RECORDS if f"expr: {rule['record']}\n" not in text]


@pytest.mark.parametrize("rule", [*ALERTS, *RECORDS], ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_families_that_there_are_and_keeps_the_cluster(rule):
    asked = set(re.findall(r"(?<![:\w])calico_bpf_\w+", rule["expr"]))
    assert asked <= FAMILIES
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
    assert [] == [labels for labels in grouped if not labels.startswith("cluster, ")]


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule["record"])
def test_the_name_of_a_record_says_which_labels_are_left(rule):
    labels, name, operation = rule["record"].split(":")
    (left,) = {group.replace(", ", "_") for group in re.findall(r"by \(([^)]*)\)", rule["expr"])}
    assert labels == left
    assert (name in rule["expr"], operation) in {(True, "rate5m"), (True, "ratio")}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_what_where_and_where_to_read_on(rule):
    said = rule["annotations"]
    assert re.fullmatch(r"[A-Z].*\.", said["summary"])
    assert "{{" not in said["summary"]  # the same for all that are grouped together
    assert "$labels.node" in said["description"] or "absent(" in rule["expr"]
    if "namespace, pod" in rule["expr"]:
        assert {"$labels.namespace", "$labels.pod"} <= set(re.findall(r"\$labels\.\w+", said["description"]))
    assert said["runbook_url"].endswith(f"/docs/runbooks/{rule['alert']}.md")
    assert re.match(r"/d/calico-bpf-exporter-(overview|pod|node|rules)(\?|$)", said["dashboard_url"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["for"]
    if "policy" in rule["expr"] and "dropped" in rule["expr"]:
        assert "critical" != rule["labels"]["severity"]  # drops by policy are what policy is for


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

    groups = [*GROUPS["recording"], *GROUPS["alerts"]]
    assert [{**group, "rules": [meant(rule) for rule in group["rules"]]} for group in groups] == rendered()


def test_each_threshold_is_a_value_of_the_chart_and_moves_one_alert():
    marked = re.findall(r"  # threshold: (\w+)", FILES["alerts"].read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["prometheusRule"]["thresholds"]
    assert sorted(defaults) == sorted(marked)
    usual = {(rule["alert"], rule["labels"]["severity"]): rule["expr"] for rule in rules_of(rendered()[1:])}
    for name in marked:
        moved = {
            (rule["alert"], rule["labels"]["severity"]): rule["expr"]
            for rule in rules_of(rendered(thresholds={name: 0.125})[1:])
        }
        assert 1 == len([alert for alert in usual if usual[alert] != moved[alert]])
        assert 1 == sum(expr.count("0.125") for expr in moved.values())


def test_alerts_can_be_left_out_relabelled_and_linked_elsewhere(tmp_path):
    groups = rendered(
        disabled=["CalicoBPFMapNearFull", "CalicoBPFExporterDown"],
        additionalRuleLabels={"team": "network", "severity": "page"},
        runbookUrl="https://runbooks.example/",
        grafanaUrl="https://grafana.example",
        job="other",
    )
    alerts = [rule for rule in rules_of(groups) if "alert" in rule]
    assert set(NAMES) - {"CalicoBPFMapNearFull", "CalicoBPFExporterDown"} == {rule["alert"] for rule in alerts}
    assert {("network", "page")} == {(rule["labels"]["team"], rule["labels"]["severity"]) for rule in alerts}
    for rule in alerts:
        assert f"https://runbooks.example/{rule['alert']}.md" == rule["annotations"]["runbook_url"]
        assert rule["annotations"]["dashboard_url"].startswith("https://grafana.example/d/")
    assert [] == [rule for rule in rules_of(groups) if "labels" in rule and "record" in rule]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    code, said = promtool_says("check", "rules", tmp_path / "rules.yaml")
    assert 0 == code, said


def test_another_job_is_asked_for_where_the_job_matters():
    text = yaml.safe_dump(rendered(job="other"))
    assert 'job="other"' in text
    assert 'job="calico-bpf-exporter"' not in text
