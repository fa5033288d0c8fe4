"""`top` queries every node at once, shows the top endpoints by drops, and names nodes that did not answer."""

import json
import sys

import pytest

from exporter.kubectl.top import Dropper, worst
from tests import installed
from tests.kubectl.cluster import exporter
from tests.kubectl.conftest import RECORDINGS


@pytest.fixture
def nodes(cluster):
    """Nodes whose exporters read two recordings each."""

    def make(**names):
        for node, name in names.items():
            there = exporter(node)
            cluster.pods.append(there)
            window = ":".join(str(RECORDINGS / f"{name}.{when}.tar.xz") for when in ("before", "after"))
            cluster.runs(there, [installed.program()], CALICO_BPF_EXPORTER_BUNDLE=window)
        return cluster

    return make


def test_the_droppers_of_all_nodes_are_in_one_table(nodes, kubectl):
    cluster = nodes(n1="02-ingress-deny", n2="07-profile-allow", n3="01-egress-deny")
    done = kubectl("top", "--for", "3s")
    head, *rows, summary = done.stdout.splitlines()
    assert ["NODE", "ENDPOINT", "DIRECTION", "REASON", "DROPPED", "PER", "SECOND"] == head.split()
    assert {("n1", "ns-b/server", "inbound", "policy", "10")} <= {tuple(row.split()) for row in rows}
    assert {"n1", "n3"} == {row.split()[0] for row in rows}
    counts = [int(row.split()[4]) for row in rows]
    assert sorted(counts, reverse=True) == counts
    assert f"{sum(counts)} packets dropped by {len(rows)} endpoints of 3 nodes in 3s" == summary
    assert (0, "measuring 3 nodes for 3s\n") == (done.returncode, done.stderr)
    assert 3 * [["counters", "--diff=3s", "--output=json"]] == [words[1:] for _, words in cluster.ran]


def test_one_namespace_and_the_first_few_are_what_was_asked_for(nodes, kubectl):
    nodes(n1="02-ingress-deny", n3="01-egress-deny")
    assert {"ns-b"} == {
        one["namespace"] for one in json.loads(kubectl("top", "-n", "ns-b", "-ojson").stdout)["droppers"]
    }
    everyone = json.loads(kubectl("top", "-ojson").stdout)["droppers"]
    first = kubectl("top", "--top", "1").stdout.splitlines()
    assert [everyone[0]["node"]] == [row.split()[0] for row in first[1:-1]]
    assert first[-1].endswith("that dropped less are not shown")


def test_a_quiet_cluster_has_no_table(nodes, kubectl):
    nodes(n2="07-profile-allow")
    assert "0 packets dropped by 0 endpoints of 1 node in 10s\n" == kubectl("top").stdout


def test_nodes_that_do_not_answer_are_named_and_the_others_shown(nodes, kubectl):
    cluster = nodes(n1="02-ingress-deny", n2="02-ingress-deny", n3="02-ingress-deny")
    cluster.pods.append(exporter("n4", phase="Pending"))
    cluster.runs(exporter("n2"), [sys.executable, "-c", "print('{}')"])
    cluster.runs(exporter("n3"), [sys.executable, "-c", "import sys; sys.exit('Error: no maps \\x1b[2J')"])
    done = kubectl("top")
    assert 1 == done.returncode
    assert {"n1"} == {row.split()[0] for row in done.stdout.splitlines()[1:-1]}
    assert done.stdout.splitlines()[-1].endswith("of 1 node in 10s")
    assert [
        "measuring 3 nodes for 10s",
        "the exporter on node n4, pod calico-system/exporter-n4, does not run: Pending",
        "node n2: its response cannot be read: is that exporter of another version?",
        "node n3: no maps \\x1b[2J",
    ] == done.stderr.splitlines()


def test_a_cluster_whose_exporters_all_fail_has_only_problems(cluster, kubectl):
    cluster.pods.append(exporter("n4", phase="Pending"))
    done = kubectl("top")
    assert (1, "") == (done.returncode, done.stdout)
    assert "pod calico-system/exporter-n4, does not run: Pending" in done.stderr


def test_an_exporter_that_is_on_no_node_is_a_problem_and_no_quiet_cluster(cluster, kubectl):
    waiting = exporter("n4", phase="Pending")
    del waiting["spec"]["nodeName"]
    cluster.pods.append(waiting)
    done = kubectl("top", "-ojson")
    assert (1, "") == (done.returncode, done.stdout)
    assert "pod calico-system/exporter-n4, is on no node yet: it waits for the scheduler" in done.stderr


def test_a_cluster_without_exporters_is_one_sentence(kubectl):
    done = kubectl("top")
    assert (1, "") == (done.returncode, done.stdout)
    assert "Error: no calico-bpf-exporter is in this cluster (searched for pods labelled" in done.stderr


def dropper(interface, packets, node="n1", reason="policy"):
    return Dropper(node, "", "", interface, "inbound", reason, packets, None)


def test_an_endpoint_is_as_bad_as_all_its_rows_together():
    rows = [dropper("a", 6), dropper("b", 4), dropper("b", 5, reason="ttl"), dropper("a", 1, "n2")]
    assert [rows[2], rows[1], rows[0]] == worst(rows, 2)
    assert [rows[2], rows[1], rows[0], rows[3]] == worst(rows, 9)
