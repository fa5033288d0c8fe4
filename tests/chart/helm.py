"""A real helm over the chart: what it renders, as objects."""

import subprocess
from pathlib import Path

import yaml

from tests.kernel.conftest import give_up

ROOT = Path(__file__).parents[2]
CHART = ROOT / "chart"
HELM = ROOT / ".tools" / "bin" / "helm"
CASES = sorted(path.stem for path in (CHART / "ci").glob("*-values.yaml"))


def helm(*words):
    """Runs helm to its end."""
    if not HELM.exists():
        give_up("helm is not here: `make setup` brings it")
    return subprocess.run([HELM, *map(str, words)], capture_output=True, text=True, check=False)


def render(values=None, *words):
    """The objects of a release called `test`, by kind; `values` are of a case of chart/ci, or a mapping."""
    if isinstance(values, str):
        words = ("-f", CHART / "ci" / f"{values}.yaml", *words)
    text = yaml.safe_dump(values if isinstance(values, dict) else {})
    command = ["template", "test", CHART, "--namespace", "monitoring", *words, "-f", "-"]
    done = subprocess.run([HELM, *map(str, command)], input=text, capture_output=True, text=True, check=False)
    assert "" == done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def refused(values, *words):
    """Helm's error message for invalid values."""
    command = ["template", "test", CHART, *words, "-f", "-"]
    text = yaml.safe_dump(values)
    done = subprocess.run([HELM, *map(str, command)], input=text, capture_output=True, text=True, check=False)
    assert done.returncode
    return done.stderr


def one(objects, kind, name=None):
    """The only object of this kind, and name if given."""
    found = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert 1 == len(found), (kind, [each["kind"] for each in objects])
    return found[0]


def kinds(objects):
    return sorted(each["kind"] for each in objects)


def container(objects, pod="DaemonSet"):
    spec = one(objects, pod)["spec"]
    return spec.get("template", {"spec": spec})["spec"]["containers"][0]
