"""The entry point: finds commands by name, imports them on first use and turns errors into sentences.

An error is one sentence on standard error and exit code 1; wrong usage is exit code 2; a traceback is always a bug.
"""

import importlib
import io
import os
import sys

import click

from exporter import __version__
from exporter.errors import OUT_OF_MEMORY, ExporterError
from exporter.printable import colours, printable, wrap_error
from exporter.standard_streams import exit_on_unwritable_output, open_closed_streams

# Each is the function `command` of the module of the same name in this package.
COMMANDS = ("serve", "counters", "policy", "why", "trace", "conntrack", "scrape", "check", "bundle", "demo")
PROGRAM = "calico-bpf-exporter"
COMPLETE = "_CALICO_BPF_EXPORTER_COMPLETE"


class Commands(click.Group):
    """Imports a command's module on first use: `counters` must not load the web server."""

    def list_commands(self, _: click.Context) -> list[str]:
        """See `click.Group`."""
        return list(COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        if cmd_name not in COMMANDS:
            return None
        try:
            command: click.Command = importlib.import_module(f"exporter.cli.{cmd_name}").command
        except ModuleNotFoundError as error:
            if _is_ours(error):
                raise
            from exporter.cli.absent import AbsentCommand

            return AbsentCommand(cmd_name, error.name or "more")
        return command

    def invoke(self, ctx: click.Context) -> None:
        """Runs the command; the program's own errors become a sentence."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except click.ClickException as error:
            wrap_error(error)
            raise
        except ModuleNotFoundError as error:
            if _is_ours(error):
                raise
            from exporter.cli.absent import needs

            raise needs(ctx.invoked_subcommand, error.name or "more") from error
        except Exception as error:
            sentence = sentence_of(error)
            if sentence is None:
                raise
            raise wrap_error(click.ClickException(printable(sentence))) from error


@click.command(PROGRAM, cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def program() -> None:
    """Calico's eBPF counters: what was accepted and dropped on this node, by interface, reason and pod.

    Every option can also be set by the environment variable shown next to it.
    """


def _is_ours(error: ModuleNotFoundError) -> bool:
    return (error.name or "").startswith("exporter")


def sentence_of(error: BaseException) -> str | None:
    """The sentence for the user, or None for a bug, which deserves its traceback."""
    if isinstance(error, ExporterError):
        return str(error)
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":  # no dedicated class
        return "a thread could not be started: raise the limit of processes (ulimit -u, or pids.max of the cgroup)"
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    return None


def main() -> None:
    """Runs the program with the arguments it was started with."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that cannot show a name
    if COMPLETE in os.environ:
        importlib.import_module("exporter.cli.shells").register_completion()
    with exit_on_unwritable_output():
        program(prog_name=PROGRAM, complete_var=COMPLETE, color=colours())
