"""Samples as text: Prometheus text format 0.0.4 and OpenMetrics 1.0.0, and which of the two a client asked for.

Both are written by us because rendering, not reading, is what a scrape costs; whatever is written here must parse back
to the same samples with prometheus-client's parsers and with promtool. Families without samples are not written.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from exporter.metrics.family import COUNTER, Samples

_LABEL_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})
_OPENMETRICS_VERSIONS = ("", "0.0.1", "1.0.0")
_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class TextFormat:
    """An exposition format: the word for it on the command line and its content type."""

    name: str
    content_type: str


TEXT = TextFormat("text", "text/plain; version=0.0.4; charset=utf-8")
OPENMETRICS = TextFormat("openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8")


def negotiate(accept: str) -> TextFormat:
    """The format for an HTTP Accept header: OpenMetrics where the client likes it no less than plain text."""
    liked = {TEXT: 0.0, OPENMETRICS: 0.0}
    for offer in accept.lower().split(","):
        media, *parameters = (word.strip() for word in offer.split(";"))
        version = next((word[8:].strip('"') for word in parameters if word.startswith("version=")), "")
        if media == "application/openmetrics-text" and version in _OPENMETRICS_VERSIONS:
            liked[OPENMETRICS] = max(liked[OPENMETRICS], _quality(parameters))
        elif media == "text/plain":
            liked[TEXT] = max(liked[TEXT], _quality(parameters))
    return OPENMETRICS if liked[OPENMETRICS] > 0 and liked[OPENMETRICS] >= liked[TEXT] else TEXT


def render(samples: Iterable[Samples], text_format: TextFormat) -> str:
    """The families with samples, without the end mark that OpenMetrics needs after the last family of all."""
    lines: list[str] = []
    for one in samples:
        if one.rows:
            lines += _family_lines(one, openmetrics=text_format is OPENMETRICS)
    return "\n".join(lines) + "\n" if lines else ""


def encode(text: str, text_format: TextFormat) -> bytes:
    """The body of a response: UTF-8, with OpenMetrics' end mark. What UTF-8 cannot carry appears escaped."""
    end = "# EOF\n" if text_format is OPENMETRICS else ""
    return (text + end).encode("utf-8", "backslashreplace")


def _quality(parameters: list[str]) -> float:
    for word in parameters:
        match = _QUALITY.fullmatch(word)
        if match:
            return float(match[1])
    return 1.0


def _family_lines(samples: Samples, *, openmetrics: bool) -> list[str]:
    family = samples.family
    # OpenMetrics names a counter's family without the suffix that its samples carry.
    title = family.name.removesuffix("_total") if openmetrics and family.kind == COUNTER else family.name
    escapes = _LABEL_ESCAPES if openmetrics else _HELP_ESCAPES
    lines = [f"# HELP {title} {family.help.translate(escapes)}", f"# TYPE {title} {family.kind}"]
    for values, value in samples.rows:
        labels = ",".join(
            f'{name}="{label.translate(_LABEL_ESCAPES)}"' for name, label in zip(family.labels, values, strict=True)
        )
        lines.append(f"{family.name}{{{labels}}} {value}" if labels else f"{family.name} {value}")
    return lines
