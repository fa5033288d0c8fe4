"""The current web configuration: reloads its files while serving; an invalid one does not replace it.

Files are compared by content, at most once a second: Kubernetes swaps the folders of a mounted secret, other tools
overwrite a file. Knows paths; `config_file.py` and `certificates.py` interpret the contents.
"""

import logging
import os
import ssl
import stat
import time
from pathlib import Path

from exporter.web.access.certificates import TlsSettings, make_tls
from exporter.web.access.config import WebConfig, WebConfigError
from exporter.web.access.config_file import parse_web_config
from exporter.web.transport.tls import Tls

log = logging.getLogger("exporter.web")

_MIN_INTERVAL = 1.0
_MAX_BYTES = 1 << 20


class LiveConfig:
    """The configuration (`config`) and its TLS (`tls`) as of the last `refresh`.

    With `bearer` the file may not have users: both use the Authorization header.
    Raises `WebConfigError` if the file is invalid at startup.
    """

    def __init__(self, path: Path, *, bearer: bool = False) -> None:
        self.config = WebConfig()
        self.tls: Tls | None = None
        self.problem: str | None = None
        self._path = path
        self._bearer = bearer
        self._texts: list[str | None] = []
        self._next_reload = time.monotonic()
        try:
            self._load()
        except WebConfigError as error:
            raise WebConfigError(f"the web configuration {path} cannot be served: {error}") from error

    def refresh(self, *, at_once: bool = False) -> None:
        """Reloads the files if the last reload was a second ago, or `at_once`; logs a failure once."""
        now = time.monotonic()
        if now < self._next_reload and not at_once:
            return
        self._next_reload = now + _MIN_INTERVAL
        try:
            self._load()
        except WebConfigError as error:
            if str(error) != self.problem:
                log.error("web configuration %s: reload failed, keeping the previous one: %s", self._path, error)  # noqa: TRY400  a sentence
            self.problem = str(error)
        else:
            if self.problem:
                log.info("web configuration %s: reload succeeded again", self._path)
            self.problem = None

    def current_tls(self) -> Tls | None:
        """The TLS of the files as they are now, about a second at most behind them."""
        self.refresh()
        return self.tls

    def _load(self) -> None:
        text = _read(self._path)
        same = self._texts[:1] == [text]
        config = self.config if same else parse_web_config(text, self._path.parent)
        settings = config.tls
        pem = [_pem(one) for one in (settings.cert, settings.key, settings.client_ca)] if settings else []
        if self._texts == [text, *pem]:
            return
        if self._texts:
            self._refuse_weaker(config)
        if config.users and self._bearer:
            raise WebConfigError(
                "basic_auth_users and --kubernetes.authorization both use the Authorization header: choose one"
            )
        if [settings, *pem] != [self.config.tls, *self._texts[1:]]:  # existing connections keep their TLS
            self.tls = _tls(settings, *pem) if settings else None
        self.config, self._texts = config, [text, *pem]
        log.info("web configuration %s loaded: %s", self._path, _summary(config))

    def _refuse_weaker(self, new: WebConfig) -> None:
        # A file that is being overwritten is truncated for a moment, which must not disable authentication.
        old = self.config
        lost = [
            name
            for name, before, after in (
                ("tls_server_config", bool(old.tls), bool(new.tls)),
                ("client_auth_type", _client_verification(old), _client_verification(new)),
                ("client_allowed_sans", _restricts_names(old), _restricts_names(new)),
                ("basic_auth_users", bool(old.users), bool(new.users)),
            )
            if after < before
        ]
        if lost:
            raise WebConfigError(f"{lost[0]} is weaker than at startup: restart to apply it")


def _tls(settings: TlsSettings, cert: str | None, key: str | None, client_ca: str | None) -> Tls:
    try:
        return make_tls(settings, cert or "", key or "", client_ca)
    except WebConfigError as error:
        files = [str(one) for one in (settings.cert, settings.key, settings.client_ca) if isinstance(one, Path)]
        raise WebConfigError(f"{error} ({', '.join(files) or 'the PEM in it'})") from error


def _summary(config: WebConfig) -> str:
    demands = {
        ssl.CERT_NONE: "not asked for",
        ssl.CERT_OPTIONAL: "verified if given",
        ssl.CERT_REQUIRED: "required",
    }
    sans = config.tls.allowed_sans if config.tls else None
    names = "" if sans is None else f" with one of {len(sans)} names"
    clients = f"https, client certificates {demands[config.tls.client_certificate]}{names}" if config.tls else "http"
    limit = config.rate_limit
    rate = f"one request each {limit.interval:g} s and {limit.burst} at once" if limit else "no rate limit"
    return f"{clients}, users {len(config.users) or 'not asked for'}, {rate}"


def _client_verification(config: WebConfig) -> int:
    return config.tls.client_certificate if config.tls else ssl.CERT_NONE


def _restricts_names(config: WebConfig) -> bool:
    return config.tls is not None and config.tls.allowed_sans is not None


def _pem(source: str | Path | None) -> str | None:
    return _read(source) if isinstance(source, Path) else source


def _read(path: Path) -> str:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise WebConfigError(f"{path} is not a regular file, so it cannot be reloaded")
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise WebConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_BYTES:
        raise WebConfigError(f"{path} is over {_MAX_BYTES >> 20} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise WebConfigError(f"{path} is not UTF-8 text") from error
