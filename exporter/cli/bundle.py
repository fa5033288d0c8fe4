"""`bundle`: everything that the other commands need of this node in one archive, to be read anywhere."""

import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import click

from exporter import __version__
from exporter.cli.capture import record
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.snapshots import open_source, settings_of, take_with_live_map
from exporter.printable import say
from exporter.quantities import Duration, format_duration, plural
from exporter.replacing import replacing, wrote
from exporter.snapshot.bundle_writer import PARTS, write_bundle
from exporter.snapshot.redaction import Redaction

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@click.command("bundle", short_help="Save this node's state to a file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@flag("redact", "Replace names, addresses and selectors, so that FILE can be shared.", command="bundle", is_flag=True)
@flag(
    "packets",
    "Also capture the pods' packets for this time: who was denied; Ctrl-C ends it sooner.",
    command="bundle",
    type=Duration(),
    default=None,
)
@node_options(bundles=0)
def command(node: NodeOptions, file: Path, *, redact: bool, packets: float | None) -> None:
    """Write maps, links, routes and Calico's files of this node into FILE (tar and xz; - is standard output).

    FILE is replaced, and readable by its owner only: it names pods, policies and the addresses and ports of this node's
    flows, though it holds no packets and no secrets. Read it with --bundle FILE. Exits 1 when Calico's maps could not
    be found; the rest is still written.

    With --packets it also holds which flows all pods of the node opened in this time: addresses, ports, the type of
    ICMP and counts, nothing of their content. `why` shows them. It needs CAP_NET_RAW; without it the rest is written.

    With --redact every command shows the same of FILE with other names: those of pods, namespaces, policies, tiers,
    labels, nodes and workload interfaces are replaced by name-…, and addresses by others of the same private range, of
    which two share as many leading bits as before. The same name is replaced alike until the node restarts, so two
    bundles of it can be compared. Counts, ports, protocols, times, versions and the numbers of IP sets stay.
    """
    source, memory = open_source(node)
    settings = settings_of(node)
    if packets is not None and str(file) != "-":
        say(f"capturing for {format_duration(packets)}; Ctrl-C ends it sooner", err=True)
    recorded = record(source, settings, memory, packets) if packets is not None else None
    snapshot = take_with_live_map(source, settings, memory, PARTS)
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
            written = write_bundle(source, snapshot, about, target, edit if redact else dict, recorded)
    except OSError as error:
        raise click.ClickException(f"{file} could not be written: {error.strerror}") from error
    what = "in the bundle" if str(file) == "-" else wrote(file)
    say(f"{what}: {plural(written.maps, 'map')} and {plural(written.files, 'file')} of Calico's", err=True)
    if recorded and recorded.value:
        capture = recorded.value.capture
        flows, seen = plural(len(capture.flows), "flow"), plural(capture.packets, "packet")
        say(f"in the bundle: {flows} of {seen} that were seen: addresses, ports and counts, no content", err=True)
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
