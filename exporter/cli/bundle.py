"""`bundle`: everything that the other commands need of this node in one archive, to be read anywhere."""

import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import click

from exporter import __version__
from exporter.cli.options import NodeOptions, node_options
from exporter.cli.snapshots import open_source, settings_of, take_with_live_map
from exporter.printable import say
from exporter.quantities import plural
from exporter.replacing import replacing, wrote


@click.command("bundle", short_help="Save this node's state to a file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@node_options(bundles=0)
def command(node: NodeOptions, file: Path) -> None:
    """Write maps, links, routes and Calico's files of this node into FILE (tar and xz; - is standard output).

    FILE is replaced, and readable by its owner only: it names pods, policies and the addresses and ports of this node's
    flows, though it holds no packets and no secrets. Read it with --bundle FILE. Exits 1 when Calico's maps could not
    be found; the rest is still written.
    """
    from exporter.snapshot.bundle import PARTS, write_bundle

    source, memory = open_source(node)
    snapshot = take_with_live_map(source, settings_of(node), memory, PARTS)
    system = os.uname()
    about = {
        "exporter": __version__,
        "kernel": system.release,
        "node": system.nodename,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        with nullcontext(sys.stdout.buffer) if str(file) == "-" else replacing(file) as target:
            written = write_bundle(source, snapshot, about, target)
    except OSError as error:
        raise click.ClickException(f"{file} could not be written: {error.strerror}") from error
    what = "in the bundle" if str(file) == "-" else wrote(file)
    say(f"{what}: {plural(written.maps, 'map')} and {plural(written.files, 'file')} of Calico's", err=True)
    for problem in written.problems:
        say(f"not in the bundle: {problem}", err=True)
    if any(problem.startswith("pins:") for problem in written.problems):
        raise click.exceptions.Exit(1)
