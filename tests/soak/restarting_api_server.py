"""An API server that survives restarts like a real one: versions, a history of events, and 410 for expired versions."""

import threading
import time
from collections import deque

from tests.node.pod_server import HEAD, PODS, chunk, event, pod
from tests.web.fake_api_server import Answer, FakeApiServer, Raw

# After which a watch is ended in good order, as a real server ends it after some minutes.
_WATCH_SECONDS = 20
_HISTORY = 30


class Cluster(FakeApiServer):
    """Knows pods by uid. `lists` and `watches` count what was asked of it."""

    def __init__(self, authority):
        self._changed = threading.Condition()
        self._version, self._run = 10, 0
        self._pods = {}
        self._events = deque(maxlen=_HISTORY)  # version and event
        self.lists = self.watches = self.refused = 0
        super().__init__(authority)
        self.answers[PODS] = self._answer

    def tell(self, kind, one, uid):
        """A pod of the demo is `ADDED`, `MODIFIED` or `DELETED`."""
        with self._changed:
            self._version += 1
            spec = {"uid": uid, "node": "node-1", "version": str(self._version)}
            known = pod(one.name, one.ipv4, one.ipv6, **spec)
            known["metadata"]["namespace"] = one.namespace
            self._pods.pop(uid, None)
            if kind != "DELETED":
                self._pods[uid] = known
            self._events.append((self._version, event(kind, known)))
            self._changed.notify_all()

    def restart(self, away):
        """Goes down for some seconds, in the middle of a response."""
        with self._changed:
            self._run += 1
            self._changed.notify_all()
        self.stop()
        self.seen.clear()
        time.sleep(away)  # the outage: waits for nothing
        self.start()

    def end(self):
        """Shuts down."""
        with self._changed:
            self._run += 1
            self._changed.notify_all()
        self.stop()

    def _answer(self, request):
        asked = dict(part.split("=", 1) for part in request.query.split("&"))
        with self._changed:
            if "watch" not in asked:
                self.lists += 1
                metadata = {"resourceVersion": str(self._version)}
                return Answer(200, {"kind": "PodList", "metadata": metadata, "items": list(self._pods.values())})
            self.watches += 1
            return Raw(self._stream(int(asked["resourceVersion"]), self._run))

    def _stream(self, version, run):
        yield HEAD
        until = time.monotonic() + _WATCH_SECONDS
        while (left := until - time.monotonic()) > 0:
            with self._changed:
                if self._run != run:
                    return
                known = self._events[0][0] <= version + 1 if self._events else True
                events = [text for number, text in self._events if number > version]
                version = self._version
                if known and not events:
                    self._changed.wait(left)
            if not known:
                self.refused += 1
                events, until = [event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})], 0
            for text in events:
                yield chunk(text)
        yield b"0\r\n\r\n"
