"""Text for a person's terminal: names from outside made safe, long lines wrapped, colours where they are wanted."""

import os
import shutil
import sys
import textwrap

import click

_LEAST_WIDTH = 40


def printable(text: str) -> str:
    """The text with everything that is not printable shown as an escape: it could move a terminal's cursor."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def say(line: str, style: str = "") -> None:
    """Prints a line, made safe; in a terminal wrapped at its width and in `style`, a colour or `bold`."""
    text = printable(line)
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH)
        indent = " " * (len(text) - len(text.lstrip()) + 2)
        kept = textwrap.wrap(
            text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        text = "\n".join(kept)
    click.echo(
        click.style(text, fg=style if style != "bold" else None, bold=style == "bold" or None) if style else text
    )


def colours() -> bool | None:
    """False where the user wants none (https://no-color.org) or the terminal has none; else None: click looks."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
