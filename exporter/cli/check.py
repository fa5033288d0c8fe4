"""`check`: what the exporter needs on this node, what is missing and how to fix it."""

import time
from collections.abc import Sequence
from dataclasses import asdict

import click

from exporter.bpf.maps import ReaderMissing
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.snapshots import one_snapshot, open_source, settings_of, take_with_live_map
from exporter.columns import Cell, Column, Row, say_columns
from exporter.diagnosis.check import MISSING, NOTE, OK, PARTS, Finding, findings
from exporter.diagnosis.uncounted import is_suspect
from exporter.printable import say_json
from exporter.privileges import describe_privileges, may_read_maps, remedy_of_refusal
from exporter.snapshot.reading import take_snapshot

_RECHECK_DELAY = 3.0


@click.command("check", short_help="Check this node and suggest fixes.")
@flag("output", "Output format.", command="check", type=click.Choice(["text", "json"]), default="text", short="-o")
@node_options()
def command(node: NodeOptions, output: str) -> None:
    """Check what the exporter needs on this node and suggest fixes for what is missing.

    Exits 1 if anything is, or if an interface loses packets that no counter counts.
    """
    # A bundle comes from another process, usually on another machine.
    found = [*([] if node.bundle else [_process()]), *_node(node)]
    if output == "json":
        say_json([asdict(one) for one in found])
    else:
        _print(found)
    if any(one.state == MISSING for one in found):
        raise click.exceptions.Exit(1)


def _process() -> Finding:
    if may_read_maps():
        return Finding("process", OK, describe_privileges())
    return Finding("process", NOTE, describe_privileges(), remedy_of_refusal())


def _node(node: NodeOptions) -> list[Finding]:
    try:
        if node.bundle:
            return list(findings(one_snapshot(node, PARTS)))
        (source, memory), settings = open_source(node), settings_of(node)
        now, before = take_with_live_map(source, settings, memory, PARTS), None
        if is_suspect(now):  # of all time since an interface was created, which proves nothing
            time.sleep(_RECHECK_DELAY)
            now, before = take_snapshot(source, settings, memory, PARTS), now
        return list(findings(now, before))
    except ReaderMissing as error:
        return [Finding("reader", MISSING, str(error))]


def _print(found: Sequence[Finding]) -> None:
    colours = {OK: "green", MISSING: "red"}
    reported: set[str] = set()
    rows: list[Row] = []
    for one in found:
        again = one.state != OK and one.found in reported
        rows.append(
            [
                Cell(one.state, colours.get(one.state, "yellow")),
                Cell(one.subject),
                Cell("the same, see above" if again else one.found),
            ]
        )
        if one.remedy and not again:
            rows.append([Cell(""), Cell(""), Cell(f"-> {one.remedy}")])
        reported.add(one.found)
    say_columns((Column(""), Column(""), Column("")), rows)
