"""The pods of this node, from the cluster's API server: listed once, then watched in one thread.

Keeps only the fields in `pods.py`, also while the API server is unavailable. Pitfalls of watches handled here: an
expired resource version (410, as a status or within the stream) requires a new list; an idle stream may be dead; a pod
recreated under its old name is another pod, identified by its uid.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import replace
from threading import Event, Thread
from typing import Protocol

from exporter.node.api_server import UNREACHABLE, ApiServerError, one_line, reason_of
from exporter.node.json_stream import MalformedError, decode, members
from exporter.node.pod_objects import PodObject, parse_event, parse_pod, parse_status, resource_version
from exporter.node.pods import ClusterPod, ClusterPods

log = logging.getLogger("exporter.node")

_PATH = "/api/v1/pods"
_MAX_LIST = 64 << 20
_MAX_EVENT = _MAX_OBJECT = 16 << 20
# The server ends a watch after this time; a stream that is idle for longer is dead.
_WATCH_SECONDS = 240
_IDLE_TIMEOUT = _WATCH_SECONDS + 20
_MIN_BACKOFF, _MAX_BACKOFF = 0.5, 30.0
_SHORT_WATCH = 5.0
_MAX_WAIT = 5.0  # of a command, for a list; the time-outs of its single steps add up to more
REASONS = ("gone", "unauthorized", "forbidden", "throttled", "server", "connection", "malformed")


class PodsServer(Protocol):
    """The part of `ApiServer` that pods need. Requests raise `ApiServerError`."""

    def read(self, path: str, params: Mapping[str, str], max_bytes: int) -> Generator[bytes]:
        """Yields the response to a GET in pieces."""

    def lines(self, path: str, params: Mapping[str, str], max_bytes: int, idle: float) -> Iterable[bytes]:
        """Yields the lines of a GET's response as they arrive."""

    def close(self) -> None:
        """Closes the connection."""


class ListedPods:
    """A `PodSource` for a command that needs one list: it is read at first use."""

    def __init__(self, connect: Callable[[], PodsServer], node: str) -> None:
        self._connect = connect
        self._node = node
        self._known: ClusterPods | None = None

    def pods(self) -> ClusterPods:
        """See `PodSource`; the first call waits for the list, for some seconds at most."""
        if self._known is None:
            answer: Future[ClusterPods] = Future()
            Thread(target=self._answer, args=(answer,), name="pods", daemon=True).start()
            try:
                self._known = answer.result(_MAX_WAIT)
            except TimeoutError:  # of the wait: the thread turns the server's into an answer
                problem = f"the API server did not answer within {_MAX_WAIT:g} s"
                self._known = ClusterPods(problem=problem, node=self._node, advice=UNREACHABLE)
            if self._known.problem:
                log.warning("continuing without the API server's pods: %s", self._known.problem)
        return self._known

    def _answer(self, answer: "Future[ClusterPods]") -> None:
        try:
            with closing(self._connect()) as server:
                table, _ = list_pods(server, self._node)
            answer.set_result(ClusterPods(tuple(filter(None, table.values())), time.time(), node=self._node))
        except ApiServerError as error:
            answer.set_result(ClusterPods(problem=str(error), node=self._node, advice=error.advice))
        except BaseException as error:  # noqa: BLE001  a bug: raised where the answer is waited for
            answer.set_exception(error)


class LivePods:
    """A `PodSource` that watches the API server in a thread, until `close`."""

    def __init__(self, connect: Callable[[], PodsServer], node: str) -> None:
        self._connect = connect
        self._node = node
        self._errors: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._table: dict[str, ClusterPod | None] = {}
        self._version = ""  # of the last list, event or bookmark; empty: list again
        self._received = False  # whether the last watch sent an event
        self._known = ClusterPods(problem="the API server has not answered yet", errors=dict(self._errors), node=node)
        self._server: PodsServer | None = None
        self._closed = Event()
        Thread(target=self._run, name="pods", daemon=True).start()

    def pods(self) -> ClusterPods:
        """See `PodSource`."""
        return self._known

    def close(self) -> None:
        """Stops the thread at the next event or timeout."""
        self._closed.set()

    def _run(self) -> None:
        # By kind: a server that is back and wants all pods listed again has not been asked too often.
        backoff: dict[bool, float] = {}
        while not self._closed.is_set():
            start = time.monotonic()
            reason, retry_after = self._attempt()
            # By duration, not by events: a server that ends each watch after one event needs a backoff too.
            short = time.monotonic() - start < _SHORT_WATCH
            if not short:
                backoff.clear()
            gone = reason == "gone"
            pause = backoff.get(gone, _MIN_BACKOFF) if reason or short else 0.0
            if short:
                backoff[gone] = min(2 * pause, _MAX_BACKOFF)
            # Jitter: not all nodes must connect at once when the API server recovers.
            self._closed.wait(max(retry_after, pause) * random.uniform(1, 1.5))  # noqa: S311
        if self._server:
            self._server.close()

    def _attempt(self) -> tuple[str, float]:
        """Lists the pods if need be and watches them; why that ended (empty: as it should) and when to come again."""
        self._received = False
        try:
            self._server = self._server or self._connect()
            if not self._version:
                self._table, self._version = list_pods(self._server, self._node)
                self._publish()
            self._watch(self._server)
        except ApiServerError as error:
            if error.reason in ("gone", "malformed"):
                self._version = ""  # something may have been missed
            self._fail(error.reason, str(error), error.advice)
            return error.reason, error.retry_after
        except Exception:  # the thread must not die: its last table would be served forever
            log.exception("unexpected error while following the node's pods")
            self._fail("malformed", "unexpected error while following the node's pods, please report it")
            self._version = ""
            return "malformed", 0.0
        return "", 0.0

    def _watch(self, server: PodsServer) -> None:
        params = {
            **_selector(self._node),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        start = time.monotonic()
        for line in server.lines(_PATH, params, _MAX_EVENT, _IDLE_TIMEOUT):
            if self._closed.is_set():
                return
            if line:
                self._handle(line)
        if not self._received and time.monotonic() - start < _SHORT_WATCH:
            raise ApiServerError("the API server ended a watch of pods at once", reason="connection")

    def _handle(self, line: bytes) -> None:
        with _malformed():
            kind, value = parse_event(decode(line))
            if kind == "ERROR":
                code, message = parse_status(value)
                sentence = f"the API server ended a watch of pods with {code}: {one_line(message)}"
                raise ApiServerError(sentence, reason_of(code))
        pod = _readable(value, self._node)
        if pod and kind == "DELETED":
            self._table.pop(pod.uid, None)
        elif pod and kind in ("ADDED", "MODIFIED"):
            self._table[pod.uid] = pod.pod
        if pod:
            self._version = pod.version or self._version
        self._received = True
        self._publish()

    def _publish(self) -> None:
        if self._known.problem and self._known.synced:
            log.info("pod watch of node %s recovered", self._node)
        pods = tuple(pod for pod in self._table.values() if pod)
        if pods == self._known.pods:
            pods = self._known.pods  # callers detect by identity that nothing changed
        self._known = replace(self._known, pods=pods, synced=time.time(), problem=None)

    def _fail(self, reason: str, sentence: str, advice: str = "") -> None:
        self._errors[reason] += 1
        if reason != "gone" and sentence != self._known.problem:
            meanwhile = "using cached pods" if self._known.synced else "no pods are known yet"
            log.warning("pod watch of node %s failed, %s: %s", self._node, meanwhile, sentence)
        if reason != "gone":
            self._known = replace(self._known, problem=sentence, advice=advice)
        self._known = replace(self._known, errors=dict(self._errors))


def list_pods(server: PodsServer, node: str) -> tuple[dict[str, ClusterPod | None], str]:
    """The pods of `node` by uid, None for one without an interface, and the version of the list.

    From the API server's cache (resourceVersion 0): hundreds of nodes list at once when it recovers.
    """
    pods: dict[str, ClusterPod | None] = {}
    kind = version = ""
    with closing(server.read(_PATH, {**_selector(node), "resourceVersion": "0"}, _MAX_LIST)) as pieces, _malformed():
        for name, value in members(pieces, _MAX_OBJECT):
            if name == "items":
                if value is not None and (pod := _readable(value, node)):
                    pods[pod.uid] = pod.pod
            elif name == "kind":
                kind = value
            elif name == "metadata":
                version = resource_version({name: value})
    if kind != "PodList":
        said = one_line(kind) if isinstance(kind, str) and kind else "something else"
        raise ApiServerError(f"the API server answered a list of pods with {said}")
    return pods, version


def _readable(value: object, node: str) -> PodObject | None:
    try:
        return parse_pod(value, node)
    except MalformedError as error:
        log.warning("a pod is left out: %s", error)  # one malformed pod must not hide the others
        return None


def _selector(node: str) -> dict[str, str]:
    return {"fieldSelector": f"spec.nodeName={node}"}


@contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        sentence = f"the API server said something about pods that cannot be read: {one_line(str(error))}"
        raise ApiServerError(sentence) from error
