"""`check`: what the exporter needs on this node, what it found, what is missing and what to do about it."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from exporter.bpf.maps import ReaderMissing
from exporter.cli.node import take_decided
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.columns import Cell, Column, Row, say_columns
from exporter.diagnosis.check import MISSING, NOTE, OK, PARTS, Finding, findings
from exporter.privileges import describe_privileges, may_read_maps, remedy_of_refusal


@click.command("check", short_help="Say what is missing on this node, and the remedy.")
@flag("output", "How to print it.", command="check", type=click.Choice(["text", "json"]), default="text", short="-o")
@node_options()
def command(node: NodeOptions, output: str) -> None:
    """Look at everything the exporter needs here, with a remedy for what is missing. Exits 1 if something is."""
    # In a bundle it is another process on another machine that counts.
    found = [*([] if node.bundle else [_process()]), *_look(node)]
    if output == "json":
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _print(found)
    if any(one.state == MISSING for one in found):
        raise click.exceptions.Exit(1)


def _process() -> Finding:
    if may_read_maps():
        return Finding("process", OK, describe_privileges())
    return Finding("process", NOTE, describe_privileges(), remedy_of_refusal())


def _look(node: NodeOptions) -> list[Finding]:
    try:
        return list(findings(take_decided(node, PARTS)))
    except ReaderMissing as error:
        return [Finding("reader", MISSING, str(error))]


def _print(found: Sequence[Finding]) -> None:
    colours = {OK: "green", MISSING: "red"}
    said: set[str] = set()
    rows: list[Row] = []
    for one in found:
        again = one.state != OK and one.found in said
        rows.append(
            [
                Cell(one.state, colours.get(one.state, "yellow")),
                Cell(one.subject),
                Cell("the same, see above" if again else one.found),
            ]
        )
        if one.remedy and not again:
            rows.append([Cell(""), Cell(""), Cell(f"-> {one.remedy}")])
        said.add(one.found)
    say_columns((Column(""), Column(""), Column("")), rows)
