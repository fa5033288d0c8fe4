"""The pages about the chart and Prometheus are correct."""

import re
import subprocess

import pytest
import yaml

from tests.chart.helm import CHART, ROOT
from tests.kernel.conftest import give_up

PROMTOOL = ROOT / ".tools" / "bin" / "promtool"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
PAGES = [ROOT / "README.md", CHART / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


# Installing from somewhere other than the clone: a name in a registry, which may be anybody's until it is published.
ASKING = re.compile(
    r"(pip|pipx|tool) install (?!'?\.|-e )|^uvx (?!--from '?\.)|helm (repo|pull|install \S+ (?!\./chart))"
    r"|krew install (?!--manifest)|(docker|podman|buildah) (run|pull)|ghcr\.io"
)


def asking_for_names(text):
    """The commands of these blocks that ask a registry for a name."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if ASKING.search(line)]


def known(path):
    value = VALUES
    for name in path.split("."):
        if not isinstance(value, dict) or (name not in value and value):
            return False
        value = value.get(name, {})
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_value_of_the_chart_that_a_page_names_is_one(page):
    text = page.read_text()
    named = set(re.findall(r"--set ([\w.]+)=", text))
    for token in re.findall(r"`([\w.]+)(?:[:=][^`]*)?`", text):
        if token.partition(".")[0] in VALUES.keys() - {"calico"} and "." in token:
            named.add(token)
    assert [] == sorted(name for name in named if not known(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_asks_for_a_name_before_the_first_release(page):
    assert [] == asking_for_names(page.read_text().partition("\n## After the first release\n")[0])


def test_a_command_that_asks_for_a_name_is_found():
    asking = (
        *(
            "pip install calico-bpf-exporter",
            "pipx install 'calico-bpf-exporter[node]'",
            "uvx calico-bpf-exporter check",
        ),
        *("helm install x oci://example.org/x", "helm repo add x https://x", "docker run -d ghcr.io/x/y:1"),
        *("kubectl krew install calico-bpf", "docker pull example.org/x"),
    )
    assert list(asking) == asking_for_names("".join(f"```sh\n{one}\n```\n" for one in asking))


def test_values_are_named_at_all():
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    assert {"podMonitor.enabled", "networkPolicy.enabled"} <= set(re.findall(r"[\w]+\.[\w]+", text))


def test_the_scrape_configuration_is_one(tmp_path):
    if not PROMTOOL.exists():
        give_up("promtool is not here: `make setup` brings it")
    (block,) = re.findall(r"```yaml\n(- job_name:.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.DOTALL)
    config = {"scrape_configs": yaml.safe_load(block)}
    (job,) = config["scrape_configs"]
    # Debian's promtool is built without discovery in Kubernetes; the rest is what people get wrong.
    (discovery,) = job.pop("kubernetes_sd_configs")
    assert "pod" == discovery["role"]
    job["static_configs"] = [{"targets": ["node:10042"]}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run([PROMTOOL, "check", "config", tmp_path / "prometheus.yaml"], capture_output=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert job["honor_labels"] is True
    assert "node" in [each.get("target_label") for each in job["relabel_configs"]]
