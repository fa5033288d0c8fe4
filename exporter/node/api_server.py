"""A client of the cluster's API server: requests, errors as sentences, and responses as bytes.

Knows the API's errors, but not its resources. `kubeconfig.py` knows where the server is and the credentials,
`http_client.py` the connection.
"""

import json
import ssl
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from exporter.node import NodeError
from exporter.node.cluster_ca import tls_error, verification_problem
from exporter.node.kubeconfig import Cluster, ConfigError, config_problem, from_file, from_service_account
from exporter.node.pods import SERVICE_ACCOUNT
from exporter.node.transport import Limit

if TYPE_CHECKING:
    import h11

    from exporter.node.http_client import Connection

# For one wait, and for a whole response, from connecting on.
_TIMEOUT = 3.0
_WHOLE_TIMEOUT = 8.0
_MAX_BYTES = 1 << 20
_MAX_RETRY_AFTER = 120.0
_MAX_MESSAGE = 300
_REASONS = {401: "unauthorized", 403: "forbidden", 410: "gone", 429: "throttled"}


UNREACHABLE = (
    "it is the network or the address: the chart's kubernetes.apiHost and apiPort, or the kubeconfig's server, must "
    "name an API server that this node reaches"
)
_MOUNT = "it is the token: mount that of a service account (the chart's kubernetes.enabled and serviceAccount do)"
_CERTIFICATE = "name the API server as its certificate does, with the authority that signed it"
_LOG = "if it stays, read the API server's log; the other sources still name what they know"
_ADVICE = {
    "connection": UNREACHABLE,
    "unauthorized": "it is the token: the API server does not know it; delete this pod, and it gets another",
    "forbidden": "the exporter's user needs to list and watch pods; the other sources still name what they know",
}


class ApiServerError(NodeError):
    """The API server cannot be reached, refused the request, or sent a malformed response.

    `advice` says what to do about it; `reason` is one of `gone`, `unauthorized`, `forbidden`, `throttled`, `server`,
    `connection` and `malformed`; `retry_after` is the server's Retry-After, in seconds.
    """

    def __init__(
        self, sentence: str, reason: str = "malformed", retry_after: float = 0.0, advice: str | None = None
    ) -> None:
        super().__init__(sentence)
        self.advice = _ADVICE.get(reason, _LOG) if advice is None else advice
        self.reason = reason
        self.retry_after = retry_after


class ApiServer:
    """The API server in `kubeconfig`, or without one that of the cluster this process runs in.

    Raises `ApiServerError` when there is neither; connects at the first request. Not thread-safe.
    """

    def __init__(self, kubeconfig: Path | None = None, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._kubeconfig = kubeconfig
        self._service_account = service_account
        self._connection: Connection | None = None
        self._cluster: Cluster | None = self._load()

    def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Posts an object and returns the created one. Raises `ApiServerError`."""
        what = f"create {_resource(path)}"
        try:
            posted = json.dumps(body, ensure_ascii=False).encode()
        except ValueError as error:
            raise ApiServerError(f"a request to {what} has text that is no Unicode") from error
        with self._request("POST", path, what, posted) as connection:
            content = b"".join(_limited(connection, _MAX_BYTES))
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ApiServerError(f"the API server answered a request to {what} with something that is no object")
        return answer

    def read(self, path: str, params: Mapping[str, str], max_bytes: int) -> Generator[bytes]:
        """Yields the response to a GET in pieces, in all at most `max_bytes` bytes. Raises `ApiServerError`."""
        with self._request("GET", f"{path}?{urlencode(params)}", f"list {_resource(path)}") as connection:
            yield from _limited(connection, max_bytes)

    def lines(self, path: str, params: Mapping[str, str], max_bytes: int, idle: float) -> Iterator[bytes]:
        """Yields the lines of a GET's response as they arrive, each at most `max_bytes` bytes, until it ends.

        Raises `ApiServerError`, also after `idle` seconds without a byte and when it ends within a line.
        """
        with self._request("GET", f"{path}?{urlencode(params)}", f"watch {_resource(path)}") as connection:
            connection.stream_for_long(Limit(idle))
            rest = b""
            for piece in connection.body():
                *whole, rest = (rest + piece).split(b"\n")
                if len(rest) > max_bytes:
                    raise ApiServerError(f"the API server sent a line of more than {max_bytes >> 20} MiB")
                yield from whole
            if rest:
                raise ApiServerError("the API server stopped in the middle of a line", "connection")

    def close(self) -> None:
        """Closes the connection; a later request connects again."""
        # The next one reads address, certificates and credentials again.
        self._cluster = None
        if self._connection:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _request(self, method: str, target: str, what: str, body: bytes = b"") -> "Iterator[Connection]":
        """A connection that has the head of a successful response."""
        cluster = self._cluster = self._cluster or self._load()
        try:
            limit = Limit(_TIMEOUT, _WHOLE_TIMEOUT)
            authorization = cluster.authorization()
            connection = self._connected(cluster, limit)
            headers = [("Authorization", authorization)] if authorization else []
            headers += [("Content-Type", "application/json")] if body else []
            response = connection.request(method, target, headers, body, limit)
            _raise_for_status(response, connection, what)
            yield connection
        except ApiServerError as error:
            if error.reason == "unauthorized":
                self.close()
            raise
        except ConfigError as error:
            self.close()
            raise ApiServerError(_message(error), "connection", advice=self._credentials()) from error
        except Exception as error:  # there are many kinds of network errors
            self.close()
            server = f"the API server {cluster.url.scheme}://{cluster.url.netloc.rpartition('@')[2]}"
            advice = _CERTIFICATE if tls_error(error) else UNREACHABLE
            raise ApiServerError(_failed(server, error), "connection", advice=advice) from error
        finally:
            self._keep_if_reusable()

    def _connected(self, cluster: Cluster, limit: Limit) -> "Connection":
        from exporter.node.http_client import Connection, Server

        self._keep_if_reusable()  # the server may have closed it
        if not self._connection:
            self._connection = Connection(Server.of(cluster.url, cluster.tls), limit)
        return self._connection

    def _keep_if_reusable(self) -> None:
        if self._connection and not self._connection.reusable():
            self._connection.close()
            self._connection = None

    def _load(self) -> Cluster:
        try:
            return from_file(self._kubeconfig) if self._kubeconfig else from_service_account(self._service_account)
        except Exception as error:  # an invalid file causes many kinds of errors
            raise ApiServerError(self._config_failure(error), "connection", advice=self._credentials()) from error

    def _credentials(self) -> str:
        return "correct the kubeconfig, or name another one" if self._kubeconfig else _MOUNT

    def _config_failure(self, error: Exception) -> str:
        if self._kubeconfig:
            return f"the kubeconfig {self._kubeconfig} cannot be used: {one_line(config_problem(error))}"
        return (
            f"this process runs in no cluster that it could ask ({_message(error)}); "
            "--kubernetes.kubeconfig names one from outside"
        )


def reason_of(status: int) -> str:
    """The `reason` of an `ApiServerError` for an HTTP status that is an error."""
    return _REASONS.get(status, "server")


def one_line(text: str) -> str:
    """A server's message on one line, safe for a log and a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in text[:_MAX_MESSAGE])
    return " ".join(printable.split())


def _failed(server: str, error: Exception) -> str:
    problem = tls_error(error)
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"the certificate of {server} was refused: {verification_problem(problem)}"
    if problem:
        return f"TLS with {server} failed: {(problem.reason or _message(problem)).replace('_', ' ').lower()}"
    return f"{server} did not answer: {_message(error)}"


def _limited(connection: "Connection", max_bytes: int) -> Iterator[bytes]:
    total = 0
    for piece in connection.body():
        total += len(piece)
        if total > max_bytes:
            raise ApiServerError(f"the API server answered more than {max_bytes >> 20} MiB")
        yield piece


def _raise_for_status(response: "h11.Response", connection: "Connection", what: str) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    try:
        details = json.loads(b"".join(_limited(connection, _MAX_BYTES)))
    except (ValueError, RecursionError, ApiServerError):
        details = None  # the status is enough
    message = details.get("message") if isinstance(details, dict) else None
    suffix = f": {one_line(message)}" if isinstance(message, str) else ""
    if status == 401:
        sentence = f"the API server does not know this exporter's own credentials (401){suffix}"
    elif status == 403:
        sentence = f"the API server does not let this exporter {what} (403){suffix}"
    else:
        sentence = f"the API server answered a request to {what} with {status}{suffix}"
    seconds = next((value for name, value in response.headers if name == b"retry-after"), b"")
    wait = min(float(seconds), _MAX_RETRY_AFTER) if seconds.isdigit() else 0.0
    raise ApiServerError(sentence, reason_of(status), wait)


def _resource(path: str) -> str:
    return path.rpartition("/")[2]


def _message(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
