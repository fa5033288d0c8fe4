"""A figure that several pages name is the same on all of them, and that of the last benchmark or of what is counted."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVE = json.loads((ROOT / "bench/figures.json").read_text("utf-8"))["serve"]
INTERVAL = 15


def page(name):
    return (ROOT / name).read_text("utf-8")


def figures(pods, zeros="core"):
    """Resident MiB and CPU milliseconds for a scrape, as pages round them."""
    found = SERVE[str(pods)][zeros]
    return round(found["resident_mib"]), round(found["scrape_cpu_ms"])


def test_the_table_of_resources_is_that_of_the_last_benchmark():
    rows = re.findall(
        r"^\| (\d+) \| (\d+) MiB \((\d+)\) \| (\d+) ms \((\d+)\) \|$", page("docs/kubernetes.md"), re.MULTILINE
    )
    shown = {int(pods): tuple(map(int, rest)) for pods, *rest in rows}
    expected = {}
    for pods in map(int, SERVE):
        (memory, cpu), (memory_all, cpu_all) = figures(pods), figures(pods, "all")
        expected[pods] = (memory, memory_all, cpu, cpu_all)
    assert expected == shown


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("README.md", r"a scrape of 250 pods takes (\d+) ms of CPU, and the process (\d+) MiB"),
        ("docs/faq.md", r"With 250 pods (\d+) ms of CPU for each scrape and (\d+) MiB of memory"),
        ("chart/values.yaml", r"At 250 pods `serve` takes (\d+) ms of CPU for a scrape and (\d+) MiB of memory"),
    ],
)
def test_a_page_says_what_the_last_benchmark_measured(name, pattern):
    memory, cpu = figures(250)
    assert [(str(cpu), str(memory))] == re.findall(pattern, page(name).replace("\n# ", " "))


def test_the_cpu_of_a_year_follows_from_that_of_a_scrape():
    percent, hours = re.findall(
        r"every 15 seconds, 250 pods are some ([\d.]+) % of one CPU, some ([\d.]+) CPU hours a year",
        page("docs/kubernetes.md"),
    )[0]
    milliseconds = SERVE["250"]["core"]["scrape_cpu_ms"]
    assert float(percent) == pytest.approx(milliseconds / INTERVAL / 10, abs=0.01)
    assert float(hours) == pytest.approx(milliseconds / INTERVAL * 8.766, abs=0.1)


def test_the_requests_and_limits_that_the_page_recommends_are_above_it():
    request, limit = map(int, re.findall(r"memory: (\d+)Mi", page("docs/kubernetes.md")))
    assert figures(250, "all")[0] * 1.25 < request < limit


def test_alerts_and_dashboards_are_as_many_as_the_readme_says():
    files = (ROOT / "chart/files").glob("*/alerts.yaml")
    groups = [group for file in files for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    dashboards = len(list((ROOT / "chart/files/dashboards").glob("*.json")))
    words = {4: "four", 5: "five", 6: "six"}
    assert f"with {len(alerts)} alerts and {words[dashboards]} dashboards" in page("README.md")


def test_the_parts_of_the_http_server_are_as_long_as_the_decision_says():
    files = {
        path.stem: len(path.read_text("utf-8").splitlines()) for path in (ROOT / "exporter/web/transport").glob("*.py")
    }
    del files["__init__"]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\d+) \|", page("docs/decisions.md"), re.MULTILINE)
    shown = {tuple(re.findall(r"\w+", names)): int(lines) for names, lines in rows}
    assert sorted(files) == sorted(name for names in shown for name in names)
    for names, lines in shown.items():
        assert lines == pytest.approx(sum(files[name] for name in names), rel=0.1), names
