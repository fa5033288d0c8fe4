"""The web configuration as values; `config_file.py` parses the file, which most nodes do not have."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from exporter.errors import ExporterError


class WebConfigError(ExporterError):
    """The web configuration is invalid. The message is one sentence that names the line or the file."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The settings in `tls_server_config`. PEM is inline text or the path of a file.

    `ciphers` are OpenSSL's names for TLS 1.2, empty for the default; `curve` is OpenSSL's name. `allowed_sans` is None
    if any verified certificate is allowed.
    """

    cert: str | Path
    key: str | Path
    client_ca: str | Path | None = None
    client_certificate: ssl.VerifyMode = ssl.CERT_NONE
    allowed_sans: frozenset[str] | None = None
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: tuple[str, ...] = ()
    server_order: bool = True
    curve: str | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One request per `interval` seconds, with bursts of `burst`."""

    interval: float
    burst: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The whole file. `users` are bcrypt hashes by name; without users there are no passwords."""

    tls: TlsSettings | None = None
    headers: tuple[tuple[str, str], ...] = ()
    users: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    rate_limit: RateLimit | None = None
