"""What people need to join the project: files that say what is true of it, and that their readers can parse."""

import re
import subprocess
import tomllib
import xml.etree.ElementTree as ET

import yaml

from tests.installed import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GITHUB = ROOT / ".github"
REPOSITORY = "https://github.com/calico-bpf-exporter/calico-bpf-exporter"
SUPPORT = (ROOT / "docs/support.md").read_text()
CHART = yaml.safe_load((ROOT / "chart/Chart.yaml").read_text())


def supported(software):
    """The cells of its row: what is supported, and what is tested."""
    (row,) = [line for line in SUPPORT.splitlines() if line.startswith(f"| {software} |")]
    _, _, *cells, _ = row.split("|")
    return [cell.strip() for cell in cells]


def test_calico_is_supported_as_far_as_it_is_recorded():
    promised, tested = supported("Calico")
    recorded = sorted(path.name for path in (ROOT / "tests/recordings").iterdir() if path.name.startswith("v"))
    assert recorded == sorted(re.findall(r"v3\.\d+\.\d+", tested))
    first, last = re.search(r"(v3\.\d+) to (v3\.\d+\.\d+)", promised).groups()
    assert recorded[-1] == last
    rows = re.findall(r"^\| (v3[^|]*?) \|.*\| works", (ROOT / "docs/calico-versions.md").read_text(), re.MULTILINE)
    assert (first, last) == (rows[0], rows[-1])
    assert f"Calico {first} to {last}" in (ROOT / "README.md").read_text()


def test_kubernetes_is_supported_as_the_chart_demands_and_its_schemas_are_those_that_tests_read():
    promised, tested = supported("Kubernetes")
    assert CHART["kubeVersion"] == f">={promised.split()[0]}.0-0"
    asked = re.search(r'parametrize\("version", \[([^]]*)\]', (ROOT / "tests/chart/test_schemas.py").read_text())[1]
    assert re.findall(r"\d\.\d+", asked) == re.findall(r"\d\.\d+", tested)


def test_python_is_supported_as_the_package_says():
    promised, tested = supported("Python")
    versions = re.findall(r"3\.\d+", promised)
    classifiers = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert versions == classifiers
    assert PROJECT["requires-python"] == f">={versions[0]}"
    # The Pythons of Debian 12 and of Debian 13, which is the image's.
    assert re.findall(r"3\.\d+", tested) == ["3.11", re.search(r"python(3\.\d+)-venv", dockerfile())[1]]


def dockerfile():
    return (ROOT / "Dockerfile").read_text()


def test_prometheus_is_supported_from_the_oldest_promtool_that_reads_the_rules():
    promised, _ = supported("Prometheus")
    shown = subprocess.run([ROOT / ".tools/bin/promtool", "--version"], capture_output=True, text=True, check=True)
    here = re.search(r"version (\d+)\.(\d+)", shown.stdout + shown.stderr).groups()
    assert tuple(map(int, here)) >= tuple(map(int, promised.split()[0].split(".")))


def test_a_report_asks_for_a_check_and_a_bundle_and_says_what_is_in_it():
    bug = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE/bug.yml").read_text())
    fields = {one["id"]: one["attributes"] for one in bug["body"]}
    assert "check -o json" in fields["check"]["label"]
    assert "bundle --redact" in fields["bundle"]["description"]
    for text in (
        fields["bundle"]["description"],
        template("feature"),
        (GITHUB / "pull_request_template.md").read_text(),
    ):
        assert "check -o json" in text or text == fields["bundle"]["description"]
        assert "--redact" in text
        assert re.search(r"maps.*(routes|links)", text, re.DOTALL)
        assert "no packets" in text
    assert all({"name", "description", "body"} <= yaml.safe_load(template(name)).keys() for name in ("bug", "feature"))


def template(name):
    return (GITHUB / f"ISSUE_TEMPLATE/{name}.yml").read_text()


def test_vulnerabilities_are_reported_in_private_and_everything_has_an_owner():
    private = f"{REPOSITORY}/security/advisories/new"
    assert private in (ROOT / "SECURITY.md").read_text()
    assert private in (GITHUB / "ISSUE_TEMPLATE/config.yml").read_text()
    assert re.search(r"^\* @\S+$", (GITHUB / "CODEOWNERS").read_text(), re.MULTILINE)


def test_everything_that_is_pinned_is_updated():
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    places = {
        (one["package-ecosystem"], folder)
        for one in updates
        for folder in one.get("directories", [one.get("directory")])
    }
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    known = {"uv.lock": "uv", "uv.txt": "pip", "Dockerfile": "docker", "go.mod": "gomod"}
    expected = {
        (known[file], f"/{folder}") for folder, _, file in (one.rpartition("/") for one in listed) if file in known
    }
    assert expected | {("github-actions", "/")} == places


def test_the_project_s_addresses_are_one_repository_s():
    assert {"Homepage", "Documentation", "Changelog", "Issues", "Source"} == PROJECT["urls"].keys()
    assert all(url.startswith(REPOSITORY) for url in [*PROJECT["urls"].values(), CHART["home"], *CHART["sources"]])


def test_the_chart_has_an_icon_that_is_there_and_what_artifact_hub_shows():
    path = CHART["icon"].removeprefix("https://raw.githubusercontent.com/calico-bpf-exporter/calico-bpf-exporter/main/")
    icon = ET.parse(ROOT / path).getroot()
    assert icon.tag == "{http://www.w3.org/2000/svg}svg"
    links = yaml.safe_load(CHART["annotations"]["artifacthub.io/links"])
    assert all(one["url"].startswith(REPOSITORY) for one in links)
    assert {"Documentation", "Support", "Changelog"} == {one["name"] for one in links}
    assert "true" == CHART["annotations"]["artifacthub.io/prerelease"]  # until 1.0.0


def test_make_help_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    helped = {line.split()[0]: line.split(None, 1)[1] for line in shown.splitlines()}
    assert set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()) == helped.keys()
    assert max(map(len, helped.values())) < 75
