"""The tables of `bench/cluster.py`: series by collector and by setting, and what queries read."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from exporter.metrics.scrape import COLLECTORS

# The flags of each row; a row's series are compared with the first one's.
SETTINGS = {
    "default": (),
    "--collector.counters.zeros none": (),
    "--collector.counters.zeros all": (),
    "--collector.counters.exclude-namespaces, half of them": tuple(
        word for number in range(10) for word in ("--collector.counters.exclude-namespaces", f"namespace-{number}")
    ),
    "--no-collector.endpoints": (),
    "--no-collector.rules": (),
    "--collector.rules.zeros none": (),
    "--collector.rules.zeros all": (),
    "--collector.rules.detail policy": (),
    "--no-collector.maps": (),
    "--collector.nic": (),
    "--collector.conntrack": (),
    "--kubernetes.workload-labels": (),
    "--web.disable-exporter-metrics": (),
}
_TOP = 12


def series_of(exposition: str) -> Counter[str]:
    """The series of each family of an exposition."""
    return Counter(re.split(r"[{ ]", line, maxsplit=1)[0] for line in exposition.splitlines() if line[0] != "#")


def by_collector(exposition: str) -> dict[str, int]:
    """The series of each collector; of the exporter itself, those that belong to none."""
    owners = {family.name: one.name for one in COLLECTORS for family in vars(sys.modules[one.__module__])["FAMILIES"]}
    found: Counter[str] = Counter()
    for name, count in series_of(exposition).items():
        found[owners.get(name, "exporter")] += count
    return dict(found)


def settings(exposition: Callable[..., str]) -> dict[str, int]:
    """The series of a node by setting."""
    return {
        name: series_of(exposition(*(flags or (name.split() if name != "default" else ())))).total()
        for name, flags in SETTINGS.items()
    }


def print_settings(found: dict[str, int], pods: int) -> None:
    """The table of settings."""
    print(f"| setting | series of a node of {pods} pods | more or less |\n|---|---|---|")
    for name, count in found.items():
        print(f"| `{name}` | {count} | {count - found['default']:+} |")


def print_report(found: dict[str, Any]) -> None:
    """All other tables."""
    print(f"\nseries of a node by collector: {found['series_by_collector']}\n")
    for key, value in found.items():
        if isinstance(value, int | float):
            print(f"{key:>24} {value:>14,}")
    print("\n| recording | series |\n|---|---|")
    for name, count in found["records"].items():
        print(f"| `{name}` | {count:,} |")
    for group, titles in found["read"].items():
        print(f"\n| {group}: {sum(titles.values()):,} samples | samples |\n|---|---|")
        for title, samples in sorted(titles.items(), key=lambda one: -one[1])[:_TOP]:
            print(f"| {title} | {samples:,} |")
