"""A cluster for kubectl: pods that the fake API server lists, and real programs that `kubectl exec` runs in them.

Speaks what kubectl asks for: discovery, pods by name, label and node, and exec over a WebSocket (v5.channel.k8s.io).
"""

import base64
import fcntl
import hashlib
import json
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from contextlib import suppress
from urllib.parse import parse_qs, unquote

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection

from tests.web.fake_api_server import Answer, Upgrade, refusal

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
LABEL = {"app.kubernetes.io/name": "calico-bpf-exporter"}


def pod(name, node="n1", namespace="default", *, labels=None, network=False, phase="Running", **status):
    """A pod as the API returns it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": f"{namespace}-{name}", "labels": labels or {}},
        "spec": {
            **({"nodeName": node} if node else {}),
            **({"hostNetwork": True} if network else {}),
            "containers": [{"name": "main", "image": "x"}],
        },
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True"}], **status},
    }


def exporter(node, name=None, **more):
    """The exporter's pod on a node."""
    more = {"namespace": "calico-system", "network": True, **more}
    found = pod(name or f"exporter-{node}", node, labels=LABEL, **more)
    found["metadata"]["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "exporter"}]
    found["metadata"]["ownerReferences"][0] |= {"uid": "1", "controller": True}
    return found


class Cluster:
    """What kubectl finds: `pods`, `programs` by pod (command and environment, run for real), `refused` by pod.

    `namespaces` are those that it made, by name.
    """

    def __init__(self, api):
        self.api = api
        self.pods = []
        self.namespaces = {}
        self.services = []
        self.nodes = []
        self.programs = {}
        self.refused = {}
        self.ran = []
        everything = api.answer
        api.answer = lambda request: self._answer(request) or everything(request)

    def runs(self, pod_, command, **environment):
        """Makes exec in this pod run `command` followed by the requested words."""
        self.programs[pod_["metadata"]["namespace"], pod_["metadata"]["name"]] = (command, environment)

    def _answer(self, request):  # noqa: C901, PLR0911  one line a path
        if request.headers.get("authorization") != f"Bearer {self.api.own}":
            return None
        parts = [unquote(part) for part in request.path.strip("/").split("/")]
        query = parse_qs(request.query)
        match parts:
            case ["api", "v1", "namespaces", *name] if len(name) == (request.method != "POST"):
                return self._namespace(request, *name)
            case ["api"]:
                return Answer(body={"kind": "APIVersions", "versions": ["v1"]})
            case ["apis"]:
                return Answer(body={"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
            case ["api", "v1"]:
                return Answer(body=_RESOURCES)
            case ["api", "v1", "pods"]:
                return self._list(query, None)
            case ["api", "v1", "services"]:
                return self._services_of(None)
            case ["api", "v1", "nodes"] if self.nodes or ("list", "nodes") in self.refused:
                return self.refused.get(("list", "nodes")) or _list_of("Node", self.nodes)
            case ["api", "v1", "nodes" | "namespaces" as kind]:
                return self._names(kind)
            case ["api", "v1", "namespaces", namespace, "pods" | "services" as kind]:
                return self._list(query, namespace) if kind == "pods" else self._services_of(namespace)
            case ["api", "v1", "namespaces", namespace, "pods" | "services" as kind, name]:
                return self._get(namespace, kind, name)
            case ["api", "v1", "namespaces", namespace, "pods", name, "exec"]:
                return self._exec(request, namespace, name, query)
        return None

    def _namespace(self, request, name=None):
        if request.method == "POST":
            # kubectl speaks protobuf here: in a Namespace its metadata, and in that its name, each behind its length.
            start = re.search(rb"Namespace\x12.\n.\n(.)", request.body, re.DOTALL)
            name = request.body[start.end() :][: start[1][0]].decode()
            self.namespaces[name] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {}}}
            return Answer(201, self.namespaces[name])
        if name not in self.namespaces:
            return refusal(404, f'namespaces "{name}" not found', "NotFound")
        if request.method == "PATCH":
            self.namespaces[name]["metadata"]["labels"].update(request.json["metadata"]["labels"])
        return Answer(body=self.namespaces[name])

    def _get(self, namespace, kind, name):
        if ("get", namespace, name) in self.refused:
            return self.refused["get", namespace, name]
        for one in self.services if kind == "services" else self.pods:
            if (namespace, name) == (one["metadata"]["namespace"], one["metadata"]["name"]):
                return Answer(body=one)
        return refusal(404, f'{kind} "{name}" not found', "NotFound")

    def _list(self, query, namespace):
        if ("list", namespace) in self.refused:
            return self.refused["list", namespace]
        wanted = dict(pair.split("=") for text in query.get("labelSelector", []) for pair in text.split(","))
        field, _, value = query.get("fieldSelector", [""])[0].partition("=")
        node, address = (value if field == name else "" for name in ("spec.nodeName", "status.podIP"))
        found = [
            one
            for one in self.pods
            if namespace in (None, one["metadata"]["namespace"])
            and wanted.items() <= one["metadata"]["labels"].items()
            and node in ("", one["spec"].get("nodeName"))
            and address in ("", one["status"].get("podIP"))
        ]
        return Answer(
            body={"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": found}
        )

    def _services_of(self, namespace):
        if ("list", "services") in self.refused:
            return self.refused["list", "services"]
        return _list_of("Service", [one for one in self.services if namespace in (None, one["metadata"]["namespace"])])

    def _names(self, kind):
        names = {one["metadata"]["namespace"] if kind == "namespaces" else one["spec"]["nodeName"] for one in self.pods}
        items = [{"apiVersion": "v1", "kind": kind[:-1].title(), "metadata": {"name": one}} for one in sorted(names)]
        return _list_of(kind[:-1].title(), items)

    def _exec(self, request, namespace, name, query):
        if (namespace, name) in self.refused:
            return self.refused[namespace, name]
        self.ran.append((f"{namespace}/{name}", query["command"]))
        command, environment = self.programs[namespace, name]
        words = [*command, *query["command"][1:]]
        terminal = query.get("tty") == ["true"]

        def take(connection):
            _handshake(request, connection)
            (_run_in_terminal if terminal else _run)(words, environment, _Channels(connection))

        return Upgrade(take)


def _list_of(kind, items):
    return Answer(body={"kind": f"{kind}List", "apiVersion": "v1", "metadata": {}, "items": items})


_RESOURCES = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": "v1",
    "resources": [
        {
            "name": name,
            "singularName": name[:-1],
            "namespaced": name in ("pods", "services"),
            "kind": kind,
            "verbs": ["get", "list"],
        }
        for name, kind in (("pods", "Pod"), ("services", "Service"), ("nodes", "Node"), ("namespaces", "Namespace"))
    ],
}


class _Channels:
    """Messages of one WebSocket whose first byte is the number of a channel."""

    def __init__(self, connection):
        self._connection = connection
        self._socket = Connection(ConnectionType.SERVER)
        self._lock = threading.Lock()

    def send(self, channel, content):
        with self._lock, suppress(OSError):
            self._connection.sendall(self._socket.send(BytesMessage(bytes([channel]) + content)))

    def messages(self):
        """(channel, content) until the client has gone."""
        content = b""
        while piece := self._connection.recv(65536):
            with self._lock:
                self._socket.receive_data(piece)
                events = list(self._socket.events())
            for event in events:
                if isinstance(event, BytesMessage):
                    content += bytes(event.data)
                    if event.message_finished and content:
                        yield content[0], content[1:]
                        content = b""
                elif isinstance(event, CloseConnection):
                    return

    def end(self, code):
        if code:
            causes = {"causes": [{"reason": "ExitCode", "message": str(code)}]}
            message = f"command terminated with non-zero exit code: exit status {code}"
            status = {"status": "Failure", "reason": "NonZeroExitCode", "message": message, "details": causes}
        else:
            status = {"status": "Success"}
        self.send(ERROR, json.dumps({"metadata": {}, **status}).encode())
        with self._lock, suppress(OSError):
            self._connection.sendall(self._socket.send(CloseConnection(1000)))


def _handshake(request, connection):
    key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    assert "v5.channel.k8s.io" in request.headers["sec-websocket-protocol"]
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Accept: {accept}", "Sec-WebSocket-Protocol: v5.channel.k8s.io", "\r\n"]
    connection.sendall("\r\n".join(lines).encode())


def _run(words, environment, channels):
    """Runs to the end, with its output and its errors apart; the client's leaving is what a broken pipe is to it."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env={**os.environ, **environment}, **pipes) as process:

        def pump(channel, source):
            while piece := source.read1(65536):
                channels.send(channel, piece)

        threads = [
            threading.Thread(target=pump, args=pair) for pair in ((STDOUT, process.stdout), (STDERR, process.stderr))
        ]
        for thread in threads:
            thread.start()
        watch = threading.Thread(target=_until_gone, args=(channels, process), daemon=True)
        watch.start()
        for thread in threads:
            thread.join()
        channels.end(process.wait())


def _until_gone(channels, process):
    with suppress(OSError, ValueError):
        for _ in channels.messages():
            pass
    process.kill()


def _run_in_terminal(words, environment, channels):
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(words[0], words, {**os.environ, "TERM": "xterm", **environment})

    def listen():
        with suppress(OSError, ValueError):
            for channel, content in channels.messages():
                if channel == STDIN:
                    os.write(terminal, content)
                elif channel == RESIZE:
                    size = json.loads(content)
                    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size["Height"], size["Width"], 0, 0))

    threading.Thread(target=listen, daemon=True).start()
    with suppress(OSError):  # the end of a terminal is an error
        while piece := os.read(terminal, 65536):
            channels.send(STDOUT, piece)
    _, status = os.waitpid(child, 0)
    channels.end(os.waitstatus_to_exitcode(status))
    os.close(terminal)
