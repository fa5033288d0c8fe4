"""Every recording of a real node, as text: parsed back, checked as a whole, and compared line by line."""

import functools
import os
import re
import subprocess
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.metrics.exposition import OPENMETRICS, TEXT, render
from exporter.metrics.scrape import (
    COLLECTORS,
    ON_BY_DEFAULT,
    collected_samples,
    exporter_samples,
    make_collectors,
    run_collector,
)
from exporter.metrics.self_metrics import ExporterCollector
from tests.recorded import NAMES, law_of_recordings

GOLDEN = Path(__file__).parent / "golden"
RELEASES = ("v3.29.7", "v3.30.7", "v3.31.6", "v3.32.1")
UNDECIDED = ("upgrade/",)  # several pinned versions, whose live one a single snapshot cannot tell

# What differs between two runs of the same program on the same facts, or between two machines.
CHANGING = [
    (re.compile(r"^(calico_bpf_scrape_collector_duration_seconds\{.*\}) .*$", re.MULTILINE), r"\1 0"),
    (re.compile(r'version="[^"]*",revision="[^"]*",python="[^"]*"'), 'version="",revision="",python=""'),
]


def results_of(snapshot):
    return [run_collector(one, lambda _: snapshot) for one in make_collectors(ON_BY_DEFAULT)]


def samples_of(snapshot):
    return collected_samples(results_of(snapshot)) + exporter_samples(lambda _: snapshot)


def text_of(snapshot, text_format=TEXT):
    return render(samples_of(snapshot), text_format).decode()


@functools.lru_cache(maxsize=1)
def written(recording):
    """The text of a recording's scrape, made once for all laws that check it."""
    return text_of(recording.proven)


def parsed(families):
    return [(one.name, tuple(one.labels.items()), one.value) for family in families for one in family.samples]


def test_there_are_recordings_of_every_release():
    assert set(RELEASES) <= {name.partition("/")[0] for name in NAMES}


@law_of_recordings(NAMES)
def every_collector_works_on_a_recording(recording):
    failed = [one.name for one in results_of(recording.proven) if one.failure]
    assert failed in ([], ["counters"] if recording.name.startswith(UNDECIDED) else [])


@law_of_recordings(NAMES)
def a_collector_needs_no_other_part_than_it_says(recording):
    for collector in (*COLLECTORS, ExporterCollector):
        whole = run_collector(collector(), lambda _: recording.proven)
        own = run_collector(collector(), lambda parts: recording.with_parts(parts, proven=True))
        assert whole.failure == own.failure, collector.name
        assert render(whole.samples, TEXT) == render(own.samples, TEXT), collector.name


@law_of_recordings(NAMES)
def both_formats_parse_and_say_the_same(recording):
    rendered = samples_of(recording.proven)
    text, openmetrics = (render(rendered, one).decode() for one in (TEXT, OPENMETRICS))
    samples = parsed(parse_text(text))
    assert samples == parsed(parse_openmetrics(openmetrics))
    assert len(samples) == sum(not line.startswith("#") for line in text.splitlines())
    labels = {one.family.name: one.family.labels for one in rendered}
    assert all(labels[family] == tuple(label for label, _ in pairs) for family, pairs, _ in samples)


@law_of_recordings(NAMES)
def no_two_samples_have_equal_name_and_labels(recording):
    samples = parsed(parse_text(written(recording)))
    seen = Counter((family, frozenset(labels)) for family, labels, _ in samples)
    assert [] == [key for key, times in seen.items() if times > 1]


@law_of_recordings(NAMES)
def samples_of_a_family_are_contiguous_after_its_help_and_type(recording):
    lines = written(recording).splitlines()
    owners = [line.split(" ")[2] if line.startswith("#") else re.split(r"[{ ]", line)[0] for line in lines]
    blocks = [
        (owner, [line for _, line in block])
        for owner, block in groupby(zip(owners, lines, strict=True), lambda x: x[0])
    ]
    assert len(blocks) == len({owner for owner, _ in blocks})
    for owner, (help_line, type_line, *series) in blocks:
        assert help_line.startswith(f"# HELP {owner} ")
        assert type_line.startswith(f"# TYPE {owner} ")
        assert series
        assert not any(line.startswith("#") for line in series)


@law_of_recordings(NAMES)
def every_value_is_a_whole_number_except_seconds(recording):
    lines = [line for line in written(recording).splitlines() if not line.startswith("#") and "_seconds" not in line]
    assert [] == [line for line in lines if not re.search(r" \d+$", line)]


@pytest.mark.parametrize("release", RELEASES)
def test_promtool_has_no_complaint(recorded, promtool, release):
    text = text_of(recorded(f"{release}/05-eot-egress-deny.after"))
    checked = subprocess.run([promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)


@pytest.mark.parametrize("release", RELEASES)
def test_a_scrape_is_the_golden_one_line_by_line(recorded, release):
    """Rewritten with UPDATE_GOLDEN=1 in the environment; review the diff."""
    text = text_of(recorded(f"{release}/05-eot-egress-deny.after"))
    for pattern, replacement in CHANGING:
        text = pattern.sub(replacement, text)
    path = GOLDEN / f"{release}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8").splitlines() == text.splitlines()
