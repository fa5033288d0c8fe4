"""`scrape`: one scrape without a server, for a person or for node_exporter's textfile directory."""

import sys
from pathlib import Path

import click

from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.snapshots import one_snapshot
from exporter.metrics.exposition import OPENMETRICS, TEXT, render
from exporter.metrics.scrape import (
    ON_BY_DEFAULT,
    collected_samples,
    exporter_samples,
    make_collectors,
    run_collector,
)
from exporter.metrics.self_metrics import ExporterCollector
from exporter.printable import printable
from exporter.replacing import replacing

_FORMATS = {one.name: one for one in (TEXT, OPENMETRICS)}


@click.command("scrape", short_help="Print one scrape, without a server.")
@flag("format", "Exposition format.", command="scrape", type=click.Choice(list(_FORMATS)), default=TEXT.name)
@flag(
    "output",
    "Write to this file instead, replacing it atomically.",
    command="scrape",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
)
@node_options()
def command(node: NodeOptions, format: str, output: Path | None) -> None:  # noqa: A002  the flag's name
    """Print one scrape: the same samples as /metrics by default, without those about the process.

    Exits 1 when a collector failed; the samples of the others are still written.
    """
    collectors = make_collectors(ON_BY_DEFAULT)
    snapshot = one_snapshot(node, frozenset().union(*(one.parts for one in collectors), ExporterCollector.parts))
    results = [run_collector(one, lambda _: snapshot) for one in collectors]
    body = render(collected_samples(results) + exporter_samples(lambda _: snapshot), _FORMATS[format])
    if output is not None:
        try:
            with replacing(output, mode=0o644) as target:
                target.write(body)
        except OSError as error:
            raise click.ClickException(f"{output} could not be written: {error.strerror}") from error
    elif sys.stdout.isatty():  # names in an untrusted bundle can control the terminal
        click.echo("\n".join(map(printable, body.decode().split("\n"))), nl=False)
    else:
        sys.stdout.buffer.write(body)
    failures: dict[str, list[str]] = {}
    for result in results:
        if result.failure:
            failures.setdefault(result.failure, []).append(result.name)
    if failures:
        sentences = (f"collector {', '.join(names)} failed: {failure}" for failure, names in failures.items())
        raise click.ClickException(printable("; ".join(sentences)))
