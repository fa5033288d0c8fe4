"""`why POD`: runs the exporter's `why` on the pod's node, and gives the peers names that only the cluster knows."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from exporter.kubectl.kubectl import Kubectl, KubectlError, is_terminal, refuse_older
from exporter.kubectl.peers import name_peers
from exporter.kubectl.processes import lines_of
from exporter.kubectl.targets import Target
from exporter.printable import printable, say, say_json

_MAX_RESPONSE, _MAX_SAID = 16 << 20, 64 << 10
_BEGIN = re.compile(rb"(?:\^C)*\{")  # a terminal shows a Ctrl-C before it
_STYLES = ("", "bold", "red", "green", "yellow")


@dataclass(slots=True)
class Reader:
    """Shows what the exporter says before its response, and keeps that: JSON from the first line that begins with a {.

    In a terminal both come by one pipe.
    """

    terminal: bool
    response: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    too_large: bool = False

    def __call__(self, process: "subprocess.Popen[bytes]") -> None:
        """Reads its standard output to the end."""
        for line in lines_of(process.stdout):
            if self.response:
                self.response += line
            elif match := _BEGIN.match(line):
                self.response += line[match.end() - 1 :]
            else:
                self._say(line)
            if len(self.response) > _MAX_RESPONSE:
                self.too_large = True
                process.kill()
                break

    def _say(self, line: bytes) -> None:
        self.said += line[: _MAX_SAID - len(self.said)]
        text = printable(line.decode(errors="replace").rstrip("\r\n"))
        # kubectl has put the terminal into raw mode, where a new line does not begin at the left.
        click.echo(text + "\r" * self.terminal, nl=line.endswith(b"\n"), err=True)


def explain_one(kubectl: Kubectl, target: Target, command: Sequence[str], output: str | None) -> None:
    """Prints what the exporter says about one endpoint, and exits with its code. Raises `KubectlError`."""
    if any(word.startswith(("-o", "--output")) for word in command[1:]) and output is None:
        sys.exit(kubectl.attach(target.exporter, command))  # the user's own words for the exporter
    read = Reader(is_terminal())
    code = kubectl.attach(target.exporter, [*command, "--output=json"], read)
    if read.too_large:
        raise KubectlError(f"its response has more than {_MAX_RESPONSE >> 20} MiB")
    refuse_older(code, read.said.decode(errors="replace"), command)
    found = _parsed(read.response)
    if found is not None:
        problems = name_peers(kubectl, target.node, found)
        _print(found, output)
        for problem in problems:
            say(problem, err=True)
    sys.exit(code)


def _parsed(response: bytes | bytearray) -> dict[str, Any] | None:
    """The response, None if there was none: what was said instead was shown."""
    if not response:
        return None
    try:
        found: dict[str, Any] = json.loads(response)  # it begins with a {
    except (ValueError, RecursionError) as error:
        raise KubectlError("its response is not JSON: is that exporter of another version?") from error
    return found


def _print(found: dict[str, Any], output: str | None) -> None:
    lines, styles = found.get("text"), found.get("styles")
    if output == "json" or not isinstance(lines, list):
        say_json(found)
        return
    known = styles if isinstance(styles, list) and len(styles) == len(lines) else [""] * len(lines)
    for line, style in zip(lines, known, strict=True):
        say(str(line), style if style in _STYLES else "")
