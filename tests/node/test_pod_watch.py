"""The pods of a node from an API server over real TLS: list, watch, and error handling."""

import os
import time

import pytest

from exporter.node import pod_watch
from exporter.node.api_server import UNREACHABLE, ApiServer
from exporter.node.pod_watch import ListedPods, LivePods
from exporter.node.pods import ClusterPod, ClusterPods
from tests.node.pod_server import HEAD, PODS, PodServer, chunk, event, pod
from tests.stopwatch import Stopwatch
from tests.web.authority import Authority
from tests.web.fake_api_server import Answer, Raw, refusal


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def cluster(authority, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pod_watch, "_MIN_BACKOFF", 0.05)
    monkeypatch.setattr(pod_watch, "_MAX_BACKOFF", 0.2)
    cluster = PodServer(authority)
    yield cluster
    cluster.over = True
    cluster.stop()
    assert [] == cluster.faults


@pytest.fixture
def live(cluster, tmp_path):
    """The node's pods, followed until the end of the test."""
    made = []

    def start(node="node-1"):
        made.append(LivePods(lambda: ApiServer(cluster.kubeconfig(tmp_path / "config")), node))
        return made[-1]

    yield start
    for one in made:
        one.close()


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value


def names(source):
    return sorted(one.pod for one in source.pods().pods)


def test_of_a_pod_its_names_addresses_and_controlling_owner_are_kept(cluster, live):
    cluster.listed = [pod("web", "10.0.0.1", "fd00::1", owner={"kind": "ReplicaSet", "name": "web-5d4"}), pod("bare")]
    source = live()
    assert until(lambda: source.pods().pods)
    expected = {ClusterPod("ns", "web", ("10.0.0.1", "fd00::1"), "ReplicaSet", "web-5d4"), ClusterPod("ns", "bare")}
    assert expected == set(source.pods().pods)
    assert abs(source.pods().synced - time.time()) < 10
    assert source.pods().problem is None


def test_pods_without_an_interface_of_their_own_here_are_left_out(cluster, live):
    cluster.listed = [
        *[pod("host", hostNetwork=True), pod("done", phase="Succeeded"), pod("dead", phase="Failed")],
        *[pod("elsewhere", node="node-2"), pod("new", phase="Pending"), pod("odd", phase="Unknown")],
    ]
    source = live()
    assert until(lambda: ["new", "odd"] == names(source))


def test_only_this_node_is_asked_for_from_the_servers_cache_and_the_watch_goes_on_from_there(cluster, live):
    live("node-7")
    assert until(lambda: cluster.watches)
    selector = {"fieldSelector": "spec.nodeName%3Dnode-7"}
    assert [{**selector, "resourceVersion": "0"}] == cluster.lists
    expected = {**selector, "resourceVersion": "10", "watch": "true", "allowWatchBookmarks": "true"}
    assert [{**expected, "timeoutSeconds": "240"}] == cluster.watches


def test_pods_come_change_and_go_with_their_events(cluster, live):
    source = live()
    cluster.events.put(event("ADDED", pod("web", phase="Pending")))
    assert until(lambda: ["web"] == names(source))
    cluster.events.put(event("MODIFIED", pod("web", "10.0.0.1")))
    assert until(lambda: [("10.0.0.1",)] == [one.addresses for one in source.pods().pods])
    cluster.events.put(event("MODIFIED", pod("web", "10.0.0.1", phase="Succeeded")))
    assert until(lambda: [] == names(source))
    cluster.events.put(event("ADDED", pod("db")) + event("NEWS", pod("db")) + event("DELETED", pod("db")))
    cluster.events.put(event("ADDED", pod("last")))
    assert until(lambda: ["last"] == names(source))


def test_a_recreated_pod_outlives_the_deletion_of_the_old_one(cluster, live):
    cluster.listed = [pod("web-0", "10.0.0.1", uid="old")]
    source = live()
    cluster.events.put(event("ADDED", pod("web-0", "10.0.0.2", uid="new")) + event("DELETED", pod("web-0", uid="old")))
    assert until(lambda: [("10.0.0.2",)] == [one.addresses for one in source.pods().pods])


def test_a_watch_goes_on_from_the_last_bookmark(cluster, live):
    source = live()
    assert until(lambda: cluster.watches)
    cluster.events.put(event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "77"}}))
    cluster.events.put(None)
    assert until(lambda: len(cluster.watches) > 1)
    assert ("77", 1) == (cluster.watches[1]["resourceVersion"], len(cluster.lists))
    assert 0 == sum(source.pods().errors.values())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (event("ERROR", {"kind": "Status", "code": 410, "message": "too old"}), "gone"),
        (event("ERROR", {"kind": "Status", "code": 410}) + event("ADDED", pod("late")), "gone"),
        (b"<html>\n", "malformed"),
        (b'{"type": "ADDED"}\n', "malformed"),
        (b"[" * 10_000 + b"\n", "malformed"),
        (b"\xff\xfe\n", "malformed"),
    ],
)
def test_after_missed_events_all_pods_are_listed_again_and_deletions_are_seen(cluster, live, said, reason):
    cluster.listed = [pod("stays"), pod("goes")]
    source = live()
    assert until(lambda: cluster.watches)
    cluster.listed = [pod("stays"), pod("comes")]
    cluster.events.put(said)
    assert until(lambda: ["comes", "stays"] == names(source))
    assert until(lambda: 1 == source.pods().errors[reason])
    assert source.pods().problem is None


def test_a_watch_that_is_refused_as_too_old_lists_again(cluster, live):
    source = live()
    assert until(lambda: cluster.watches)
    answers = iter([refusal(410, "gone", "Expired")])
    cluster.answers[PODS] = lambda request: (
        (next(answers, None) if "watch" in request.query else None) or cluster.pods(request)
    )
    cluster.events.put(None)
    assert until(lambda: len(cluster.lists) == 2)
    assert until(lambda: source.pods().problem is None and source.pods().errors["gone"] == 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refusal(401, "Unauthorized"), "unauthorized"),
        (refusal(403, "pods is forbidden"), "forbidden"),
        (refusal(500, "etcd"), "server"),
        (refusal(429, "slow down"), "throttled"),
        (Answer(200, b"<html>login</html>"), "malformed"),
        (Answer(200, {"kind": "NodeList", "items": []}), "malformed"),
        (Answer(200, b'{"kind": "PodList", "items": [{'), "malformed"),
        (Raw([]), "connection"),
        (Raw([b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"]), "connection"),
    ],
)
def test_while_the_server_fails_the_last_pods_stay_and_the_failure_is_logged(cluster, live, answer, reason, caplog):
    cluster.listed = [pod("web")]
    source = live()
    assert until(lambda: ["web"] == names(source) and cluster.watches)
    synced = source.pods().synced
    cluster.answers[PODS] = answer
    cluster.events.put(b"not JSON\n")
    assert until(lambda: source.pods().errors[reason] > (reason == "malformed") + 1)
    assert (["web"], synced) == (names(source), source.pods().synced)
    assert source.pods().problem
    assert "\n" not in source.pods().problem
    assert 1 >= caplog.text.count(source.pods().problem)
    cluster.listed = [pod("web"), pod("db")]
    cluster.answers[PODS] = cluster.pods
    assert until(lambda: ["db", "web"] == names(source) and source.pods().problem is None)


def test_one_pod_that_cannot_be_read_does_not_hide_the_others(cluster, live):
    cluster.listed = [{"metadata": 5}, pod("web"), {"metadata": {"name": ["a"]}}, None]
    source = live()
    assert until(lambda: ["web"] == names(source))
    cluster.events.put(event("ADDED", {"metadata": []}) + event("ADDED", pod("db")))
    assert until(lambda: ["db", "web"] == names(source))
    assert 1 == len(cluster.lists)


BOOKMARK = event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "77"}})
GONE = event("ERROR", {"kind": "Status", "code": 410})


@pytest.mark.parametrize(
    "said", [[None], [BOOKMARK, None], [BOOKMARK, GONE, None], [BOOKMARK, b"<html>\n", None]], ids=range(4)
)
def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_a_pause(cluster, live, monkeypatch, said):
    monkeypatch.setattr(pod_watch, "_MIN_BACKOFF", 0.1)
    monkeypatch.setattr(pod_watch, "_MAX_BACKOFF", 10)
    for one in said * 1000:
        cluster.events.put(one)
    live()
    time.sleep(1.5)
    assert 2 <= len(cluster.watches) < 8


def test_a_server_that_is_back_and_wants_a_new_list_is_asked_for_it_at_once(cluster, live, monkeypatch):
    monkeypatch.setattr(pod_watch, "_MAX_BACKOFF", 30)
    source = live()
    assert until(lambda: cluster.watches)
    cluster.answers[PODS] = Raw([])
    cluster.events.put(None)
    assert until(lambda: source.pods().errors["connection"] > 4)  # the next pause is over 1.6 s
    cluster.listed = [pod("fresh")]
    gone = []

    def back(request):
        if "watch" in request.query and not gone:
            gone.append(time.monotonic())
            return refusal(410, "gone", "Expired")
        return cluster.pods(request)

    cluster.answers[PODS] = back
    assert until(lambda: ["fresh"] == names(source), 10)
    assert time.monotonic() - gone[0] < 0.8


@pytest.mark.parametrize(("known", "meanwhile"), [(False, "no pods are known yet"), (True, "using cached pods")])
def test_the_log_says_whether_there_are_pods_to_go_on_with(cluster, live, caplog, known, meanwhile):
    if not known:
        cluster.answers[PODS] = refusal(403, "pods is forbidden")
    source = live()
    assert until(lambda: source.pods().synced if known else source.pods().errors["forbidden"])
    cluster.answers[PODS] = refusal(403, "pods is forbidden")
    cluster.events.put(None)
    assert until(lambda: source.pods().errors["forbidden"])
    assert f"pod watch of node node-1 failed, {meanwhile}: the API server does not let" in caplog.text


def test_retry_after_is_respected(cluster, live):
    cluster.answers[PODS] = Answer(429, {"message": "slow down"}, {"Retry-After": "60"})
    live()
    time.sleep(1)
    assert 1 == len(cluster.seen)


def test_an_idle_stream_is_closed(cluster, live, monkeypatch):
    monkeypatch.setattr(pod_watch, "_IDLE_TIMEOUT", 0.3)
    source = live()
    assert until(lambda: len(cluster.watches) > 1)
    assert source.pods().errors["connection"] > 0
    assert 1 == len(cluster.lists)


def test_a_server_that_restarts_is_found_again(cluster, live):
    source = live()
    assert until(lambda: cluster.watches)
    cluster.over = True
    cluster.stop()
    assert until(lambda: source.pods().problem)
    cluster.listed, cluster.over = [pod("web")], False
    cluster.start()
    cluster.events.put(event("ADDED", pod("web")))
    assert until(lambda: ["web"] == names(source))


def test_a_clock_jump_changes_the_sync_time_and_nothing_else(cluster, live, monkeypatch):
    source = live()
    for number, now in enumerate((4e9, 1.0, 2e9)):
        monkeypatch.setattr(pod_watch.time, "time", lambda now=now: now)
        cluster.events.put(event("ADDED", pod(f"web-{number}")))
        watch = Stopwatch(os.getpid())
        assert until(lambda number=number: f"web-{number}" in names(source))
        assert watch.seconds() < 2
        assert now == source.pods().synced
    assert (1, 1, None) == (len(cluster.lists), len(cluster.watches), source.pods().problem)


def test_a_large_pod_is_accepted_and_its_unused_fields_are_not_kept(cluster, live):
    source = live()
    cluster.events.put(event("ADDED", pod("web", annotations="a" * (10 << 20))))
    assert until(lambda: ["web"] == names(source))


def test_an_unrelated_change_of_a_pod_keeps_the_identical_pods(cluster, live):
    cluster.listed = [pod("web", "10.0.0.1")]
    source = live()
    assert until(lambda: source.pods().pods)
    before = source.pods()
    cluster.events.put(event("MODIFIED", pod("web", "10.0.0.1", version="11")))
    assert until(lambda: source.pods() is not before)
    assert source.pods().pods is before.pods


def test_a_command_lists_once(cluster, tmp_path):
    cluster.listed = [pod("web"), pod("host", hostNetwork=True)]
    source = ListedPods(lambda: ApiServer(cluster.kubeconfig(tmp_path / "config")), "node-1")
    assert [["web"], ["web"]] == [names(source), names(source)]
    assert 1 == len(cluster.lists)


def test_a_command_waits_for_a_slow_server_for_some_seconds_and_no_longer(cluster, tmp_path, monkeypatch):
    # Each byte may come within the time-outs of its own, and all of them take a quarter of a minute.
    monkeypatch.setattr(pod_watch, "_MAX_WAIT", 0.5)

    def trickle():
        yield HEAD
        for _ in range(30):
            time.sleep(0.1)
            yield chunk(b" ")

    cluster.answers[PODS] = Raw(trickle())
    start = time.monotonic()
    source = ListedPods(lambda: ApiServer(cluster.kubeconfig(tmp_path / "config")), "node-1")
    problem = "the API server did not answer within 0.5 s"
    assert ClusterPods(problem=problem, node="node-1", advice=UNREACHABLE) == source.pods()
    assert time.monotonic() - start < 1.5
    assert source.pods() is source.pods()


def test_a_bug_while_pods_are_listed_is_the_commands(tmp_path):
    def connect():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ListedPods(connect, "node-1").pods()


def test_a_command_goes_on_without_pods(cluster, tmp_path, caplog):
    cluster.answers[PODS] = refusal(403, "pods is forbidden")
    source = ListedPods(lambda: ApiServer(cluster.kubeconfig(tmp_path / "config")), "node-1")
    assert () == source.pods().pods
    assert "does not let this exporter list pods (403): pods is forbidden" in source.pods().problem
    assert 1 == caplog.text.count("continuing without the API server's pods")
