"""Parses and formats durations (`10s`, `2m`, `1h`, `500ms`; a bare number is seconds), and formats counts with their
nouns.
"""

import re
from typing import Any

import click

_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0}
_TEXT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)?", re.ASCII)
_MIN_SECONDS, _MAX_SECONDS = 0.1, 24 * 3600.0


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A click type: seconds as a float, from 0.1 s to a day."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        match = _TEXT.fullmatch(str(value))
        seconds = float(match[1]) * _SECONDS[match[2] or ""] if match else 0.0
        if not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
            self.fail(f"{value!r} is no time between 100ms and 24h, such as 10s, 2m or 1.5", param, ctx)
        return seconds


def format_duration(seconds: float) -> str:
    """The duration for display, such as `90 s` or `2.5 min`."""
    number, unit = (
        (seconds, "s") if seconds < 120 else (seconds / 60, "min") if seconds < 7200 else (seconds / 3600, "h")
    )
    return f"{number:.3g} {unit}" if number < 100 else f"{number:.0f} {unit}"


def plural(number: int, noun: str) -> str:
    """A count with its noun, in the plural where it is not one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
