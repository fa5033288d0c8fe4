"""The cluster's API server: where it is, who we are to it, and one request at a time.

lightkube finds the address and the credentials, in a cluster or in a kubeconfig, and renews a token that has changed;
its client carries the request. Knows HTTP and JSON; what is asked is the caller's business.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from exporter.node import NodeError

if TYPE_CHECKING:
    import httpx2
    from lightkube.config.kubeconfig import SingleConfig

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_WAIT = 3.0
_WHOLE = 8.0
_LARGEST = 1 << 20


class ApiServerError(NodeError):
    """The API server cannot be asked, or said no, or said nothing that can be understood."""


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
        import httpx2

        client = self._client = self._client or self._connect()
        try:
            with client.stream("POST", path, json=body) as response:
                content = _content(response)
        except (httpx2.HTTPError, httpx2.StreamError, OSError, _Slow) as error:
            # The next attempt reads addresses and certificates anew; this connection may be half open.
            self._client = None
            client.close()
            raise ApiServerError(f"the API server {client.base_url} did not answer: {_words(error)}") from error
        return _object(response.status_code, path, content)

    def _connect(self) -> "httpx2.Client":
        import httpx2
        from lightkube.config.client_adapter import Client, ConnectionParams
        from lightkube.config.kubeconfig import KubeConfig

        try:
            if self._kubeconfig:
                config = KubeConfig.from_file(self._kubeconfig)
            else:
                config = KubeConfig.from_service_account(self._service_account)
            one = cast("SingleConfig", config.get())  # it raises when there is none
            return Client(one, ConnectionParams(timeout=httpx2.Timeout(_WAIT)))
        except Exception as error:  # a file that a person wrote fails in as many ways as there are libraries below
            raise ApiServerError(self._cannot(error)) from error

    def _cannot(self, error: Exception) -> str:
        if self._kubeconfig:
            return f"the kubeconfig {self._kubeconfig} cannot be used: {_words(error)}"
        return (
            f"this process runs in no cluster that it could ask ({_words(error)}); "
            "--kubernetes.kubeconfig names one from outside"
        )


class _Slow(Exception):
    """The answer came in drops."""


def _content(response: "httpx2.Response") -> bytes:
    content = b""
    deadline = time.monotonic() + _WHOLE
    for piece in response.iter_bytes():
        content += piece
        if len(content) > _LARGEST:
            raise ApiServerError(f"the API server answered more than {_LARGEST >> 20} MiB")
        if time.monotonic() > deadline:
            raise _Slow(f"its answer was not whole after {_WHOLE:.0f} s")
    return content


def _object(status: int, path: str, content: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if 200 <= status < 300 and isinstance(answer, dict):
        return answer
    message = answer.get("message") if isinstance(answer, dict) else None
    what = path.rpartition("/")[2]
    if status == 401:
        raise ApiServerError(f"the API server does not know this exporter's own credentials (401): {message}")
    if status == 403:
        raise ApiServerError(f"the API server does not let this exporter create {what} (403): {message}")
    if 200 <= status < 300:
        raise ApiServerError(f"the API server answered a request to create {what} with something that is no object")
    raise ApiServerError(f"the API server answered a request to create {what} with {status}: {message}")


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
