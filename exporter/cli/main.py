"""The program: its commands, found by name and imported only when used, and what an error looks like to a person.

An error is one sentence on standard error and exit code 1; wrong usage is exit code 2; a traceback is always a bug.
"""

import errno
import importlib
import io
import os
import sys
from typing import Any

import click

from exporter import __version__
from exporter.errors import ExporterError
from exporter.printable import colours, printable, wrap_error

# Each is the function `command` of the module of the same name in this room.
COMMANDS = ("serve", "counters", "policy", "why", "scrape", "check", "bundle", "demo")
PROGRAM = "calico-bpf-exporter"
COMPLETE = "_CALICO_BPF_EXPORTER_COMPLETE"


class Commands(click.Group):
    """Imports a command's module when the command is asked for: `counters` must not pay for the web server."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        try:
            command: click.Command = importlib.import_module(f"exporter.cli.{cmd_name}").command
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("exporter"):
                raise
            from exporter.cli.absent import AbsentCommand

            return AbsentCommand(PROGRAM, cmd_name, error.name or "more")
        return command

    def invoke(self, ctx: click.Context) -> Any:  # whatever the command returns
        """Runs the command; the program's own errors become a sentence."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except click.ClickException as error:
            wrap_error(error)
            raise
        except Exception as error:
            sentence = sentence_of(error)
            if sentence is None:
                raise
            said = click.ClickException(printable(sentence))
            wrap_error(said)
            raise said from error
        return result


@click.command(PROGRAM, cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def program() -> None:
    """Calico's eBPF counters: what was accepted and dropped on this node, by interface, reason and pod.

    Every option can also come from the environment; its variable is shown beside it.
    """


def sentence_of(error: BaseException) -> str | None:
    """The sentence that this exception says to a person, or None when it is a bug and deserves its traceback."""
    if isinstance(error, ExporterError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        # What else can be full is written through files of their own, whose errors say which.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would try again at its end
        return "standard output could not be written: no space left"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":  # it has no class of its own
        return "a thread could not be started: raise the limit of processes (ulimit -u, or pids.max of the cgroup)"
    return None


def main() -> None:
    """Runs the program with the arguments it was started with."""
    # numpy's library for matrices, which nothing here uses, starts a thread for each CPU and aborts where it may not.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name shows its escape
    if COMPLETE in os.environ:
        importlib.import_module("exporter.cli.shells").teach_click()
    program(prog_name=PROGRAM, complete_var=COMPLETE, color=colours())
