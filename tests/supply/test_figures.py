"""A figure that several pages name is the same on all of them, and that of the last benchmark or of what is counted."""

import json
import re
from decimal import Decimal
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
        ("docs/performance.md", r"With 250 pods `serve` takes (\d+) ms of CPU for a scrape and (\d+) MiB of memory"),
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


# The same figure on several pages, and in the comment of what it is about: the pattern has it as its group.
SAID_TWICE = {
    "memory of asyncio's TLS": {
        "docs/decisions.md": r"its TLS keeps (\d+) KiB for each connection",
        "docs/performance.md": r"\| `asyncio` \| (\d+) KiB",
    },
    "memory of idle TLS": {
        "docs/decisions.md": r"takes (\d+) KiB with OpenSSL 3.0",
        "docs/performance.md": r"\| TLS \| ([\d.]+) KiB",
    },
    "memory of idle TLS, OpenSSL 3.5": {
        "docs/decisions.md": r"and (\d+) with OpenSSL 3.5",
        "docs/performance.md": r"an idle TLS connection takes (\d+) KiB; 16",
    },
    "zlib": {
        "docs/decisions.md": r"zlib took a quarter of a scrape's CPU: (\d+) ms",
        "docs/performance.md": r"\| gzip \(zlib\) \| 1 \| ([\d.]+) \|",
    },
    "ISA-L": {
        "docs/decisions.md": r"ISA-L takes ([\d.]+) ms",
        "docs/performance.md": r"\| isal .*\n\| \| 1 \| ([\d.]+) \|",
    },
    "zlib-ng": {
        "docs/decisions.md": r"zlib-ng ([\d.]+) ms",
        "docs/performance.md": r"\| zlib-ng .*\n\| \| 2 \| ([\d.]+) \|",
    },
    "memory of ISA-L": {
        "docs/decisions.md": r"([\d.]+) MiB of memory and one more compiled library",
        "docs/performance.md": r"([\d.]+) MiB \(isal\)",
    },
    "the body that is compressed": {
        "docs/decisions.md": r"ms for ([\d.]+) MB; ISA-L",
        "docs/performance.md": r"last response above, ([\d.]+) MB",
    },
    "a map of 256 CPUs": {
        "docs/decisions.md": r"counters of 1000 interfaces are (\d+) MiB",
        "docs/performance.md": r"\| 256 \| 256 \| 1000 \| ([\d.]+) \|",
        "exporter/bpf/maps.py": r"256 possible CPUs holds (\d+) MiB",
    },
    "the peak while it is read": {
        "docs/decisions.md": r"a peak of (\d+) MiB",
        "docs/performance.md": r"\| 256 \| 256 \| 1000 \|.* (\d+) \|",
    },
    "what pyroute2 leaves": {
        "docs/decisions.md": r"pyroute2's own dump leaves (\d+) MiB",
        "docs/performance.md": r"pyroute2's reading of 1000 leaves (\d+) MiB",
        "exporter/node/netlink.py": r"of 1000 links leaves (\d+) MiB",
    },
    "arenas": {
        "docs/decisions.md": r"arenas cost some (\d+) MiB",
        "docs/performance.md": r"an arena, some (\d+) MiB",
        "exporter/allocator.py": r"some (\d+) MiB for nothing",
    },
    "seconds of 512,000 entries": {
        "docs/metrics.md": r"512,000 entries take some (\d+) s of CPU",
        "docs/performance.md": r"512,000 .*\n\| \| `conntrack` \| (1)031 \|",
    },
    "a password": {
        "docs/decisions.md": r"hash of cost 10 takes ([\d.]+) s",
        "exporter/web/access/auth_queue.py": r"bcrypt takes ([\d.]+) s",
    },
    "the numbers of graphs": {
        "docs/architecture.md": r"ten minutes after; at most ([\d.]+) MB",
        "docs/decisions.md": r"At most ([\d.]+) MB while the page is in use",
        "docs/page.md": r"series of 121 intervals, ([\d.]+) MB",
    },
    "policy files": {
        "docs/kubernetes.md": r"500 policy files of (\d+) kB are parsed in a second",
        "docs/performance.md": r"500 policy debug files \(250 pods, two directions\) of (\d+) kB",
    },
    "series of a pod": {
        "docs/cardinality.md": r"A pod has (\d+) series of `counters` by default",
        "docs/metrics.md": r"`core` exposes 52 per host interface, (\d+) per pod",
    },
}


def agree(one, other):
    """Whether two figures are equal, as far as the one with fewer digits behind the point says."""
    coarse = max((one, other), key=lambda figure: figure.as_tuple().exponent)
    # One more twentieth, for a figure that was itself rounded.
    return abs(one - other) <= Decimal("0.55").scaleb(coarse.as_tuple().exponent)


@pytest.mark.parametrize("name", SAID_TWICE)
def test_a_figure_is_the_same_wherever_it_is_said(name):
    found = {one: re.findall(pattern, page(one)) for one, pattern in SAID_TWICE[name].items()}
    assert [] == [one for one, figures in found.items() if len(figures) != 1]
    first, *others = (Decimal(figures[0]) for figures in found.values())
    assert [] == [other for other in others if not agree(first, other)]


def test_sentences_about_the_scaling_are_of_its_table():
    text = page("docs/performance.md")
    read = {
        (int(cpus), int(interfaces)): float(milliseconds)
        for cpus, interfaces, milliseconds in re.findall(
            r"^\| (\d+) \| \1 \| (\d+) \| [\d.]+ \| ([\d.]+) \|", text, re.MULTILINE
        )
    }
    said = re.search(
        r"Where 128 CPUs all count, 250 interfaces cost (\d+) ms a scrape, and where 256 do, (\d+) ms", text
    )
    assert [round(read[128, 250]), round(read[256, 250])] == [int(one) for one in said.groups()]
    ratios = sorted(read[cpus, 1000] / read[cpus, 250] for cpus in (128, 256))
    assert "cost three and a half to five times as much" in text
    assert ratios == pytest.approx([3.5, 5], rel=0.05)


def test_the_sentence_about_the_peer_is_of_its_table():
    text = page("docs/performance.md")
    rows = re.findall(
        r"^\| (\d+) \| all \| (?:identity|gzip) \| \d+ \| \d+ \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE
    )
    ratios = sorted(float(ours) / float(peers) for size, ours, peers in rows if int(size) >= 110)
    assert "takes a thirteenth to a seventh of the peer's CPU from 110 interfaces on" in text
    assert [1 / 13, 1 / 7] == pytest.approx([ratios[0], ratios[-1]], rel=0.1)
