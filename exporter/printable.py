"""Terminal output: escapes unprintable characters, wraps long lines, colours where they are wanted."""

import json
import os
import sys
import textwrap
from typing import TextIO

import click

_MIN_WIDTH = 40


def printable(text: str) -> str:
    """The text with unprintable characters escaped: they could control the terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def say(line: str, style: str = "", *, err: bool = False) -> None:
    """Prints a line, escaped, in this style (see `styled`); in a terminal wrapped at its width."""
    text = "\n".join(wrapped(printable(line), width_of(sys.stderr if err else sys.stdout)))
    click.echo(styled(text, style), err=err)


def say_json(found: object) -> None:
    """Prints a value as JSON for a program, indented for a person too."""
    click.echo(json.dumps(found, indent=2))


def width_of(stream: TextIO) -> int | None:
    """The terminal's width in columns, at least 40; None for a pipe, where nothing is wrapped."""
    if not stream.isatty():
        return None
    import shutil

    return max(shutil.get_terminal_size().columns, _MIN_WIDTH)


def wrapped(text: str, width: int | None, *, hang: int = 2) -> list[str]:
    """The line wrapped at this width between words; a longer word, such as a URL, is not broken.

    Continuation lines are indented by `hang` more, or aligned with the line's last column of text.
    """
    if width is None or len(text) <= width:
        return [text]
    indent = len(text) - len(text.lstrip())
    column = max(text.rstrip().rfind("  ") + 2, indent)
    longest = max(map(len, text[column:].split()), default=0)
    below = " " * (column if column > indent + 1 and column + longest <= width else indent + hang)
    found = textwrap.wrap(text, width, subsequent_indent=below, break_long_words=False, break_on_hyphens=False)
    return found or [""]


def wrap_error(error: click.ClickException) -> click.ClickException:
    """The error with its message wrapped where standard error is a terminal."""
    width = width_of(sys.stderr)
    if width is not None:
        lines = [piece for line in f"Error: {error.message}".splitlines() for piece in wrapped(line, width)]
        vars(error)["message"] = "\n".join(lines).removeprefix("Error: ")
    return error


def styled(text: str, style: str) -> str:
    """The text in a style: a colour, `bold`, `dim` or `underline`, separated by spaces."""
    marks = set(style.split())
    colour = next(iter(marks - {"bold", "dim", "underline"}), None)
    if not marks:
        return text
    return click.style(text, fg=colour, **{mark: True for mark in ("bold", "dim", "underline") if mark in marks})


def colours() -> bool | None:
    """False where the user wants no colours (https://no-color.org) or the terminal none; else None: click decides."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
