"""Exposition formats: Prometheus text format 0.0.4, OpenMetrics 1.0.0, and content negotiation.

A custom implementation because rendering dominates the cost of a scrape; the output must parse back to the same
samples with prometheus-client's parsers and with promtool. Families without samples are omitted.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from exporter.metrics.family import COUNTER, Family, Samples

_TEXT_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_OPENMETRICS_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_OPENMETRICS_VERSIONS = ("", "0.0.1", "1.0.0")
OPENMETRICS_END = b"# EOF\n"
_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class TextFormat:
    """An exposition format: its name on the command line and its content type."""

    name: str
    content_type: str


TEXT = TextFormat("text", "text/plain; version=0.0.4; charset=utf-8")
OPENMETRICS = TextFormat("openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8")


def negotiate(accept: str) -> TextFormat:
    """The format for an HTTP Accept header: OpenMetrics unless the client prefers plain text."""
    quality = {TEXT: 0.0, OPENMETRICS: 0.0}
    for offer in accept.lower().split(","):
        media, *parameters = (word.strip() for word in offer.split(";"))
        version = next((word[8:].strip('"') for word in parameters if word.startswith("version=")), "")
        if media == "application/openmetrics-text" and version in _OPENMETRICS_VERSIONS:
            quality[OPENMETRICS] = max(quality[OPENMETRICS], _quality(parameters))
        elif media in ("text/plain", "text/*", "*/*"):
            quality[TEXT] = max(quality[TEXT], _quality(parameters))
    return OPENMETRICS if quality[OPENMETRICS] > 0 and quality[OPENMETRICS] >= quality[TEXT] else TEXT


def render(samples: Iterable[Samples], text_format: TextFormat) -> bytes:
    """The response body in UTF-8: families with samples, and OpenMetrics' end marker."""
    parts: list[bytes] = []
    for one in samples:
        if one.values:
            parts += [_head(one.family, openmetrics=text_format is OPENMETRICS), one.text()]
    return b"".join([*parts, OPENMETRICS_END if text_format is OPENMETRICS else b""])


def _quality(parameters: list[str]) -> float:
    for word in parameters:
        match = _QUALITY.fullmatch(word)
        if match:
            return float(match[1])
    return 1.0


@cache  # as many as there are families, twice
def _head(family: Family, *, openmetrics: bool) -> bytes:
    # In OpenMetrics a counter family's name has no `_total` suffix, and quotes in help are escaped.
    title = family.name.removesuffix("_total") if openmetrics and family.kind == COUNTER else family.name
    text = family.help.translate(_OPENMETRICS_ESCAPES if openmetrics else _TEXT_ESCAPES)
    return f"# HELP {title} {text}\n# TYPE {title} {family.kind}\n".encode()
