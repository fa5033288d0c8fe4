"""The chart is what Kubernetes, the Prometheus operator and helm take it for, in every case of chart/ci."""

import json
import re
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

from exporter import __version__
from tests.chart.helm import CASES, CHART, ROOT, helm, refused, render
from tests.kernel.conftest import give_up

CRDS = ROOT / ".tools" / "definitions"
OPERATOR = {"PodMonitor": "podmonitors", "ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}
CALICO = {"GlobalNetworkPolicy"}  # Calico publishes its definitions in no registry of packages


@pytest.fixture(scope="session", autouse=True)
def tools():
    if helm("version").returncode or not CRDS.exists():
        give_up("helm or the operator's definitions are not here: `make setup` brings them")


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_to_say(case):
    done = helm("lint", "--strict", "--quiet", CHART, "-f", CHART / "ci" / f"{case}.yaml")
    assert (0, "") == (done.returncode, done.stdout)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", ["1.25", "1.31", "1.37"])
def test_kubernetes_knows_every_field(case, version):
    objects = render(case, "--kube-version", f"{version}.0")
    own = [each for each in objects if each["kind"] not in OPERATOR.keys() | CALICO]
    assert own
    for each in own:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_the_operator_knows_every_field(case):
    for each in render(case):
        if each["kind"] in OPERATOR:
            jsonschema.validate(each["spec"], definition(each["kind"]))


def test_an_unknown_field_would_be_found():
    monitor = next(each for each in render("operator-values") if each["kind"] == "PodMonitor")
    monitor["spec"]["podMetricsEndpoints"][0]["honourLabels"] = True
    with pytest.raises(jsonschema.ValidationError, match="honourLabels"):
        jsonschema.validate(monitor["spec"], definition("PodMonitor"))


def definition(kind):
    """The schema of the spec of an object of the operator's, closed to unknown fields."""
    whole = yaml.safe_load((CRDS / f"{OPERATOR[kind]}.yaml").read_text())
    versions = {each["name"]: each["schema"]["openAPIV3Schema"] for each in whole["spec"]["versions"]}
    return closed(versions["v1"]["properties"]["spec"])


def closed(schema):
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "(?i)" in str(schema.get("pattern", "")):
        schema = {key: value for key, value in schema.items() if key != "pattern"}  # Go's spelling, not Python's
    more = {"additionalProperties": False} if "properties" in schema and schema.get("type") == "object" else {}
    return {**more, **{key: closed(value) for key, value in schema.items()}}


def test_schema_and_readme_are_made_of_the_values():
    command = [sys.executable, ROOT / ".ci/chart-docs", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout)


def test_the_chart_is_of_the_exporters_version():
    assert __version__ == yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]


def paths(schema, path=""):
    """Every value of the schema that is not a map of described ones, with its own schema."""
    for name, below in schema.get("properties", {}).items():
        if "properties" in below:
            yield from paths(below, f"{path}{name}.")
        else:
            yield f"{path}{name}", below


SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = dict(paths(SCHEMA))
# Of another type than any value may have; null is how helm takes a default away, and is left alone.
WRONG = {"string": [1], "boolean": "yes", "integer": "many", "number": "many", "array": "one", "object": "map"}


@pytest.mark.parametrize("path", VALUES)
def test_a_value_of_the_wrong_type_is_refused_by_its_name(path):
    kind = VALUES[path]["type"]
    said = refused(nested(path, WRONG[kind if isinstance(kind, str) else "string"]))
    assert f"at '/{path.replace('.', '/')}'" in said


@pytest.mark.parametrize("path", ["prot", "web.prot", "podMonitor.honourLabels", "kubernetes.enable"])
def test_a_value_that_there_is_not_is_refused_by_its_name(path):
    assert f"additional properties '{path.rpartition('.')[2]}' not allowed" in refused(nested(path, 1))


def nested(path, value):
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


@pytest.mark.parametrize("path", [path for path, below in VALUES.items() if "enum" in below])
def test_the_choices_of_a_value_are_named(path):
    said = refused(nested(path, "neither"))
    assert all(f"'{choice}'" in said for choice in VALUES[path]["enum"])


TLS = {"content": {"tls_server_config": {}}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"webConfig": {**TLS, "existingSecret": "a"}}, "mutually exclusive"),
        ({"webConfig": {"certificateSecrets": ["a"]}}, "certificateSecrets requires webConfig"),
        ({"webConfig": {"existingSecret": "a"}}, "existingSecret: say in probes.scheme how the kubelet reaches it"),
        ({"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}, "would each scrape every pod"),
        ({"reader": "bpftool", "securityProfile": "capabilities"}, "reader bpftool requires CAP_SYS_ADMIN"),
        ({"collectors": dict.fromkeys(("counters", "endpoints", "rules", "maps"), False)}, "all collectors are"),
        (
            {"kubernetes": {"authorization": True}, "webConfig": {"content": {"basic_auth_users": {"a": "b"}}}},
            "both use the Authorization header",
        ),
    ],
)
def test_values_that_contradict_each_other_are_a_sentence(values, said):
    assert re.search(rf"Error: .*{said}", refused(values), re.DOTALL)


@pytest.mark.parametrize("name", ["counters", "endpoints", "rules", "maps", "nic", "conntrack"])
def test_one_collector_is_enough(name):
    others = dict.fromkeys(("counters", "endpoints", "rules", "maps", "nic", "conntrack"), False)
    assert render({"collectors": {**others, name: True}})


@pytest.mark.parametrize("profile", ["sysadmin", "privileged"])
def test_bpftool_is_taken_where_it_may_read(profile):
    assert render({"reader": "bpftool", "securityProfile": profile})


def test_an_old_cluster_is_refused():
    assert "1.25" in refused({}, "--kube-version", "1.24.0")


def test_a_chart_above_this_one_may_hand_its_condition_and_globals_down():
    assert render({"enabled": True, "global": {"storageClass": "fast"}})
