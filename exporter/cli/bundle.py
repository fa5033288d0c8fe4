"""`bundle`: everything the other commands need of this node in one archive, to be looked at anywhere."""

import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import click

from exporter import __version__
from exporter.cli.node import take_settled
from exporter.cli.options import NodeOptions, node_options
from exporter.printable import printable
from exporter.replacing import replacing, wrote


@click.command("bundle", short_help="Put this node's facts into one file to carry away.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@node_options(bundles=0)
def command(node: NodeOptions, file: Path) -> None:
    """Write maps, links, routes and Calico's files of this node into FILE (tar and xz; - is standard output).

    FILE is replaced, and readable by its owner only: it names pods and policies, though it holds no packets and no
    secrets. Look at it with --bundle FILE. Exits 1 when Calico's maps could not be found; the rest is still written.
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
    try:
        with nullcontext(sys.stdout.buffer) if str(file) == "-" else replacing(file) as target:
            written = write_bundle(snapshot, about, target)
    except OSError as error:
        raise click.ClickException(f"{file} could not be written: {error.strerror}") from error
    what = "in the bundle" if str(file) == "-" else wrote(file)
    maps, files = _number(written.maps, "map"), _number(written.files, "file")
    click.echo(f"{what}: {maps} and {files} of Calico's", err=True)
    for problem in written.problems:
        click.echo(f"not in the bundle: {printable(problem)}", err=True)
    if any(problem.startswith("pins:") for problem in written.problems):
        raise click.exceptions.Exit(1)


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
