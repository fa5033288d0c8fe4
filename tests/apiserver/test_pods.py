"""The pods of a node from a real API server: listed, watched, and listed again after what a watch cannot bridge."""

import json
import time
from contextlib import closing
from itertools import count

import pytest

from exporter.node import pod_watch
from exporter.node.api_server import ApiServer, ApiServerError
from exporter.node.pod_watch import ListedPods, LivePods, list_pods
from exporter.node.pods import ClusterPod
from tests.apiserver.cluster import pod, wait_until

NODE = "node-1"
MANY = 150
_numbers = count(1)


class Recorded(ApiServer):
    """Notes what is asked, and what a watch says."""

    def __init__(self, kubeconfig):
        super().__init__(kubeconfig)
        self.lists, self.watches, self.said = [], [], []

    def read(self, path, params, max_bytes):
        self.lists.append(params)
        return super().read(path, params, max_bytes)

    def lines(self, path, params, max_bytes, idle):
        self.watches.append(params)
        for line in super().lines(path, params, max_bytes, idle):
            self.said.append(json.loads(line))
            yield line

    def versions(self, kind):
        return [one["object"]["metadata"]["resourceVersion"] for one in self.said if one["type"] == kind]


@pytest.fixture
def namespace(cluster):
    """A namespace of each test's own; its pods are gone at the end."""
    name = f"test-{next(_numbers)}"
    cluster.make_namespace(name)
    yield name
    cluster.kubectl("delete", "--raw", f"/api/v1/namespaces/{name}/pods?gracePeriodSeconds=0")


@pytest.fixture
def admin(cluster, tmp_path):
    """The kubeconfig of one who may do everything."""
    return cluster.kubeconfig(tmp_path / "admin", {"token": cluster.admin_token})


@pytest.fixture
def live(admin):
    """The node's pods, followed until the end of the test, and the server that is asked for them."""
    server = Recorded(admin)
    source = LivePods(lambda: server, NODE)
    wait_until(lambda: server.watches)
    yield source, server
    source.close()


def names(source):
    return sorted(one.pod for one in source.pods().pods)


def set_status(cluster, namespace, name, **status):
    words = (f"--namespace={namespace}", "--subresource=status", "--type=merge")
    cluster.kubectl("patch", "pod", name, *words, "-p", json.dumps({"status": status}))


def delete(cluster, namespace, name, port=None):
    words = (f"--namespace={namespace}", "--force", "--grace-period=0")
    cluster.kubectl("delete", "pod", name, *words, port=port)


def test_a_list_has_the_pods_of_this_node_alone_with_names_addresses_and_owners(cluster, namespace, admin):
    cluster.create(pod("web", namespace, NODE, owner="web-5d4"), pod("bare", namespace, NODE))
    cluster.create(pod("far", namespace, "node-2"))
    addresses = [{"ip": "10.0.0.1"}, {"ip": "fd::1"}]
    set_status(cluster, namespace, "web", phase="Running", podIP="10.0.0.1", podIPs=addresses)
    source = ListedPods(lambda: ApiServer(admin), NODE)
    expected = {
        ClusterPod(namespace, "web", ("10.0.0.1", "fd::1"), "ReplicaSet", "web-5d4"),
        ClusterPod(namespace, "bare"),
    }
    assert (None, expected) == (source.pods().problem, set(source.pods().pods))


def test_a_list_of_hundreds_of_pods_is_the_one_of_kubectl(cluster, namespace, admin):
    padding = {f"label-{number}": "x" * 60 for number in range(40)}
    cluster.create(*(pod(f"web-{number}", namespace, NODE, labels=padding) for number in range(MANY)))
    with closing(ApiServer(admin)) as server:
        table, version = list_pods(server, NODE)
    said = json.loads(cluster.kubectl("get", "pods", f"--namespace={namespace}", "--output=json"))["items"]
    assert MANY == len(said)
    expected = {one["metadata"]["uid"]: one["metadata"]["name"] for one in said}
    assert expected == {uid: one.pod for uid, one in table.items()}
    assert int(version) >= max(int(one["metadata"]["resourceVersion"]) for one in said)


def test_pods_come_change_and_go_with_the_watch(cluster, namespace, live):
    source, server = live
    cluster.create(pod("web", namespace, NODE), pod("far", namespace, "node-2"))
    wait_until(lambda: ["web"] == names(source))
    set_status(cluster, namespace, "web", phase="Running", podIP="10.0.0.7", podIPs=[{"ip": "10.0.0.7"}])
    wait_until(lambda: [("10.0.0.7",)] == [one.addresses for one in source.pods().pods])
    cluster.create(pod("job", namespace, NODE))
    wait_until(lambda: ["job", "web"] == names(source))
    set_status(cluster, namespace, "job", phase="Succeeded")
    wait_until(lambda: ["web"] == names(source))
    delete(cluster, namespace, "web")
    wait_until(lambda: [] == names(source))
    assert (1, 1, 0) == (len(server.lists), len(server.watches), sum(source.pods().errors.values()))


def test_a_pod_recreated_under_its_name_is_another_one(cluster, namespace, live):
    source, _ = live
    cluster.create(pod("web-0", namespace, NODE))
    wait_until(lambda: ["web-0"] == names(source))
    delete(cluster, namespace, "web-0")
    cluster.create(pod("web-0", namespace, NODE))
    set_status(cluster, namespace, "web-0", phase="Running", podIP="10.0.0.9", podIPs=[{"ip": "10.0.0.9"}])
    wait_until(lambda: [("10.0.0.9",)] == [one.addresses for one in source.pods().pods])


def test_a_watch_that_ends_goes_on_from_its_last_bookmark_without_a_list(cluster, namespace, monkeypatch, admin):
    # The server sends a bookmark two seconds before the end.
    monkeypatch.setattr(pod_watch, "_WATCH_SECONDS", 8)
    server = Recorded(admin)
    source = LivePods(lambda: server, NODE)
    try:
        wait_until(lambda: server.watches)
        cluster.create(pod("far", namespace, "node-2"))  # a later version, of which this node is told nothing
        wait_until(lambda: len(server.watches) > 1)
        assert [] == server.versions("ADDED")
        assert server.versions("BOOKMARK")[-1] == server.watches[1]["resourceVersion"]
        assert int(server.watches[1]["resourceVersion"]) > int(server.watches[0]["resourceVersion"])
        cluster.create(pod("near", namespace, NODE))
        wait_until(lambda: ["near"] == names(source))
    finally:
        source.close()
    assert (1, {"gone": 0, "connection": 0}) == (
        len(server.lists),
        {reason: source.pods().errors[reason] for reason in ("gone", "connection")},
    )


@pytest.mark.parametrize(
    ("flags", "compacted"),
    [((), False), (("--watch-cache=false",), True)],
    ids=["a new watch cache", "compacted etcd"],
)
def test_what_happened_before_the_oldest_event_is_listed_again(cluster, namespace, live, flags, compacted):
    source, server = live
    cluster.create(pod("stays", namespace, NODE), pod("goes", namespace, NODE))
    wait_until(lambda: ["goes", "stays"] == names(source))
    other = cluster.second()
    cluster.stop()
    delete(cluster, namespace, "goes", port=other)
    wait_until(lambda: source.pods().problem)
    assert ["goes", "stays"] == names(source)  # what was known stays known
    if compacted:
        cluster.compact()
    cluster.stop(other)
    try:
        cluster.start(*flags)
        wait_until(lambda: ["stays"] == names(source))
        assert source.pods().errors["gone"] >= 1
        assert 2 == len(server.lists)
        assert 410 in {one["object"].get("code") for one in server.said if one["type"] == "ERROR"}
        wait_until(lambda: source.pods().problem is None)
        cluster.create(pod("comes", namespace, NODE))
        wait_until(lambda: ["comes", "stays"] == names(source))
    finally:
        if flags:
            cluster.stop()
            cluster.start()


def test_a_version_that_etcd_has_compacted_is_gone(cluster, admin):
    cluster.compact()
    first = {"resourceVersion": "1", "resourceVersionMatch": "Exact"}
    with closing(ApiServer(admin)) as server, pytest.raises(ApiServerError, match="list pods with 410: ") as refused:
        list(server.read("/api/v1/pods", first, 1 << 20))
    assert "gone" == refused.value.reason


def test_a_wrong_token_is_unauthorized_and_the_right_one_is_taken_from_its_file(cluster, namespace, tmp_path):
    file = tmp_path / "token"
    file.write_text("wrong", encoding="ascii")
    cluster.create(pod("web", namespace, NODE))
    source = LivePods(lambda: ApiServer(cluster.kubeconfig(tmp_path / "config", {"tokenFile": str(file)})), NODE)
    try:
        wait_until(lambda: source.pods().errors["unauthorized"])
        file.write_text(cluster.admin_token, encoding="ascii")
        wait_until(lambda: ["web"] == names(source))
    finally:
        source.close()


def test_a_client_certificate_names_the_user(cluster, tmp_path):
    certificate, key = cluster.authority.issue("nobody-of-note")
    user = {"client-certificate": str(certificate), "client-key": str(key)}
    with (
        closing(ApiServer(cluster.kubeconfig(tmp_path / "config", user))) as server,
        pytest.raises(ApiServerError, match='User "nobody-of-note" cannot list resource "pods"') as refused,
    ):
        list_pods(server, NODE)
    assert "forbidden" == refused.value.reason


def test_a_command_names_a_server_that_is_gone_within_seconds(cluster, admin):
    cluster.stop()
    try:
        start = time.monotonic()
        problem = ListedPods(lambda: ApiServer(admin), NODE).pods().problem
        assert (True, "Connection refused") == (time.monotonic() - start < 6, problem[-18:])
    finally:
        cluster.start()
