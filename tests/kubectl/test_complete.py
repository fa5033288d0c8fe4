"""In kubectl itself, Tab completes pods, namespaces, nodes, contexts, commands and flags; an error is no candidate."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.kubectl.cluster import pod


@pytest.fixture
def complete(environment):
    """What kubectl offers for the last of the words, and cobra's directive."""

    def run(*words):
        command = ["kubectl", "__complete", "calico-bpf", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
        *offered, directive = done.stdout.split("\n")[:-1]
        return [line.partition("\t")[0] for line in offered], directive

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["why", ""], ["one", "other"]),
        (["why", "ot"], ["other"]),
        (["why", "ns-b/"], ["ns-b/server"]),
        (["why", "-n", "ns-b", ""], ["server"]),
        (["counters", "--nonzero", "o"], ["one", "other"]),
        (["why", "one", "--to", "ns-b/s"], ["ns-b/server"]),
        (["check", "--node", ""], ["n1", "n2"]),
        (["policy", "--namespace", "ns-"], ["ns-b", "ns-c"]),
        (["policy", "--context", ""], ["test"]),
        (["policy", "--direction", ""], ["inbound", "outbound", "all"]),
        (["policy", "--ip"], ["--ip-sets"]),
        (["trace", "o"], ["one", "other"]),
        (["trace", "one", "ot"], ["other"]),
        (["trace", "one", "ns-b/"], ["ns-b/server"]),
        (["trace", "-n", "ns-b", "server", "s"], ["server", "svc/"]),
        (["trace", "s"], []),
        (["trace", "one", "--protocol", "ic"], ["icmp", "icmpv6"]),
        (["trace", "one", "--vi"], ["--via"]),
        (["c"], ["check", "conntrack", "counters"]),
        (["why", "nosuch"], []),
        (["why", "-n", "nosuch", ""], []),
    ],
)
def test_what_could_come_next_is_offered(recorded, complete, words, expected):
    recorded().pods += [pod("one", "n2"), pod("other", "n1")]
    assert (expected, ":4") == complete(*words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trace", "one", "svc/ns-b/"], ["svc/ns-b/web"]),
        (["trace", "-n", "ns-b", "one", "svc/w"], ["svc/web"]),
        (["trace", "one", "svc/"], []),
        (["trace", "svc/ns-b/"], []),
    ],
)
def test_services_are_offered_where_one_can_be(recorded, complete, words, expected):
    metadata = {"name": "web", "namespace": "ns-b"}
    recorded().services.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata})
    assert (expected, ":4") == complete(*words)


def test_contexts_keep_their_slashes_and_spaces_and_one_pod_is_enough(recorded, complete, environment):
    recorded()
    file = Path(environment["KUBECONFIG"])
    config = json.loads(file.read_text())
    (only,) = config["contexts"]
    config["contexts"] += [{**only, "name": name} for name in ("arn:aws:eks:x:cluster/prod", "with space")]
    file.write_text(json.dumps(config))
    assert (["arn:aws:eks:x:cluster/prod", "test", "with space"], ":4") == complete("top", "--context", "")
    assert ["arn:aws:eks:x:cluster/prod"] == complete("top", "--context", "arn")[0]
    assert [] == complete("counters", "one", "")[0]


def test_files_are_offered_where_a_file_is_meant(complete):
    assert ([], ":0") == complete("why", "--kubeconfig", "")


def test_nothing_is_offered_while_the_api_server_is_away(api, complete):
    api.stop()
    assert ([], ":4") == complete("why", "")
