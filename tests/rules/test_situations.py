"""Situations that are ordinary in operation neither make an alert fire nor hide one that should."""

import json
import subprocess

import pytest

from tests.chart.helm import ROOT, one, render
from tests.kernel.conftest import give_up
from tests.rules.fleet import FIRING, Faults, Fleet
from tests.rules.situations import END, SITUATIONS, START

PROMTOOL = ROOT / ".tools" / "bin" / "promtool"
NAMED = 'ALERTS{alertstate="firing"}'
BEFORE = 'alertstate="firing", cluster="before"'
DOWN, MANY, GONE = (
    ("CalicoBPFExporterDown", "warning"),
    ("CalicoBPFManyExportersDown", "warning"),
    ("CalicoBPFExporterDown", "critical"),
)
OF_EXPORTERS = (DOWN, MANY, GONE)
# Clusters without a fault, with faults of a node and its exporter from before the situation, and with faults of a node
# and of many exporters from within it; what fires in each.
CLUSTERS = {
    "sound": (Faults(), set()),
    "before": (Faults(20, down=(1,)), FIRING | {DOWN}),
    "within": (Faults(START + 2, down=(1, 3, 5)), FIRING | {MANY}),
}
# Endpoints of two namespaces are denied; everything else has one cause, and is one alert.
SEVERAL = {"CalicoBPFPolicyDeniesAll": 2}


@pytest.fixture(scope="module", autouse=True)
def promtool():
    if not PROMTOOL.exists():
        give_up("promtool is not here: `make setup` brings it")


def promtool_finds(tmp_path, groups, situation):
    """The alerts of each cluster and, where there is no target at all, those of the job."""
    fleets = [Fleet(situation, faults, cluster) for cluster, (faults, _) in CLUSTERS.items()]
    series = [one for fleet in fleets for one in fleet.input_series()]
    empty = Fleet(situation, Faults(START + 2, gone=True), "empty").input_series()
    gone = [one for one in empty if one["series"].startswith("up{")]
    tests = [
        {"interval": "1m", "input_series": series, "promql_expr_test": [fired(), stayed()]},
        {"interval": "1m", "input_series": gone, "promql_expr_test": [fired({"": {GONE}})]},
    ]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": groups}))
    whole = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "cases.yaml").write_text(json.dumps(whole))
    command = [PROMTOOL, "test", "rules", tmp_path / "cases.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


def samples(alerts, value):
    return [
        {"labels": f'{{{cluster}alertname="{name}", severity="{severity}"}}', "value": value(name)}
        for cluster, expected in alerts.items()
        for name, severity in expected
    ]


def fired(alerts=None):
    """Which alerts have fired at all, and how many of each: no more, because one cause is one alert."""
    alerts = alerts or {f'cluster="{cluster}", ': expected for cluster, (_, expected) in CLUSTERS.items()}
    expr = f"count by (cluster, alertname, severity) (max_over_time({NAMED}[{END}m]))"
    return {"expr": expr, "eval_time": f"{END}m", "exp_samples": samples(alerts, lambda name: SEVERAL.get(name, 1))}


def stayed():
    """From before the situation until long after it, each alert fires at every moment."""
    expr = f"min by (cluster, alertname, severity) (count_over_time(ALERTS{{{BEFORE}}}[{END - START}m]))"
    alerts = {'cluster="before", ': CLUSTERS["before"][1]}
    return {"expr": expr, "eval_time": f"{END}m", "exp_samples": samples(alerts, lambda _: END - START + 1)}


def rules_of(**values):
    everything = {"enabled": True, "optional": ["CalicoBPFDefaultDenyHits"], **values.pop("prometheusRule", {})}
    return one(render({"prometheusRule": everything, **values}), "PrometheusRule")["spec"]["groups"]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_situation_makes_no_alert_and_hides_none(situation, tmp_path):
    values = {"nameOverride": "calico-traffic"} if situation == "name override" else {}
    promtool_finds(tmp_path, rules_of(**values), SITUATIONS[situation]())


def test_the_same_holds_without_recording_rules(tmp_path):
    groups = rules_of(prometheusRule={"recording": False})
    assert [] == [rule for group in groups for rule in group["rules"] if "record" in rule]
    promtool_finds(tmp_path, groups, SITUATIONS["upgrade"]())
