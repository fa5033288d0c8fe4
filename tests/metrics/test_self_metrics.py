"""Self-metrics: known values are right, unknown ones are absent."""

import re
from pathlib import Path

import pytest

from exporter import __version__
from exporter.bpf.maps import MapDenied
from exporter.metrics import self_metrics
from exporter.metrics.self_metrics import ExporterCollector, about_collectors
from exporter.node import NodeError
from exporter.node.files import Folder
from exporter.node.pods import ClusterPod, ClusterPods


@pytest.fixture
def parts_of(snapshot_of):
    """A snapshot of a source with the parts this collector needs."""
    return lambda source: snapshot_of(source, parts=ExporterCollector.parts)


def test_the_build_info_names_version_revision_python_and_reader(node, parts_of, series, monkeypatch):
    monkeypatch.setenv(self_metrics.REVISION_VARIABLE, "abc123")
    (labels,) = series(ExporterCollector().collect(parts_of(node())), self_metrics.BUILD_INFO)
    assert (__version__, "abc123", "fake") == (labels[0], labels[1], labels[3])


def test_a_build_that_does_not_know_its_revision_leaves_it_empty(node, parts_of, series, monkeypatch):
    monkeypatch.delenv(self_metrics.REVISION_VARIABLE, raising=False)
    (labels,) = series(ExporterCollector().collect(parts_of(node())), self_metrics.BUILD_INFO)
    assert "" == labels[1]


def test_pods_known_by_name_are_counted(node, parts_of, series):
    pods = {"cali1": ("ns-a", "client"), "cali2": ("ns-b", "server")}
    samples = ExporterCollector().collect(parts_of(node({}, {}, pods=pods)))
    assert {(): 2} == series(samples, self_metrics.PODS)


def test_pods_of_the_api_server_are_counted_once_with_its_last_word_and_its_failures(node, parts_of, series):
    source = node({}, {}, pods={"cali1": ("ns-a", "client")})
    pods = (ClusterPod("ns-a", "client"), ClusterPod("ns-b", "server"))
    source.cluster = ClusterPods(pods, 1700000000.5, None, {"gone": 2, "forbidden": 0})
    samples = ExporterCollector().collect(parts_of(source))
    assert {(): 2} == series(samples, self_metrics.PODS)
    assert {(): 1700000000.5} == series(samples, self_metrics.PODS_SYNCED)
    assert {("gone",): 2, ("forbidden",): 0} == series(samples, self_metrics.WATCH_ERRORS)


@pytest.mark.parametrize("cluster", [None, ClusterPods(problem="not yet")])
def test_when_the_api_server_spoke_last_is_absent_before_it_did(node, parts_of, series, cluster):
    source = node({}, {})
    source.cluster = cluster
    assert {} == series(ExporterCollector().collect(parts_of(source)), self_metrics.PODS_SYNCED)


def test_a_pod_whose_address_is_routed_elsewhere_is_a_mismatch(node, parts_of, series):
    facts = {"links": [(5, "cali1"), (7, "cali2")], "pods": {"cali1": ("ns-a", "client", "10.65.0.2/32")}}
    agreeing = ExporterCollector().collect(parts_of(node({}, {}, routes=[("10.65.0.2", 5)], **facts)))
    disagreeing = ExporterCollector().collect(parts_of(node({}, {}, routes=[("10.65.0.2", 7)], **facts)))
    assert {(): 0} == series(agreeing, self_metrics.ENDPOINT_MISMATCHES)
    assert {(): 1} == series(disagreeing, self_metrics.ENDPOINT_MISMATCHES)


def test_what_could_not_be_read_has_no_sample(node, parts_of, series):
    source = node({}, {})
    source.status = source.link_rows = NodeError("gone")
    source.maps["cali_iface4"] = MapDenied("not allowed")
    samples = ExporterCollector().collect(parts_of(source))
    assert {} == series(samples, self_metrics.PODS)
    assert 1 == len(series(samples, self_metrics.BUILD_INFO))


@pytest.mark.parametrize("well", [True, False])
def test_each_collector_has_its_success_and_its_seconds(series, well):
    samples = about_collectors([("counters", True, 0.25), ("maps", well, 0.5)])
    assert {("counters",): 1, ("maps",): int(well)} == series(samples, self_metrics.COLLECTOR_SUCCESS)
    assert {("counters",): 0.25, ("maps",): 0.5} == series(samples, self_metrics.COLLECTOR_SECONDS)


def test_the_image_sets_the_revision_that_the_build_is_given():
    last_stage = (Path(__file__).parents[2] / "Dockerfile").read_text(encoding="utf-8").rpartition("FROM scratch")[2]
    assert re.search(rf'ENV (?:.*\\\n)*.*\b{self_metrics.REVISION_VARIABLE}="\$\{{REVISION\}}"', last_stage)


SOURCES = {
    "links": "link_rows",
    "routes": "route_rows",
    "endpoint_status": "status",
    "policy_files": "policy_names",
    "api_server": "cluster",
}


def test_status_files_of_which_none_can_be_read_are_no_source(node, parts_of, series):
    source = node({}, {})
    source.status = Folder(present=True, files={}, problems=("refused",), unread=("k8s ns-a%2Fclient eth0",))
    assert 0 == series(ExporterCollector().collect(parts_of(source)), self_metrics.SOURCE_AVAILABLE)["endpoint_status",]


@pytest.mark.parametrize("broken", [*SOURCES, "interface_state", "run_dir", None])
def test_each_source_is_available_unless_it_could_not_be_read(node, parts_of, series, broken):
    source = node({(5, 0): {}}, {5: ("cali1", 0x7)})
    source.cluster = ClusterPods(synced=1.0)
    if broken == "interface_state":
        source.maps["cali_iface4"] = MapDenied("no")
    elif broken:
        setattr(source, SOURCES.get(broken, broken), NodeError("hangs"))
    found = series(ExporterCollector().collect(parts_of(source)), self_metrics.SOURCE_AVAILABLE)
    missing = {"endpoint_status", "policy_files"} if broken == "run_dir" else {broken}
    assert {(name,): int(name not in missing) for name in (*SOURCES, "interface_state")} == found


def test_a_source_that_is_not_used_has_no_series(node, parts_of, series):
    found = series(ExporterCollector().collect(parts_of(node(links=[(1, "lo")]))), self_metrics.SOURCE_AVAILABLE)
    assert {"links", "routes", "endpoint_status", "policy_files"} == {name for (name,) in found}


def test_links_of_another_network_namespace_are_not_available(node, parts_of, series):
    states = {5: ("cali1", 0x7), 6: ("cali2", 0x7)}
    source = node({}, states, links=[(1, "lo"), (2, "eth0")])
    assert 0 == series(ExporterCollector().collect(parts_of(source)), self_metrics.SOURCE_AVAILABLE)["links",]
