"""A fake API server that lists the pods of a node and sends the watch events of the test."""

import json
import queue
from contextlib import suppress

from tests.web.fake_api_server import Answer, FakeApiServer, Raw

PODS = "/api/v1/pods"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def pod(name, *addresses, uid=None, phase="Running", node="node-1", owner=None, version="1", **spec):
    """A pod as the API server sends it, with a field that the exporter ignores."""
    metadata = {"name": name, "namespace": "ns", "uid": uid or name, "resourceVersion": version, "labels": {"a": "b"}}
    if owner:
        metadata["ownerReferences"] = [{"kind": "Node", "name": "x"}, {**owner, "controller": True}]
    status = {"phase": phase, "podIPs": [{"ip": one} for one in addresses] or None}
    return {"metadata": metadata, "spec": {"nodeName": node, "containers": [{"env": []}], **spec}, "status": status}


def event(kind, what):
    return json.dumps({"type": kind, "object": what}).encode() + b"\n"


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class PodServer(FakeApiServer):
    """Lists `listed` at version 10, and sends in a watch what is put into `events`: bytes, or None for its end."""

    def __init__(self, authority):
        super().__init__(authority)
        self.listed = []
        self.over = False
        self.events = queue.Queue()
        self.answers[PODS] = self.pods
        self.watches, self.lists = [], []

    def pods(self, request):
        asked = dict(part.split("=", 1) for part in request.query.split("&"))
        if "watch" not in asked:
            self.lists.append(asked)
            body = {"kind": "PodList", "metadata": {"resourceVersion": "10"}, "items": self.listed}
            return Answer(200, body)
        self.watches.append(asked)
        return Raw(self._stream())

    def _stream(self):
        yield HEAD
        while (data := self._next()) is not None:
            yield chunk(data)
        yield b"0\r\n\r\n"

    def _next(self):
        while not self.over:  # an abandoned stream must not keep the test from ending
            with suppress(queue.Empty):
                return self.events.get(timeout=0.1)
        return None
