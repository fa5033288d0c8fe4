"""A client of the cluster's API server: its address, the credentials, and responses as bytes.

lightkube reads the address and the credentials, in a cluster or from a kubeconfig; its HTTP client sends the requests.
Knows HTTP and the API's errors, but not the resources.
"""

import json
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from exporter.node import NodeError
from exporter.node.cluster_ca import tls_error, verification_problem, verify_as_go

if TYPE_CHECKING:
    from types import ModuleType

    import httpx2
    from lightkube.config.kubeconfig import KubeConfig, SingleConfig

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = 3.0
_BODY_TIMEOUT = 8.0
_MAX_BYTES = 1 << 20
_MAX_RETRY_AFTER = 120.0
_MAX_MESSAGE = 300
_TOKEN = re.compile("[!-~]+", re.ASCII)
# HTTP/2 and other event loops: the HTTP client loads both where they are installed, 2 MiB for nothing.
_NOT_USED = ("h2", "anyio")
_REASONS = {401: "unauthorized", 403: "forbidden", 410: "gone", 429: "throttled"}


class ApiServerError(NodeError):
    """The API server cannot be reached, refused the request, or sent a malformed response.

    `reason` is one of `gone`, `unauthorized`, `forbidden`, `throttled`, `server`, `connection` and `malformed`;
    `retry_after` is the server's Retry-After, in seconds.
    """

    def __init__(self, sentence: str, reason: str = "malformed", retry_after: float = 0.0) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.retry_after = retry_after


class ApiServer:
    """The API server in `kubeconfig`, or without one that of the cluster this process runs in.

    Raises `ApiServerError` when there is neither; connects at the first request. Not thread-safe.
    """

    def __init__(self, kubeconfig: Path | None = None, service_account: Path = _SERVICE_ACCOUNT) -> None:
        self._kubeconfig = kubeconfig
        self._service_account = service_account
        self._client: httpx2.Client | None = self._connect()

    def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Posts an object and returns the created one. Raises `ApiServerError`."""
        with self._request("POST", path, json=body) as response:
            content = _read_body(response, _MAX_BYTES)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            what = f"a request to create {_resource(path)}"
            raise ApiServerError(f"the API server answered {what} with something that is no object")
        return answer

    def read(self, path: str, params: Mapping[str, str], max_bytes: int) -> bytes:
        """The whole response to a GET, at most `max_bytes` bytes. Raises `ApiServerError`."""
        with self._request("GET", path, params=dict(params)) as response:
            return _read_body(response, max_bytes)

    def lines(self, path: str, params: Mapping[str, str], max_bytes: int, idle: float) -> Iterator[bytes]:
        """Yields the lines of a GET's response as they arrive, each at most `max_bytes` bytes, until it ends.

        Raises `ApiServerError`, also after `idle` seconds without a byte and when it ends within a line.
        """
        with self._request("GET", path, idle, params=dict(params)) as response:
            _keep_alive(response)
            rest = b""
            for piece in response.iter_raw():
                *whole, rest = (rest + piece).split(b"\n")
                if len(rest) > max_bytes:
                    raise ApiServerError(f"the API server sent a line of more than {max_bytes >> 20} MiB")
                yield from whole
            if rest:
                raise ApiServerError("the API server stopped in the middle of a line", "connection")

    def close(self) -> None:
        """Closes the connection; a later request connects again."""
        if self._client:
            self._disconnect(self._client)

    @contextmanager
    def _request(self, method: str, path: str, idle: float = _TIMEOUT, **more: Any) -> "Iterator[httpx2.Response]":
        import httpx2

        client = self._client = self._client or self._connect()
        # Not compressed: a small response must not decompress to a large one.
        headers, clocks = {"Accept-Encoding": "identity"}, httpx2.Timeout(_TIMEOUT, read=idle)
        try:
            with client.stream(method, path, headers=headers, timeout=clocks, **more) as response:
                verb = "create" if method == "POST" else "watch" if "watch" in more.get("params", ()) else "list"
                _raise_for_status(response, f"{verb} {_resource(path)}")
                yield response
        except ApiServerError as error:
            if error.reason == "unauthorized":
                self._disconnect(client)
            raise
        except Exception as error:  # the libraries raise many kinds of network errors
            self._disconnect(client)
            raise ApiServerError(
                _failed(f"the API server {_display_url(client.base_url)}", error), "connection"
            ) from error

    def _disconnect(self, client: "httpx2.Client") -> None:
        # The next attempt reads address, certificates and credentials again; a connection may be half open.
        self._client = None
        client.close()

    def _connect(self) -> "httpx2.Client":
        from lightkube.config.kubeconfig import KubeConfig

        try:
            if self._kubeconfig:
                config = KubeConfig.from_file(self._kubeconfig)
                _check_config(config, self._kubeconfig)
            else:
                config = KubeConfig.from_service_account(self._service_account)
            return _client(cast("SingleConfig", config.get()))  # raises when there is none
        except Exception as error:  # an invalid file raises many kinds of errors in the libraries
            raise ApiServerError(self._config_failure(error), "connection") from error

    def _config_failure(self, error: Exception) -> str:
        if self._kubeconfig:
            return f"the kubeconfig {self._kubeconfig} cannot be used: {_config_problem(error)}"
        return (
            f"this process runs in no cluster that it could ask ({_message(error)}); "
            "--kubernetes.kubeconfig names one from outside"
        )


def in_cluster() -> bool:
    """Whether this process runs in a pod with a service account."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (_SERVICE_ACCOUNT / "token").exists()


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


def _read_body(response: "httpx2.Response", max_bytes: int) -> bytes:
    content = bytearray()
    deadline = time.monotonic() + _BODY_TIMEOUT
    for piece in response.iter_raw():
        content += piece
        if len(content) > max_bytes:
            raise ApiServerError(f"the API server answered more than {max_bytes >> 20} MiB")
        if time.monotonic() > deadline:
            raise ApiServerError(f"the API server's answer was not whole after {_BODY_TIMEOUT:.0f} s", "connection")
    return bytes(content)


def _raise_for_status(response: "httpx2.Response", what: str) -> None:
    status = response.status_code
    if response.is_success:
        return
    try:
        details = json.loads(_read_body(response, _MAX_BYTES))
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
    seconds = response.headers.get("retry-after", "")
    wait = min(float(seconds), _MAX_RETRY_AFTER) if seconds.isascii() and seconds.isdigit() else 0.0
    raise ApiServerError(sentence, reason_of(status), wait)


def _keep_alive(response: "httpx2.Response") -> None:
    # Detects a dead peer within a minute, and not only after the idle timeout.
    sock = response.extensions["network_stream"].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _check_config(config: "KubeConfig", file: Path) -> None:
    """Refuses what lightkube would ignore, or report unclearly."""
    import yaml
    from lightkube.core.exceptions import ConfigError

    context = config.contexts.get(config.current_context or "")
    if not config.current_context:
        raise ConfigError("it has no current-context")
    if context is None:
        return  # lightkube names it
    if not context.user:
        raise ConfigError(f"its context {config.current_context} names no user")
    for one in yaml.safe_load(file.read_text(encoding="utf-8"))["clusters"]:
        for field in ("proxy-url", "tls-server-name"):
            if one["name"] == context.cluster and one["cluster"].get(field):
                raise ConfigError(f"its cluster has a {field}, which this program cannot heed")


def _client(config: "SingleConfig") -> "httpx2.Client":
    import httpx2
    from lightkube.config.client_adapter import ConnectionParams
    from lightkube.core.exceptions import ConfigError

    user = config.user
    if user and user.exec:
        raise ConfigError("its user comes from a program, and this one starts none; give it a token or a certificate")
    if user and user.token is not None and not user.token_file and not _TOKEN.fullmatch(user.token):
        raise ConfigError("its user's token is empty, or holds what none can")
    for file in (config.cluster.certificate_auth, user and user.client_cert, user and user.client_key):
        if file:
            Path(config.abs_file(file)).open("rb").close()  # the TLS error for a missing file does not name it
    for name in _NOT_USED:
        sys.modules.setdefault(name, cast("ModuleType", None))  # marks it as not installed
    parameters = ConnectionParams().httpx_params(config)
    verify_as_go(parameters["verify"])
    client = httpx2.Client(**parameters)
    if user and user.token_file:
        client.auth = partial(_with_token, Path(config.abs_file(user.token_file)))
    return client


def _config_problem(error: Exception) -> str:
    import msgspec
    import yaml
    from lightkube.core.exceptions import ConfigError

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1} is not YAML"  # the parser's message quotes it, with tokens
    if isinstance(error, (ConfigError, OSError, msgspec.MsgspecError)):
        return _message(error)
    if isinstance(error, KeyError):
        return f"it names {_message(error)} and does not have it, or has none where it needs one"
    return "it does not have the shape of a kubeconfig"


def _with_token(file: Path, request: "httpx2.Request") -> "httpx2.Request":
    # Read for each request: it is renewed long before it expires, so no request has to be retried.
    try:
        token = file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise ApiServerError(f"the token {file} cannot be read: {error.strerror}", "connection") from error
    if not _TOKEN.fullmatch(token):
        raise ApiServerError(f"{file} holds no token", "connection")
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _display_url(url: "httpx2.URL") -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"  # without password and query


def _resource(path: str) -> str:
    return path.rpartition("/")[2]


def _message(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
