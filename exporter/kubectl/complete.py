"""Tab completion in kubectl, which runs `kubectl_complete-calico_bpf` with the words so far.

The output is cobra's: one candidate per line, then a colon and a number.
Described in Kubernetes' sample-cli-plugin; kubectl does so from v1.26 on.
"""

import sys

import click
from click.shell_completion import ShellComplete

from exporter.kubectl.plugin import PROGRAM, program

_NO_FILES = 4
_FILES = 0


def main() -> None:
    """Prints the candidates for the last of the words it was started with."""
    *words, incomplete = sys.argv[1:] or [""]
    found = ShellComplete(program, {}, PROGRAM, "").get_completions(words, incomplete)
    for item in found:
        if item.type == "plain":
            click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    click.echo(f":{_FILES if any(item.type in ('file', 'dir') for item in found) else _NO_FILES}")
