"""The web configuration as values; `config_file.py` parses the file, which most nodes do not have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.errors import ExporterError

if TYPE_CHECKING:
    from exporter.web.access.certificates import TlsSettings


class WebConfigError(ExporterError):
    """The web configuration is invalid. The message is one sentence that names the line or the file."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One request per `interval` seconds, with bursts of `burst`."""

    interval: float
    burst: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The whole file. `users` are bcrypt hashes by name; without users there are no passwords."""

    tls: "TlsSettings | None" = None
    headers: tuple[tuple[str, str], ...] = ()
    users: Mapping[str, str] = field(default_factory=dict)
    rate_limit: RateLimit | None = None
