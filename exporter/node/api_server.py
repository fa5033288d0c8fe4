"""The cluster's API server: where it is, who we are to it, and its answers as bytes.

lightkube finds the address and the credentials, in a cluster or in a kubeconfig; its client carries the request. Knows
HTTP and the API's refusals; what is asked is the caller's business.
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
from exporter.node.cluster_ca import tls_error, verify_as_go, why_refused

if TYPE_CHECKING:
    from types import ModuleType

    import httpx2
    from lightkube.config.kubeconfig import KubeConfig, SingleConfig

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WAIT = 3.0
_WHOLE = 8.0
_MAX_BYTES = 1 << 20
_MAX_WAIT = 120.0
_MAX_MESSAGE = 300
_TOKEN = re.compile("[!-~]+", re.ASCII)
# HTTP/2 and other event loops: the client below loads both where they are installed, 2 MiB that nothing here runs.
_NOT_USED = ("h2", "anyio")
_REASONS = {401: "unauthorized", 403: "forbidden", 410: "gone", 429: "throttled"}


class ApiServerError(NodeError):
    """The API server cannot be asked, or said no, or said nothing that can be understood.

    `reason` is one of `gone`, `unauthorized`, `forbidden`, `throttled`, `server`, `connection` and `malformed`;
    `retry_after` is how many seconds the server wants to be left alone.
    """

    def __init__(self, sentence: str, reason: str = "malformed", retry_after: float = 0.0) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.retry_after = retry_after


class ApiServer:
    """The API server that `kubeconfig` names, or without one that of the cluster this process runs in.

    Raises `ApiServerError` when neither can be made out; connects at the first request. For one thread at a time.
    """

    def __init__(self, kubeconfig: Path | None = None, service_account: Path = _SERVICE_ACCOUNT) -> None:
        self._kubeconfig = kubeconfig
        self._service_account = service_account
        self._client: httpx2.Client | None = self._connect()

    def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Posts an object and returns the one that comes back. Raises `ApiServerError`."""
        with self._asked("POST", path, json=body) as response:
            content = _whole(response, _MAX_BYTES)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            what = f"a request to create {_last(path)}"
            raise ApiServerError(f"the API server answered {what} with something that is no object")
        return answer

    def read(self, path: str, params: Mapping[str, str], largest: int) -> bytes:
        """The whole answer to a GET, at most `largest` bytes. Raises `ApiServerError`."""
        with self._asked("GET", path, params=dict(params)) as response:
            return _whole(response, largest)

    def lines(self, path: str, params: Mapping[str, str], largest: int, silence: float) -> Iterator[bytes]:
        """The lines of a GET's answer as they come, each at most `largest` bytes, until it ends.

        Raises `ApiServerError`, also after `silence` seconds without a byte and for an end within a line.
        """
        with self._asked("GET", path, silence, params=dict(params)) as response:
            _keep_alive(response)
            rest = b""
            for piece in response.iter_raw():
                *whole, rest = (rest + piece).split(b"\n")
                if len(rest) > largest:
                    raise ApiServerError(f"the API server sent a line of more than {largest >> 20} MiB")
                yield from whole
            if rest:
                raise ApiServerError("the API server stopped in the middle of a line", "connection")

    def close(self) -> None:
        """Hangs up; a request after that connects anew."""
        if self._client:
            self._forget(self._client)

    @contextmanager
    def _asked(self, method: str, path: str, silence: float = _WAIT, **more: Any) -> "Iterator[httpx2.Response]":
        import httpx2

        client = self._client = self._client or self._connect()
        # Not compressed: a small answer must not become a large one.
        headers, clocks = {"Accept-Encoding": "identity"}, httpx2.Timeout(_WAIT, read=silence)
        try:
            with client.stream(method, path, headers=headers, timeout=clocks, **more) as response:
                verb = "create" if method == "POST" else "watch" if "watch" in more.get("params", ()) else "list"
                _refuse_failure(response, f"{verb} {_last(path)}")
                yield response
        except ApiServerError as error:
            if error.reason == "unauthorized":
                self._forget(client)
            raise
        except Exception as error:  # libraries below have errors of many kinds for what a network can do
            self._forget(client)
            raise ApiServerError(_failed(f"the API server {_shown(client.base_url)}", error), "connection") from error

    def _forget(self, client: "httpx2.Client") -> None:
        # The next attempt reads addresses, certificates and credentials anew; a connection may be half open.
        self._client = None
        client.close()

    def _connect(self) -> "httpx2.Client":
        from lightkube.config.kubeconfig import KubeConfig

        try:
            if self._kubeconfig:
                config = KubeConfig.from_file(self._kubeconfig)
                _refuse_unserved(config, self._kubeconfig)
            else:
                config = KubeConfig.from_service_account(self._service_account)
            return _client(cast("SingleConfig", config.get()))  # it raises when there is none
        except Exception as error:  # a file that a person wrote fails in as many ways as there are libraries below
            raise ApiServerError(self._cannot(error), "connection") from error

    def _cannot(self, error: Exception) -> str:
        if self._kubeconfig:
            return f"the kubeconfig {self._kubeconfig} cannot be used: {_why_not(error)}"
        return (
            f"this process runs in no cluster that it could ask ({_words(error)}); "
            "--kubernetes.kubeconfig names one from outside"
        )


def in_cluster() -> bool:
    """Whether this process runs in a pod that may ask its cluster's API server."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (_SERVICE_ACCOUNT / "token").exists()


def reason_of(status: int) -> str:
    """The reason of an `ApiServerError` for a status that is a refusal."""
    return _REASONS.get(status, "server")


def one_line(text: str) -> str:
    """What a server said, fit for a log and a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in text[:_MAX_MESSAGE])
    return " ".join(printable.split())


def _failed(server: str, error: Exception) -> str:
    problem = tls_error(error)
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"the certificate of {server} was refused: {why_refused(problem)}"
    if problem:
        return f"TLS with {server} failed: {(problem.reason or _words(problem)).replace('_', ' ').lower()}"
    return f"{server} did not answer: {_words(error)}"


def _whole(response: "httpx2.Response", largest: int) -> bytes:
    content = bytearray()
    deadline = time.monotonic() + _WHOLE
    for piece in response.iter_raw():
        content += piece
        if len(content) > largest:
            raise ApiServerError(f"the API server answered more than {largest >> 20} MiB")
        if time.monotonic() > deadline:
            raise ApiServerError(f"the API server's answer was not whole after {_WHOLE:.0f} s", "connection")
    return bytes(content)


def _refuse_failure(response: "httpx2.Response", what: str) -> None:
    status = response.status_code
    if response.is_success:
        return
    try:
        said = json.loads(_whole(response, _MAX_BYTES))
    except (ValueError, RecursionError, ApiServerError):
        said = None  # the status says enough
    message = said.get("message") if isinstance(said, dict) else None
    told = f": {one_line(message)}" if isinstance(message, str) else ""
    if status == 401:
        sentence = f"the API server does not know this exporter's own credentials (401){told}"
    elif status == 403:
        sentence = f"the API server does not let this exporter {what} (403){told}"
    else:
        sentence = f"the API server answered a request to {what} with {status}{told}"
    seconds = response.headers.get("retry-after", "")
    wait = min(float(seconds), _MAX_WAIT) if seconds.isascii() and seconds.isdigit() else 0.0
    raise ApiServerError(sentence, reason_of(status), wait)


def _keep_alive(response: "httpx2.Response") -> None:
    # A peer that is gone without a word is noticed within a minute, and not only when the silence is over.
    sock = response.extensions["network_stream"].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _refuse_unserved(config: "KubeConfig", file: Path) -> None:
    """Says what lightkube would pass over, or not say clearly."""
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
            Path(config.abs_file(file)).open("rb").close()  # what TLS says of a file that is not there has no name
    for name in _NOT_USED:
        sys.modules.setdefault(name, cast("ModuleType", None))  # what Python takes for "not installed"
    parameters = ConnectionParams().httpx_params(config)
    verify_as_go(parameters["verify"])
    client = httpx2.Client(**parameters)
    if user and user.token_file:
        client.auth = partial(_with_token, Path(config.abs_file(user.token_file)))
    return client


def _why_not(error: Exception) -> str:
    import msgspec
    import yaml
    from lightkube.core.exceptions import ConfigError

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1} is not YAML"  # the parser would quote it, a token and all
    if isinstance(error, (ConfigError, OSError, msgspec.MsgspecError)):
        return _words(error)
    if isinstance(error, KeyError):
        return f"it names {_words(error)} and does not have it, or has none where it needs one"
    return "it does not have the shape of a kubeconfig"


def _with_token(file: Path, request: "httpx2.Request") -> "httpx2.Request":
    # Read for each request: it is renewed long before it runs out, and nothing has to be asked twice.
    try:
        token = file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise ApiServerError(f"the token {file} cannot be read: {error.strerror}", "connection") from error
    if not _TOKEN.fullmatch(token):
        raise ApiServerError(f"{file} holds no token", "connection")
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _shown(url: "httpx2.URL") -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"  # neither a password nor a query


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _words(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
