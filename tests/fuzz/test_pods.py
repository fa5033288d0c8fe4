"""Whatever an API server says about pods, it is pods whose names are text or one `ApiServerError`; one odd pod hides no
other.
"""

import json
import logging
from threading import Event
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.node.api_server import ApiServerError
from exporter.node.pod_watch import ListedPods, LivePods, list_pods
from exporter.node.pods import ClusterPod
from tests.fuzz.shapes import BROKEN, STRICT, changed, encoded

POD = {
    "metadata": {
        "name": "web", "namespace": "ns", "uid": "1", "resourceVersion": "5",
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5", "controller": True}],
    },
    "spec": {"nodeName": "node-1", "hostNetwork": None},
    "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
}  # fmt: skip
GOOD = json.loads(json.dumps(POD).replace('"web"', '"good"').replace('"1"', '"2"'))
LIST = {"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": [POD, GOOD]}
STATUS = {"kind": "Status", "code": 410, "message": "too old"}


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Server:
    """Answers a list, and a watch with lines; then it is over."""

    def __init__(self, listed, lines=()):
        self.listed, self.watched = listed, lines

    def read(self, *_):
        yield from (self.listed[at : at + 100] for at in range(0, len(self.listed), 100))

    def lines(self, *_):
        yield from self.watched

    def close(self):
        pass


def valid(pods):
    """That these are pods as the rest of the program takes them."""
    for one in pods:
        assert isinstance(one, ClusterPod)
        assert {str} == {type(text) for text in (one.namespace, one.pod, *one.addresses)}
        assert "\n".join((one.namespace, one.pod, *one.addresses)).encode()
    return True


@given(encoded(LIST))
def test_any_list_is_pods_or_an_error(listed):
    try:
        table, version = list_pods(Server(listed), "node-1")
    except ApiServerError:
        return
    assert valid(filter(None, table.values()))
    assert isinstance(version, str)


@given(encoded(LIST))
def test_a_command_has_pods_or_a_sentence(listed):
    known = ListedPods(lambda: Server(listed), "node-1").pods()
    assert valid(known.pods)
    assert bool(known.synced) != bool(known.problem)


@given(changed(POD, anything=STRICT))
def test_one_odd_pod_hides_no_other(odd):
    listed = json.dumps(LIST | {"items": [odd, GOOD]}).encode()
    table, _ = list_pods(Server(listed), "node-1")
    assert "good" in {pod.pod for pod in table.values() if pod}


EVENTS = st.lists(
    encoded({"type": "ADDED", "object": POD})
    | encoded({"type": "MODIFIED", "object": GOOD})
    | encoded({"type": "DELETED", "object": POD})
    | encoded({"type": "ERROR", "object": STATUS})
    | BROKEN
)


@given(EVENTS)
def test_a_watch_that_says_anything_ends_in_an_error_or_leaves_pods(lines):
    with patch("exporter.node.pod_watch.Thread"):
        live = LivePods(lambda: None, "node-1")
    live._table, live._version = list_pods(Server(json.dumps(LIST).encode()), "node-1")
    reason = "gone"
    try:
        live._watch(Server(b"", lines))
    except ApiServerError as error:
        reason = error.reason
    assert reason in live.pods().errors
    assert valid(live.pods().pods)
    assert isinstance(live._version, str)
    assert not Event.is_set(live._closed)
