"""`bundle`: everything that the other commands need of this node in one archive, to be read anywhere."""

import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import click

from exporter import __version__
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.snapshots import open_source, settings_of, take_with_live_map
from exporter.printable import say
from exporter.quantities import plural
from exporter.replacing import replacing, wrote

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@click.command("bundle", short_help="Save this node's state to a file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@flag("redact", "Replace names, addresses and selectors, so that FILE can be shared.", command="bundle", is_flag=True)
@node_options(bundles=0)
def command(node: NodeOptions, file: Path, redact: bool) -> None:  # noqa: FBT001  click passes it
    """Write maps, links, routes and Calico's files of this node into FILE (tar and xz; - is standard output).

    FILE is replaced, and readable by its owner only: it names pods, policies and the addresses and ports of this node's
    flows, though it holds no packets and no secrets. Read it with --bundle FILE. Exits 1 when Calico's maps could not
    be found; the rest is still written.

    With --redact every command shows the same of FILE with other names: those of pods, namespaces, policies, tiers,
    labels, nodes and workload interfaces are replaced by name-…, and addresses by others of the same private range, of
    which two share as many leading bits as before. The same name is replaced alike until the node restarts, so two
    bundles of it can be compared. Counts, ports, protocols, times, versions and the numbers of IP sets stay.
    """
    from exporter.snapshot.bundle_writer import PARTS, write_bundle
    from exporter.snapshot.redaction import Redaction

    source, memory = open_source(node)
    snapshot = take_with_live_map(source, settings_of(node), memory, PARTS)
    system = os.uname()
    about = {
        "exporter": __version__,
        "kernel": system.release,
        "node": system.nodename,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }

    def edit(members: dict[str, bytes]) -> dict[str, bytes]:
        return Redaction(members, _key(), node.prefixes).redacted()

    try:
        with nullcontext(sys.stdout.buffer) if str(file) == "-" else replacing(file) as target:
            written = write_bundle(source, snapshot, about, target, edit if redact else dict)
    except OSError as error:
        raise click.ClickException(f"{file} could not be written: {error.strerror}") from error
    what = "in the bundle" if str(file) == "-" else wrote(file)
    say(f"{what}: {plural(written.maps, 'map')} and {plural(written.files, 'file')} of Calico's", err=True)
    for problem in written.problems:
        say(f"not in the bundle: {problem}", err=True)
    if any(problem.startswith("pins:") for problem in written.problems):
        raise click.exceptions.Exit(1)


def _key() -> bytes:
    """The same until the node restarts, so that its bundles can be compared; whoever has only those cannot know it."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return os.urandom(32)
