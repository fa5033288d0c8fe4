"""The page about cost says what the last `make bench-cluster` measured, and an overview stays below its limit."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = json.loads((ROOT / "bench/cluster.json").read_text("utf-8"))
SIZES = FIGURES["sizes"]
PAGE = (ROOT / "docs/cardinality.md").read_text("utf-8")
MAX_OVERVIEW = 5_700_000  # samples of 500 nodes


def row(found, times=1):
    keys = ("samples_per_scrape", "head_series", "samples_per_second", "resident_mib")
    read = found["refresh"]
    cells = [*(found[key] for key in keys), *(read[name] for name in ("overview", "rules", "record", "alert"))]
    return [times * one for one in cells]


def test_the_table_of_sizes_is_that_of_the_last_benchmark_and_a_computed_row_says_so():
    rows = re.findall(r"^\| ([\d,]+)( \(computed\))? \|((?: [\d,]+ \|){8})$", PAGE, re.MULTILINE)
    shown = {name: [int(cell) for cell in re.findall(r"\d+", cells.replace(",", ""))] for name, _, cells in rows}
    assert {**{name: row(one) for name, one in SIZES.items()}, "1,000": row(SIZES["500"], 2)} == shown
    assert ["1,000"] == [name for name, computed, _ in rows if computed]


def test_the_table_of_settings_is_that_of_the_last_benchmark():
    rows = re.findall(r"^\| (?:`(--[^`]+)`(, [^|]*)?|none: the default) \| (\d+) \| ([+-]\d+) \|$", PAGE, re.MULTILINE)
    default = FIGURES["settings"]["default"]
    shown = {flags + rest or "default": (int(series), int(more)) for flags, rest, series, more in rows}
    assert {name: (series, series - default) for name, series in FIGURES["settings"].items()} == shown


@pytest.mark.parametrize("name", ["series_by_collector", "records"])
def test_what_a_node_has_and_what_rules_record_is_that_of_the_last_benchmark(name):
    for one, series in SIZES["500"][name].items():
        assert (name == "series_by_collector" and one == "exporter") or f"| `{one}` | {series:,} |" in PAGE
    assert "series_by_collector" != name or sum(SIZES["500"][name].values()) == FIGURES["settings"]["default"]


def test_an_overview_of_500_nodes_reads_less_than_its_limit():
    assert SIZES["500"]["refresh"]["overview"] < MAX_OVERVIEW
