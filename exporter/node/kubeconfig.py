"""Where the cluster's API server is and which credentials it wants: from a kubeconfig, or in a pod from its folder.

Knows the files, but not HTTP. A user that comes from a program (`exec`) is refused, because this process starts none,
and so are a cluster's `proxy-url` and `tls-server-name`: ignoring them would connect to somebody else.
"""

import base64
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from exporter.node.cluster_ca import verify_as_go

_TOKEN = re.compile("[!-~]+", re.ASCII)


class ConfigError(Exception):
    """What is wrong with the files, as a clause without a secret."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server: its URL, the TLS context for it (None for plain HTTP), and the credentials for each request.

    `authorization` returns the header's value, empty without one, and raises `ConfigError`; a token's file is read each
    time: it is renewed long before it expires, so no request has to be retried.
    """

    url: SplitResult
    tls: ssl.SSLContext | None
    authorization: Callable[[], str]


def from_service_account(folder: Path) -> Cluster:
    """The cluster that this pod runs in. Raises OSError, KeyError and `ConfigError`."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    for name in ("token", "namespace"):
        (folder / name).open("rb").close()
    address = f"[{host}]" if ":" in host else host
    tls = _tls_context({"certificate-authority": str(folder / "ca.crt")}, folder)
    return Cluster(_url(f"https://{address}:{port}"), tls, partial(_bearer, folder / "token"))


def from_file(path: Path) -> Cluster:
    """The cluster of the current context. Raises what an invalid file causes; `config_problem` names it."""
    import yaml

    if not path.is_file():
        raise ConfigError(f"Configuration file {path} not found")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    cluster, user = _cluster_and_user(config)
    url = _url(_text(cluster, "server", "cluster") or "")
    tls = _tls_context(cluster, path.parent) if url.scheme == "https" else None
    if tls:
        _load_client_certificate(tls, user, path.parent)
    return Cluster(url, tls, _authorization(user, path.parent))


def config_problem(error: Exception) -> str:
    """What is wrong with a kubeconfig that cannot be used, as a clause."""
    import yaml

    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1} is not YAML"  # the parser's message quotes it, with tokens
    if isinstance(error, ConfigError | OSError):
        return str(error) or type(error).__name__
    if isinstance(error, KeyError):
        return f"it names {error} and does not have it, or has none where it needs one"
    return "it does not have the shape of a kubeconfig"


def _cluster_and_user(config: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:  # YAML
    clusters, contexts = _by_name(config["clusters"], "cluster"), _by_name(config["contexts"], "context")
    users = _by_name(config.get("users", []), "user")
    name = _text(config, "current-context", "file")
    if not name:
        raise ConfigError("it has no current-context")
    if name not in contexts:
        raise ConfigError(f"Context '{name}' not found")
    names = {kind: _text(contexts[name], kind, "context") for kind in ("cluster", "user")}
    for kind, value in names.items():
        if not value:
            raise ConfigError(f"its context {name} names no {kind}")
    cluster, user = clusters[names["cluster"]], users[names["user"]]
    for field in ("proxy-url", "tls-server-name"):
        if cluster.get(field):
            raise ConfigError(f"its cluster has a {field}, which this program cannot heed")
    return cluster, user


def _by_name(entries: Any, kind: str) -> Mapping[str | None, Mapping[str, Any]]:  # YAML
    found = {entry["name"]: entry[kind] for entry in entries}
    if not all(isinstance(entry, dict) for entry in found.values()):
        raise ConfigError(f"it has a {kind} without fields")
    return found


def _text(entry: Mapping[str, Any], field: str, of: str) -> str | None:
    value = entry.get(field)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"the {field} of its {of} is no text")
    return value


def _url(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
    except ValueError:
        url = SplitResult("", "", "", "", "")
    if url.scheme not in ("http", "https"):
        raise ConfigError("its server is no http:// or https:// address")
    return url


def _authorization(user: Mapping[str, Any], folder: Path) -> Callable[[], str]:
    if user.get("exec"):
        raise ConfigError("its user comes from a program, and this one starts none; give it a token or a certificate")
    file, token, name, password = (_text(user, one, "user") for one in ("tokenFile", "token", "username", "password"))
    if file:
        return partial(_bearer, folder / file)
    if token is not None:
        if not _TOKEN.fullmatch(token):
            raise ConfigError("its user's token is empty, or holds what none can")
        return lambda: f"Bearer {token}"
    if name and password:
        pair = base64.b64encode(f"{name}:{password}".encode()).decode()
        return lambda: f"Basic {pair}"
    if user.get("auth-provider"):
        raise ConfigError("auth-provider not supported")
    return lambda: ""


def _bearer(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise ConfigError(f"the token {file} cannot be read: {error.strerror}") from error
    if not _TOKEN.fullmatch(token):
        raise ConfigError(f"{file} holds no token")
    return f"Bearer {token}"


def _tls_context(cluster: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    data = _text(cluster, "certificate-authority-data", "cluster")
    file = _text(cluster, "certificate-authority", "cluster")
    if data:
        context = ssl.create_default_context(cadata=base64.b64decode(data).decode("ascii", "replace"))
    elif file:
        (folder / file).open("rb").close()  # the TLS error for a missing file does not name it
        context = ssl.create_default_context(cafile=folder / file)
    else:
        context = ssl.create_default_context()
        if cluster.get("insecure-skip-tls-verify") is True:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    verify_as_go(context)
    return context


def _load_client_certificate(context: ssl.SSLContext, user: Mapping[str, Any], folder: Path) -> None:
    with ExitStack() as stack:
        certificate, key = (_file_of(user, name, folder, stack) for name in ("client-certificate", "client-key"))
        if certificate and key:
            context.load_cert_chain(certificate, key)
        elif certificate:
            raise ConfigError("its user has a client-certificate and no client-key")


def _file_of(user: Mapping[str, Any], name: str, folder: Path, stack: ExitStack) -> Path | None:
    data, file = _text(user, f"{name}-data", "user"), _text(user, name, "user")
    if data:
        return stack.enter_context(_in_memory(base64.b64decode(data)))
    if file:
        (folder / file).open("rb").close()  # the TLS error for a missing file does not name it
        return folder / file
    return None


@contextmanager
def _in_memory(content: bytes) -> Iterator[Path]:
    """A file that exists only in memory: OpenSSL takes a certificate and its key from files alone."""
    descriptor = os.memfd_create("credentials")
    try:
        os.write(descriptor, content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
