"""A Kubernetes API server for tests: real HTTP over real TLS, in threads of the test, and told what to answer.

Of itself it reviews tokens and access as the real one does, and turns away what is no valid object of version v1.
"""

import json
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.web.duplex import Duplex

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
LOCAL = ("DNS:localhost", "IP:127.0.0.1")

_WHO = {"uid": str, "groups": [str], "extra": {str: [str]}}
_SPECS = {
    TOKEN_REVIEWS: ("TokenReview", {"token": str, "audiences": [str]}),
    ACCESS_REVIEWS: (
        "SubjectAccessReview",
        {"user": str, **_WHO, "nonResourceAttributes": {"path": str, "verb": str}, "resourceAttributes": {str: str}},
    ),
}


@dataclass(frozen=True)
class Request:
    """A request as it came. Header names are lower case; `subject` is the common name of the client's certificate."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    subject: str | None

    @property
    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """A whole response, after a pause of some seconds. A body that is not bytes is sent as JSON."""

    status: int = 200
    body: object = b""
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0

    def pieces(self):
        known = self.status in set(HTTPStatus)
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase if known else 'Odd'}"]
        body, headers = self.body, {"Content-Type": "application/json", **self.headers}
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines += [f"{name}: {value}" for name, value in {**headers, "Content-Length": len(body)}.items()]
        yield self.pause
        yield "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body


@dataclass(frozen=True)
class Raw:
    """Bytes as they go out, from the status line on; a number between them is a pause in seconds. Then it hangs up."""

    said: Iterable[bytes | float]

    def pieces(self):
        return self.said


@dataclass(frozen=True)
class Upgrade:
    """Hands the connection over to a function, which may read it in one thread and write it in another."""

    take: Callable[[Duplex], None]


def refusal(status, message, reason=""):
    """The object `Status` with which an API server says no."""
    fields = {"metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": status}
    return Answer(status, {"kind": "Status", "apiVersion": "v1", **fields})


class FakeApiServer:
    """An API server on a port of 127.0.0.1 that it keeps when it is stopped and started again.

    `own` is the bearer token that it takes from the exporter. `answers` has an `Answer`, a `Raw`, an `Upgrade`, or a
    function from request to one of them by path, and overrides reviews, which know `users` (what a status says of a
    token) and `rights` (user name and path). `seen` are all requests, also those that were not let in; `faults` what
    no exporter may send and what went wrong in here: see that it is empty.
    """

    def __init__(self, authority, pair=None):
        self.authority = authority
        self.pair = pair or authority.issue("apiserver", *LOCAL)
        self.own = "own-token"
        self.users = {}
        self.rights = set()
        self.answers = {}
        self.seen = []
        self.faults = []
        self.port = 0
        self._server = None
        self.start()

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def start(self, pair=None):
        """Listens, from now on with another certificate and key if given."""
        self.pair = pair or self.pair
        deadline = time.monotonic() + 5
        while self._server is None:
            try:
                self._server = _Server(self)
            except OSError:  # a connection of somebody else has the port for a moment
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.port = self._server.server_port

    def stop(self):
        """Cuts all connections and frees the port; a second time does nothing."""
        if self._server:
            self._server.end()
        self._server = None

    def asked(self, path):
        """The objects that were posted to this path."""
        return [one.json for one in self.seen if one.path == path]

    def answer(self, request):
        """The answer to a request, the faults that it has being noted."""
        if not request.subject and request.headers.get("authorization") != f"Bearer {self.own}":
            return refusal(401, "Unauthorized", "Unauthorized")
        if told := self.answers.get(request.path):
            return told(request) if callable(told) else told
        if request.path not in _SPECS or request.method != "POST":
            return refusal(404, "the server could not find the requested resource", "NotFound")
        if fault := _fault(request):
            self.faults.append(fault)
            return refusal(400, fault, "BadRequest")
        status = (self._token if request.path == TOKEN_REVIEWS else self._access)(request.json["spec"])
        return Answer(201, {**request.json, "metadata": {"creationTimestamp": None}, "status": status})

    def _token(self, spec):
        user = self.users.get(spec["token"])
        if user is None:
            return {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        return {"authenticated": True, "user": user, "audiences": ["https://kubernetes.default.svc"]}

    def _access(self, spec):
        if (spec["user"], spec["nonResourceAttributes"]["path"]) in self.rights:
            return {"allowed": True, "reason": "RBAC: allowed by ClusterRoleBinding"}
        return {"allowed": False}

    def kubeconfig(self, path, user=None, **cluster):
        """Writes a kubeconfig for this server: fields of the user, a token if not given, and more of the cluster."""
        trusted = {} if "certificate-authority-data" in cluster else {"certificate-authority": str(self.authority.ca)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "fake", "user": "me"}}],
            "clusters": [{"name": "fake", "cluster": {"server": self.url, **trusted, **cluster}}],
            "users": [{"name": "me", "user": {"token": self.own} if user is None else user}],
        }
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return path

    def service_account(self, folder):
        """Writes what a pod finds in its folder; the environment it has besides."""
        for name, content in (("token", self.own), ("namespace", "calico-system")):
            (folder / name).write_text(content, encoding="utf-8")
        (folder / "ca.crt").write_bytes(self.authority.ca.read_bytes())
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}


def _fault(request):
    """What is wrong with a review, None if nothing is."""
    kind, shape = _SPECS[request.path]
    group = request.path.split("/")[2]
    if request.headers.get("content-type") != "application/json":
        return f"a {kind} that is not announced as JSON"
    try:
        posted = request.json
    except ValueError:
        return f"a {kind} that is no JSON"
    whole = {"apiVersion": str, "kind": str, "metadata": {str: str}, "spec": shape}
    if not _fits(posted, whole) or (f"{group}/v1", kind) != (posted.get("apiVersion"), posted.get("kind")):
        return f"no {kind} of {group}/v1: {posted}"
    spec = posted.get("spec", {})
    if kind == "TokenReview":
        return None if spec.get("token") else "spec.token is required"
    if set(spec.get("nonResourceAttributes", {})) != {"path", "verb"} or "resourceAttributes" in spec:
        return "spec.nonResourceAttributes must be given alone, with path and verb"
    return None if spec.get("user") or spec.get("groups") else "at least one of spec.user or spec.groups is required"


def _fits(value, shape):
    """Whether a value has a shape: a type, a list of one shape, or the names that there may be; `str` is any name."""
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        shapes = {name: shape.get(name) or shape.get(str) for name in value} if isinstance(value, dict) else {"": None}
        return all(known and _fits(value[name], known) for name, known in shapes.items())
    return isinstance(value, shape)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that those who close it wait for them
    request_queue_size = 128

    def __init__(self, api):
        super().__init__(("127.0.0.1", api.port), _Handler)
        self.api = api
        self.ended = threading.Event()
        self._clients = set()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*api.pair)
        self._tls.verify_mode = ssl.CERT_OPTIONAL  # as the real one: a token will do as well
        self._tls.load_verify_locations(api.authority.ca)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def get_request(self):
        client, address = super().get_request()
        # The handshake is left to the client's own thread, or one that says nothing would keep all others waiting.
        client = self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        self._clients.add(client)
        return client, address

    def shutdown_request(self, request):
        super().shutdown_request(request)
        self._clients.discard(request)

    def handle_error(self, request, client_address):
        # A client that distrusts this server, or leaves in the middle, is what many a test is about.
        if not isinstance(sys.exception(), OSError):
            self.api.faults.append(traceback.format_exc())

    def end(self):
        self.shutdown()
        self.ended.set()
        for client in list(self._clients):
            with suppress(OSError):  # it may be gone
                socket.socket.shutdown(client, socket.SHUT_RDWR)  # and not TLS's own, in use by another thread
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def _handle(self):
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        certificate = self.connection.getpeercert() or {}
        subject = dict(pair for pairs in certificate.get("subject", ()) for pair in pairs).get("commonName")
        request = Request(self.command, path, query, headers, body, subject)
        api = self.server.api
        api.seen.append(request)
        answer = api.answer(request)
        self.close_connection |= isinstance(answer, Raw | Upgrade)
        if isinstance(answer, Upgrade):
            answer.take(Duplex(self.connection))
            return
        for piece in answer.pieces():
            if isinstance(piece, bytes):
                self.wfile.write(piece)
            elif self.server.ended.wait(piece):
                self.close_connection = True
                break

    do_GET = do_POST = do_PATCH = _handle  # noqa: N815  names that the base class calls

    def log_message(self, *words):
        pass
