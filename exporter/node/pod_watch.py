"""The pods of this node, from the cluster's API server: listed once, then watched in one thread.

Keeps only the fields in `pods.py`, also while the API server is unavailable. Pitfalls of watches handled here: an
expired resource version (410, as a status or within the stream) requires a new list; an idle stream may be dead; a pod
recreated under its old name is another pod, identified by its uid.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from threading import Event, Thread
from typing import Protocol, TypeVar

import msgspec

from exporter.node.api_server import ApiServerError, one_line, reason_of
from exporter.node.pods import ClusterPod, ClusterPods

log = logging.getLogger("exporter.node")

_PATH = "/api/v1/pods"
_MAX_LIST = 64 << 20
_MAX_EVENT = 16 << 20
# The server ends a watch after this time; a stream that is idle for longer is dead.
_WATCH_SECONDS = 240
_IDLE_TIMEOUT = _WATCH_SECONDS + 20
_MIN_BACKOFF, _MAX_BACKOFF = 0.5, 30.0
_SHORT_WATCH = 5.0
_ENDED = ("Succeeded", "Failed")
REASONS = ("gone", "unauthorized", "forbidden", "throttled", "server", "connection", "malformed")


_Kind = TypeVar("_Kind")


class PodsServer(Protocol):
    """The part of `ApiServer` that pods need. Requests raise `ApiServerError`."""

    def read(self, path: str, params: Mapping[str, str], max_bytes: int) -> bytes:
        """The whole response to a GET."""

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
        """See `PodSource`; the first call waits for the list."""
        if self._known is None:
            try:
                with closing(self._connect()) as server:
                    table, _ = list_pods(server, self._node)
                pods = tuple(filter(None, table.values()))
                self._known = ClusterPods(pods, time.time(), node=self._node)
            except ApiServerError as error:
                log.warning("continuing without the API server's pods: %s", error)
                self._known = ClusterPods(problem=str(error), node=self._node)
        return self._known


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
        self._closed = Event()
        Thread(target=self._run, name="pods", daemon=True).start()

    def pods(self) -> ClusterPods:
        """See `PodSource`."""
        return self._known

    def close(self) -> None:
        """Stops the thread at the next event or timeout."""
        self._closed.set()

    def _run(self) -> None:
        backoff = _MIN_BACKOFF
        server: PodsServer | None = None
        while not self._closed.is_set():
            wait = 0.0
            start = time.monotonic()
            self._received = False
            try:
                server = server or self._connect()
                if not self._version:
                    self._table, self._version = list_pods(server, self._node)
                    self._publish()
                self._watch(server)
            except ApiServerError as error:
                if error.reason in ("gone", "malformed"):
                    self._version = ""  # something may have been missed
                self._fail(error.reason, str(error))
                wait = max(error.retry_after, backoff)
            except Exception:  # the thread must not die: its last table would be served forever
                log.exception("following the node's pods met an unforeseen error")
                self._fail("malformed", "following the node's pods met an unforeseen error, please report it")
                self._version, wait = "", backoff
            # By duration, not by events: a server that ends each watch after one event needs a backoff too.
            short = time.monotonic() - start < _SHORT_WATCH
            wait = max(wait, backoff) if short else wait
            backoff = min(2 * backoff, _MAX_BACKOFF) if short else _MIN_BACKOFF
            # Jitter: not all nodes must connect at once when the API server recovers.
            self._closed.wait(wait * random.uniform(1, 1.5))  # noqa: S311
        if server:
            server.close()

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
        event = _decode(line, _Event)
        if event.type == "ERROR":
            status = _decode(event.object, _Status)
            sentence = f"the API server ended a watch of pods with {status.code}: {one_line(status.message)}"
            raise ApiServerError(sentence, reason_of(status.code))
        pod = _readable(event.object)
        if pod and event.type == "DELETED":
            self._table.pop(pod.metadata.uid, None)
        elif pod and event.type in ("ADDED", "MODIFIED"):
            self._table[pod.metadata.uid] = _kept(pod, self._node)
        if pod:
            self._version = pod.metadata.resourceVersion or self._version
        self._received = True
        self._publish()

    def _publish(self) -> None:
        if self._known.problem and self._known.synced:
            log.info("pod watch of node %s recovered", self._node)
        pods = tuple(pod for pod in self._table.values() if pod)
        if pods == self._known.pods:
            pods = self._known.pods  # callers detect by identity that nothing changed
        self._known = replace(self._known, pods=pods, synced=time.time(), problem=None)

    def _fail(self, reason: str, sentence: str) -> None:
        self._errors[reason] += 1
        if reason != "gone" and sentence != self._known.problem:
            log.warning("pod watch of node %s failed, using cached pods: %s", self._node, sentence)
        problem = self._known.problem if reason == "gone" else sentence
        self._known = replace(self._known, problem=problem, errors=dict(self._errors))


def list_pods(server: PodsServer, node: str) -> tuple[dict[str, ClusterPod | None], str]:
    """The pods of `node` by uid, None for one without an interface, and the version of the list.

    From the API server's cache (resourceVersion 0): hundreds of nodes list at once when it recovers.
    """
    content = server.read(_PATH, {**_selector(node), "resourceVersion": "0"}, _MAX_LIST)
    whole = _decode(content, _List)
    if whole.kind != "PodList":
        raise ApiServerError(f"the API server answered a list of pods with {whole.kind or 'something else'}")
    pods = filter(None, map(_readable, whole.items or ()))
    return {pod.metadata.uid: _kept(pod, node) for pod in pods}, whole.metadata.resourceVersion


def _kept(pod: "_Pod", node: str) -> ClusterPod | None:
    if pod.spec.hostNetwork or pod.status.phase in _ENDED or pod.spec.nodeName not in ("", node):
        return None
    owner = next((one for one in pod.metadata.ownerReferences or () if one.controller), None)
    addresses = [one.ip for one in pod.status.podIPs or ()] or [pod.status.podIP]
    return ClusterPod(
        pod.metadata.namespace,
        pod.metadata.name,
        tuple(filter(None, dict.fromkeys(addresses))),
        owner.kind if owner else "",
        owner.name if owner else "",
    )


def _readable(raw: msgspec.Raw) -> "_Pod | None":
    try:
        return _decode(raw, _Pod)
    except ApiServerError as error:
        log.warning("a pod is left out: %s", error)  # one malformed pod must not hide the others
        return None


def _selector(node: str) -> dict[str, str]:
    return {"fieldSelector": f"spec.nodeName={node}"}


def _decode(raw: bytes | msgspec.Raw, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ApiServerError(f"the API server said something about pods that cannot be read: {error}") from error


# The fields of the API's objects that are used; all others are skipped. Null means absent in the API's JSON: Go encodes
# empty lists as null.
class _Owner(msgspec.Struct):
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class _Metadata(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815  the API's names, here and below
    ownerReferences: list[_Owner] | None = None  # noqa: N815


class _Spec(msgspec.Struct):
    nodeName: str = ""  # noqa: N815
    hostNetwork: bool | None = None  # noqa: N815


class _Address(msgspec.Struct):
    ip: str = ""


class _PodStatus(msgspec.Struct):
    phase: str = ""
    podIP: str = ""  # noqa: N815
    podIPs: list[_Address] | None = None  # noqa: N815


class _Pod(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _List(msgspec.Struct):
    kind: str = ""
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""
