"""The page about metrics names every family there is, and none that there is not."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import exporter.metrics
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.counters import CountersCollector
from exporter.metrics.family import COUNTER, ENDPOINT_LABELS
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.web import registry

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
RECORDINGS = Path(__file__).parents[1] / "recordings"
NAME = re.compile(r"`(calico_bpf_[a-z0-9_]*[a-z0-9])(?![a-z0-9_*…])")


def families():
    modules = [
        importlib.import_module(f"exporter.metrics.{one.name}")
        for one in pkgutil.iter_modules(exporter.metrics.__path__)
    ]
    return [family for module in modules for family in getattr(module, "FAMILIES", ())]


def names():
    return {family.name for family in families()} | {registry.REJECTED, registry.RELOADED}


def test_the_page_names_every_family():
    assert set() == names() - set(NAME.findall(PAGE.read_text(encoding="utf-8")))


def test_the_page_names_no_family_that_does_not_exist():
    assert set() == set(NAME.findall(PAGE.read_text(encoding="utf-8"))) - names()


def test_no_two_families_share_a_name():
    assert len(names()) == len(families()) + 2


def test_the_page_says_how_many_samples_the_collector_counters_has():
    rows = re.findall(
        r"^\| `(v3[^`]+)`[^|]*\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) == 5
    for recording, slots, *said in rows:
        bundle = read_bundle(RECORDINGS / f"{recording}.tar.xz")
        snapshot = take_snapshot(bundle, Settings(), Memory(), CountersCollector.parts)
        collectors = [CountersCollector(CollectorOptions(zeros=zeros)) for zeros in ("core", "all", "none")]
        found = [sum(len(one.values) for one in collector.collect(snapshot)) for collector in collectors]
        assert found == [int(one) for one in said], recording
        assert len(snapshot.counters.get().layout.slots) == int(slots)


@pytest.mark.parametrize("family", families(), ids=lambda one: one.name)
def test_a_family_is_named_as_prometheus_asks(family):
    assert re.fullmatch(r"calico_bpf_[a-z][a-z0-9_]*", family.name)
    assert (family.kind == COUNTER) == family.name.endswith("_total")
    assert family.help
    assert len(family.labels) == len(set(family.labels))
    assert not {"job", "instance", "node", "le", "quantile", "iface", "dev"} & set(family.labels)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in family.labels)


@pytest.mark.parametrize("family", families(), ids=lambda one: one.name)
def test_a_counter_by_interface_begins_with_the_five_endpoint_labels(family):
    if family.kind == COUNTER and "hook" in family.labels:
        assert ENDPOINT_LABELS == family.labels[:5]
