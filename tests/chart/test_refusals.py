"""Values that would make invalid objects, or contradict each other, are refused with a sentence when rendered."""

import re

import pytest

from tests.chart.helm import helm, one, refused, render
from tests.kernel.conftest import give_up

TLS = {"tls_server_config": {"cert_file": "a", "key_file": "b"}}
CLIENTS = {"tls_server_config": {**TLS["tls_server_config"], "client_auth_type": "RequireAndVerifyClientCert"}}


@pytest.fixture(scope="module", autouse=True)
def tools():
    if helm("version").returncode:
        give_up("helm is not here: `make setup` brings it")


def monitor(kind="podMonitor", **values):
    return {kind: {"enabled": True, **values}}


def rules(**values):
    return {"prometheusRule": {"enabled": True, **values}}


def waiting(**values):
    return rules(alerts={"CalicoBPFMapNearFull": {"warning": values}})


def secured(content, scheme=""):
    return {"webConfig": {"content": content}, "probes": {"scheme": scheme}}


def fenced(**values):
    return {"networkPolicy": {"enabled": True, **values}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (rules(additionalRuleLabels={"tier": 1}), "additionalRuleLabels/tier': got number, want string"),
        (rules(additionalRuleLabels={"my-team": "a"}), "'my-team' does not match"),
        (rules(annotations={"a": True}), "annotations/a': got boolean"),
        (waiting(**{"for": "30m1h"}), "/for': '30m1h' does not match"),
        (waiting(keepFiringFor="99999999999s"), "/keepFiringFor': .* does not match"),
        (waiting(severity="{{ x"), "/severity': .* does not match"),
        ({**rules(), **monitor(honorLabels=False)}, "prometheusRule needs podMonitor.honorLabels"),
        (monitor(additionalLabels={"release": 1}), "additionalLabels/release': got number"),
        (monitor(additionalLabels={"release": "a b"}), "release: .a b. is no label of Kubernetes"),
        (monitor(interval="30s1m"), "/interval': '30s1m' does not match"),
        (
            monitor(interval="15s", scrapeTimeout="30s"),
            "podMonitor.scrapeTimeout 30s is longer than podMonitor.interval",
        ),
        (
            monitor("serviceMonitor", rulesInterval="15s", scrapeTimeout="1m"),
            "longer than serviceMonitor.rulesInterval",
        ),
        ({**monitor(scheme="http"), **secured(TLS)}, "podMonitor.scheme is http, and webConfig.content has tls"),
        (secured(TLS, "http"), "probes.scheme is http, and webConfig.content has tls_server_config"),
        (secured(CLIENTS, "https"), "requires client certificates, which the kubelet has not"),
        ({"probes": {"scheme": "https"}}, "webConfig has no tls_server_config"),
        (secured({"tls_server_confg": {}}), "must be one of 'tls_server_config'"),
        (
            {"webConfig": {"content": TLS, "certificateSecrets": ["../a"]}},
            "certificateSecrets/0': '../a' does not match",
        ),
        ({"webConfig": {"content": TLS, "certificateSecrets": ["a", "a"]}}, "items at 0 and 1 are equal"),
        ({"commonLabels": {"a": "x y"}}, "a: .x y. is no label of Kubernetes"),
        ({"commonLabels": {"a: b\nc": "x"}}, "is no label of Kubernetes"),
        ({"nodeSelector": {"a": True}}, "nodeSelector/a': got boolean"),
        ({"nameOverride": "A_b: c"}, "nameOverride': .* does not match"),
        ({"image": {"tag": "a: b"}}, "image/tag': .* does not match"),
        ({"imagePullSecrets": [{"nme": "a"}]}, "imagePullSecrets/0': missing property 'name'"),
        ({"serviceAccount": {"name": "a: b"}}, "serviceAccount/name': .* does not match"),
        ({"calico": {"runDir": "run"}}, "calico/runDir': 'run' does not match"),
        ({"web": {"telemetryPath": '/a": b'}}, "web/telemetryPath': .* does not match"),
        ({"web": {"telemetryPath": "/readyz"}}, "web.telemetryPath /readyz is the path of a probe"),
        ({"web": {"allowedHosts": ["--help"]}}, "web/allowedHosts/0': '--help' does not match"),
        (fenced(sourceSelector=" ", sourceNamespaceSelector=""), "are empty, which lets everyone in"),
        (fenced(sourceNets=["prometheus"]), "networkPolicy/sourceNets/0': .* does not match"),
    ],
)
def test_what_would_not_work_is_refused_with_a_sentence(values, said):
    assert re.search(said, refused(values))


@pytest.mark.parametrize("text", ["a: b", "a #b", "'a", 'a"b', "a\nb: c", "$1"])
def test_no_text_of_a_value_breaks_the_rules(text):
    def rules_of(values):
        groups = one(render(values), "PrometheusRule")["spec"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    usual, given = rules_of(rules()), rules_of(rules(job=text, runbookUrl=text, grafanaUrl=text))
    assert [rule.get("alert") for rule in usual] == [rule.get("alert") for rule in given]
    job = text.replace('"', '\\"').replace("\n", "\\n")
    assert {f'job="{job}"'} == {f'job="{job}"' for rule in given if f'up{{job="{job}"}}' in rule["expr"]}
    for alert in (rule for rule in given if "alert" in rule):
        assert f"{text}{alert['alert']}.md" == alert["annotations"]["runbook_url"]
        assert alert["annotations"]["dashboard_url"].startswith(f"{text}/d/")
