"""A placeholder for a command whose libraries are not installed: it shows the help or says what to install.

On a laptop, where the package is the kubectl plugin, these are the node's commands. One that imports a library only
when it runs is not replaced: it ends with the same error. The help comes from the output
of `make docs`, which the wheel ships next to this file.
"""

import re
from pathlib import Path
from typing import NoReturn

import click

from exporter.cli.main import PROGRAM

_PAGE = Path(__file__).with_name("commands.md")
_CLONE = Path(__file__).parents[2] / "docs" / "commands.md"  # in a clone, without an installed package


class AbsentCommand(click.Command):
    """Replaces the command `name`, which needs the module `missing`."""

    def __init__(self, name: str, missing: str) -> None:
        self._missing = missing
        settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["-h", "--help"]}
        super().__init__(name, short_help=_short_help(name), context_settings=settings)

    def get_help(self, _: click.Context) -> str:
        """See `click.Command`."""
        return _section(f"### {PROGRAM} {self.name}")

    def invoke(self, _: click.Context) -> NoReturn:
        """See `click.Command`."""
        raise needs(self.name, self._missing)


def needs(command: str | None, missing: str) -> click.ClickException:
    """The error of a command that imports the module `missing`, which is not installed."""
    return click.ClickException(
        f"{command} needs {missing}, which the kubectl plugin alone does without: install this package "
        "with its extra for nodes (in a clone of it, pip install '.[node]')"
    )


def _short_help(name: str) -> str:
    found = re.search(rf"^  {name} +(.*)$", _section(f"## {PROGRAM}"), re.MULTILINE)
    return found[1] if found else ""


def _section(title: str) -> str:
    """The code block below this title."""
    page = (_PAGE if _PAGE.exists() else _CLONE).read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(title)}\n\n```\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""
