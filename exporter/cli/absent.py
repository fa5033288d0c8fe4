"""A command whose libraries are not installed: it has its help, and else says what to install.

So are the commands of a node on a laptop, where the package is the kubectl plugin. The help is what `make docs`
wrote of the command itself; the wheel has it in a file beside this one.
"""

import re
from pathlib import Path
from typing import Any

import click

_PAGE = Path(__file__).with_name("commands.md")
_CLONE = Path(__file__).parents[2] / "docs" / "commands.md"  # where the package is not installed but lies in a clone


class AbsentCommand(click.Command):
    """Stands for the command `name` of `program`, which needs the module `lacks`."""

    def __init__(self, program: str, name: str, lacks: str) -> None:
        self._program, self._lacks = program, lacks
        taken = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["-h", "--help"]}
        super().__init__(name, short_help=_short_help(program, name), context_settings=taken)

    def get_help(self, ctx: click.Context) -> str:
        """See `click.Command`."""
        del ctx
        return _section(f"### {self._program} {self.name}")

    def invoke(self, ctx: click.Context) -> Any:
        """See `click.Command`."""
        del ctx
        raise click.ClickException(
            f"{self.name} needs {self._lacks}, which the kubectl plugin alone does without: install this package with "
            "its extra for nodes (in a clone of it, pip install '.[node]')"
        )


def _short_help(program: str, name: str) -> str:
    found = re.search(rf"^  {name} +(.*)$", _section(f"## {program}"), re.MULTILINE)
    return found[1] if found else ""


def _section(title: str) -> str:
    """What stands in the block below this title."""
    page = (_PAGE if _PAGE.exists() else _CLONE).read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(title)}\n\n```\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""
