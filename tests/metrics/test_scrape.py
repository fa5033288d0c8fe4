"""A scrape: each collector returns all samples or none, and failures are isolated."""

import logging
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest

from exporter.bpf.maps import MapDenied, MapError
from exporter.calico import LayoutError
from exporter.metrics import endpoints, rules, self_metrics
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.family import GAUGE, Family, Samples
from exporter.metrics.scrape import (
    COLLECTOR_NAMES,
    COLLECTORS,
    ON_BY_DEFAULT,
    Collected,
    collected_samples,
    exporter_samples,
    make_collectors,
    run_collector,
)
from exporter.metrics.self_metrics import ExporterCollector
from exporter.node import NodeError
from exporter.node.pods import ClusterPod, ClusterPods
from tests.parts import EVERY_PART

LEVEL = Family("test_level", GAUGE, "A level.")
POD = ("cali1", 0x7)


@dataclass
class One:
    """A collector that writes one sample, or raises."""

    parts: ClassVar = frozenset()
    error: Exception | None = None
    name: str = "one"

    def collect(self, snapshot):
        if self.error:
            raise self.error
        return [Samples(LEVEL, [((), 1)])]


@pytest.mark.parametrize("error", [MapDenied("not allowed"), LayoutError("odd sizes"), NodeError("gone")])
def test_a_foreseen_failure_is_its_sentence_and_no_sample(node, read_of, error, caplog):
    result = run_collector(One(error), read_of(node()))
    assert ((), str(error)) == (tuple(result.samples), result.failure)
    assert [] == caplog.records


@pytest.mark.parametrize("error", [KeyError("cali1"), ValueError("x"), RecursionError(), OSError(5, "EIO")])
def test_an_unexpected_error_is_a_failure_too_and_its_traceback_is_logged(node, read_of, error, caplog):
    with caplog.at_level(logging.ERROR, "exporter.metrics"):
        result = run_collector(One(error), read_of(node()))
    assert () == tuple(result.samples)
    assert f"unexpected error ({type(error).__name__}), please report it" == result.failure
    (record,) = caplog.records
    assert error is record.exc_info[1]


def test_a_refusal_of_memory_is_a_sentence_that_says_what_to_raise_and_no_traceback(node, read_of, caplog):
    result = run_collector(One(MemoryError()), read_of(node()))
    assert () == tuple(result.samples)
    assert "raise its limit" in result.failure
    assert [] == caplog.records


def test_a_collector_that_works_has_no_failure_and_its_time(node, read_of):
    class Slow(One):
        def collect(self, snapshot):
            time.sleep(0.01)
            return super().collect(snapshot)

    result = run_collector(Slow(), read_of(node()))
    assert (1, None) == (len(result.samples), result.failure)
    assert result.seconds >= 0.01


def test_one_collectors_failure_leaves_the_others_whole(node, read_of, series):
    read = read_of(node())
    results = [run_collector(one, read) for one in (One(KeyError("x"), "broken"), One())]
    samples = collected_samples(results)
    assert {(): 1} == series(samples, LEVEL)
    assert {("broken",): 0, ("one",): 1} == series(samples, self_metrics.COLLECTOR_SUCCESS)
    assert {("broken",), ("one",)} == set(series(samples, self_metrics.COLLECTOR_SECONDS))


def test_a_broken_counter_map_fails_what_needs_it_and_nothing_else(node, read_of, series, rows):
    source = node({(5, 0): {}}, {5: POD})
    source.maps["cali_counters6"] = MapError("it kept changing")
    read = read_of(source)
    samples = collected_samples([run_collector(one, read) for one in make_collectors(ON_BY_DEFAULT)])
    success = series(samples, self_metrics.COLLECTOR_SUCCESS)
    assert (0, 1, 0) == (success["counters",], success["endpoints",], success["maps",])
    written = {name for name, _, _ in rows(samples)}
    assert not any(name.endswith("_packets_total") or name.startswith("calico_bpf_map_") for name in written)


def test_on_a_node_without_calico_every_collector_succeeds_without_samples(node, read_of, series):
    read = read_of(node(links=[(1, "lo")]))
    results = [run_collector(one, read) for one in make_collectors(COLLECTOR_NAMES)]
    assert [] == [one.name for one in results if one.failure or one.samples]
    samples = exporter_samples(read)
    assert {(): 0} == series(samples, self_metrics.DATAPLANE_PRESENT)
    assert 1 == len(series(samples, self_metrics.BUILD_INFO))


def test_where_the_pins_cannot_be_listed_nothing_is_said_about_the_dataplane(node, read_of, series):
    source = node(links=[(1, "lo")])
    source.pin_names = lambda: _raise(MapDenied("run as root"))
    results = [run_collector(one, read_of(source)) for one in make_collectors(["counters", "maps"])]
    assert ["run as root"] * 2 == [one.failure for one in results]
    assert {} == series(exporter_samples(read_of(source)), self_metrics.DATAPLANE_PRESENT)


def _raise(error):
    raise error


def test_a_family_of_two_collectors_stands_once_with_the_samples_of_both(rows):
    shared, other = Family("test_shared", GAUGE, "Of two.", ("of",)), Family("test_other", GAUGE, "Of one.")
    first, second = Samples(shared, [(("one",), 1)]), Samples(shared, [(("two",), 2), (("three",), 3)])
    results = [Collected("a", [first, Samples(other, [((), 7)])], 0.5), Collected("b", [second], 0.5)]
    expected = [("test_shared", (of,), value) for value, of in enumerate(("one", "two", "three"), 1)]
    for _ in range(2):  # what a collector keeps for its next scrape is left as it is
        samples = collected_samples(results)
        assert [shared, other] == [one.family for one in samples[:2]]
        assert [*expected, ("test_other", (), 7)] == rows(samples[:2])
    assert [[1], [2, 3]] == [first.values, second.values]


def test_problems_of_endpoints_are_counted_in_one_family_whatever_collectors_are_on(recorded, series):
    snapshot = recorded("v3.29.7/57-hep-traffic.after")
    expected = {"endpoints": {("not_ready",), ("counters_missing",)}, "rules": {("policy_error",)}, "maps": set()}
    for names in (["endpoints"], ["rules"], ["maps"], ["rules", "endpoints"], ON_BY_DEFAULT):
        samples = collected_samples([run_collector(one, lambda _: snapshot) for one in make_collectors(names)])
        found = series(samples, endpoints.PROBLEMS)
        assert set().union(*(expected.get(name, set()) for name in names)) == set(found)
        assert 2 == found.get(("policy_error",), 2)
        assert len(samples) == len({one.family.name for one in samples})


def test_collectors_are_made_by_name_in_one_order():
    assert ["counters", "maps"] == [one.name for one in make_collectors(["maps", "counters"])]
    assert list(COLLECTOR_NAMES) == [one.name for one in make_collectors(COLLECTOR_NAMES)]


def test_collectors_of_the_kernels_own_counters_and_of_connection_tracking_are_off_by_default():
    assert {"nic", "conntrack"} == set(COLLECTOR_NAMES) - set(ON_BY_DEFAULT)


def test_the_wish_for_zeros_reaches_the_counters(node, read_of, rows):
    read = read_of(node({(5, 0): {}}, {5: POD}, links=NodeError("no netlink")))
    found = {}
    for zeros in ("none", "core", "all"):
        (collector,) = make_collectors(["counters"], CollectorOptions(zeros=zeros))
        found[zeros] = len(rows(run_collector(collector, read).samples))
    assert {"none": 1, "core": 4, "all": 27} == found


def test_the_other_wishes_reach_their_collectors(recorded, series, node, read_of):
    source = node({}, {5: POD}, pods={"cali1": ("ns-a", "client")})
    source.cluster = ClusterPods((ClusterPod("ns-a", "client", (), "ReplicaSet", "client-5d4"),))
    snapshot = recorded("v3.32.1/53-rule-inserted-at-0.after")
    found = []
    for options in (CollectorOptions(), CollectorOptions(unattributed=True, workloads=True)):
        of_rules, of_endpoints = make_collectors(["rules"], options), make_collectors(["endpoints"], options)
        unattributed = series(run_collector(of_rules[0], lambda _: snapshot).samples, rules.UNATTRIBUTED_HITS)
        owners = series(run_collector(of_endpoints[0], read_of(source)).samples, endpoints.WORKLOAD_INFO)
        found.append((len(unattributed) > 0, len(owners)))
    assert [(False, 0), (True, 1)] == found


# What a collector needs.


@pytest.mark.parametrize("collector", [*COLLECTORS, ExporterCollector], ids=lambda one: one.name)
def test_a_collector_asks_for_parts_that_there_are(collector):
    assert collector.parts
    assert collector.parts <= {
        *EVERY_PART,
        "map_fills",
        "conntrack_count",
    }  # which commands other than `scrape` have no use for


def test_a_collector_is_given_the_parts_that_it_asks_for_and_what_they_cannot_give_is_its_failure(node, read_of):
    asked = []

    def read(parts):
        asked.append(parts)
        raise MapDenied("refused", "run as root")

    results = [run_collector(one(CollectorOptions()), read) for one in COLLECTORS]
    assert [one.parts for one in COLLECTORS] == asked
    assert {"refused: run as root"} == {one.failure for one in results}


def test_collectors_have_names_and_words_of_their_own():
    assert len(COLLECTORS) == len({one.name for one in COLLECTORS}) == len({one.about for one in COLLECTORS})
    assert COLLECTOR_NAMES == tuple(one.name for one in COLLECTORS)
