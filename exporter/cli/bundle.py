"""`bundle`: everything the other commands need of this node in one archive, to be looked at anywhere."""

import os
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click

from exporter import __version__
from exporter.cli.node import take_settled
from exporter.cli.options import NodeOptions, node_options


@click.command("bundle")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@node_options(bundle=False)
def command(node: NodeOptions, file: Path) -> None:
    """Write maps, links, routes and Calico's files of this node into FILE (a tar archive; - is standard output).

    It names pods and policies, and holds no packets and no secrets. Look at it with --bundle FILE.
    """
    from exporter.snapshot.bundle import write_bundle

    snapshot = take_settled(node)
    system = os.uname()
    about = {
        "exporter": __version__,
        "kernel": system.release,
        "node": system.nodename,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with ExitStack() as stack:
        try:
            dash = str(file) == "-"
            target = sys.stdout.buffer if dash else stack.enter_context(file.open("wb"))
            problems = write_bundle(snapshot, about, target)
        except OSError as error:
            raise click.ClickException(f"{file} could not be written: {error.strerror}") from error
    for problem in problems:
        click.echo(f"not in the bundle: {problem}", err=True)
