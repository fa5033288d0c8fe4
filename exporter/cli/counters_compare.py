"""`counters --diff` and `--watch`: takes consecutive snapshots and shows what was counted in between."""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Never

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from exporter.cli.counters_changes import Difference, changes_json, changes_lines, changes_view
from exporter.cli.options import NodeOptions
from exporter.cli.selector import Selector, Wanted, select
from exporter.cli.snapshots import NodeSnapshots, two_snapshots
from exporter.diagnosis.changes import VANISHED, EndpointChange, compare_counters
from exporter.diagnosis.counters import PARTS, counters_by_endpoint
from exporter.errors import ExporterError
from exporter.printable import say, say_json, width_of
from exporter.quantities import format_duration
from exporter.snapshot.snapshot import Snapshot


def show_difference(node: NodeOptions, wanted: Wanted, seconds: float) -> None:
    """Shows what was counted within `seconds`, or between two bundles."""
    before, after = two_snapshots(node, seconds, PARTS, lambda snapshot: _select(snapshot, wanted))
    if before is None:
        raise click.UsageError("one bundle is one snapshot: give --bundle twice to compare two")
    found = _difference(before, after, wanted, known=False)
    if wanted.output == "json":
        say_json(changes_json(found))
    else:
        click.echo("\n".join(changes_view(found, width_of(sys.stdout))))


def show_watch(node: NodeOptions, wanted: Wanted, seconds: float) -> None:
    """Repeats until Ctrl-C: a terminal shows counts since the start, a pipe gets those of each interval."""
    console = Console(highlight=False)
    snapshots = NodeSnapshots(node, PARTS)
    first = snapshots.now()
    _select(first, wanted)  # reports wrong usage before the first interval
    in_place = wanted.output != "json" and console.is_terminal and not console.is_dumb_terminal
    waiting = Text(f"watching: the first counts come in {format_duration(seconds)}; Ctrl-C ends it", style="dim")
    live = Live(waiting, console=console, auto_refresh=False) if in_place else None
    # The last full interval stays on the screen: a rate over the moments before Ctrl-C would mislead.
    with suppress(KeyboardInterrupt), live or nullcontext():
        _watch(snapshots, first, seconds, wanted, live)


def _watch(snapshots: NodeSnapshots, first: Snapshot, seconds: float, wanted: Wanted, live: Live | None) -> Never:
    previous = first
    while True:
        try:
            snapshot = snapshots.after(seconds)
            if live:
                _update(live, (first, previous, snapshot), wanted)
            else:
                _write(previous, snapshot, wanted)
        except ExporterError as error:
            # Calico may be restarting: start again from the next complete snapshot.
            say(str(error), err=True)
            first = previous = _next_complete(snapshots, seconds)
        else:
            previous = snapshot


def _select(snapshot: Snapshot, wanted: Wanted) -> set[int]:
    return select((one.endpoint for one in counters_by_endpoint(snapshot)), wanted.selector)


def _next_complete(snapshots: NodeSnapshots, seconds: float) -> Snapshot:
    while True:
        with suppress(ExporterError):
            return snapshots.after(seconds)


def _update(live: Live, snapshots: tuple[Snapshot, Snapshot, Snapshot], wanted: Wanted) -> None:
    first, previous, snapshot = snapshots
    found, last = (_difference(one, snapshot, wanted, known=True) for one in (first, previous))
    live.update(_fitting_view(live.console, found, last), refresh=True)


def _fitting_view(console: Console, found: Difference, last: Difference) -> Text:
    """A view that fits the height of the terminal, even if it wraps rows."""
    limit = console.height
    while True:
        view = changes_view(found, console.width, last, limit)
        if limit == 0 or len(view) < console.height:
            return Text.from_ansi("\n".join(view), no_wrap=True, overflow="ignore")
        limit = limit * 3 // 4


def _write(previous: Snapshot, snapshot: Snapshot, wanted: Wanted) -> None:
    found, now = _difference(previous, snapshot, wanted, known=True), datetime.now(UTC)
    if wanted.output == "json":
        click.echo(json.dumps({"at": now.isoformat(), **changes_json(found)}))
    else:
        for line in changes_lines(found, now):
            say(line)


def _difference(before: Snapshot, after: Snapshot, wanted: Wanted, *, known: bool) -> Difference:
    changes = _changes(before, after, wanted, known=known)
    return Difference(changes, after.counters.get().layout, after.seconds_since(before), wanted.top)


def _changes(before: Snapshot, after: Snapshot, wanted: Wanted, *, known: bool) -> list[EndpointChange]:
    """The selected changes. An endpoint that was `known` before may have vanished, which is not an error."""
    every = compare_counters(before, after)
    if wanted.selector == Selector():
        return every
    present = [one for one in every if one.fate != VANISHED]
    shown = _selected(present, wanted, known=known) or _selected(every, wanted, known=known)
    if not shown and not known:
        select((one.endpoint for one in every), wanted.selector)  # raises: no such endpoint
    # A recreated endpoint is two: one that vanished and one that appeared.
    names = {(one.endpoint.interface, one.endpoint.pod) for one in shown}
    return [one for one in every if one in shown or (one.endpoint.interface, one.endpoint.pod) in names]


def _selected(changes: Sequence[EndpointChange], wanted: Wanted, *, known: bool) -> list[EndpointChange]:
    try:
        chosen = select((one.endpoint for one in changes), wanted.selector)
    except click.UsageError:
        if not known:
            raise
        # A second pod of that name has appeared: show both.
        name = (wanted.selector.pod or "").rpartition("/")[2]
        return [one for one in changes if one.endpoint.pod == name]
    except click.ClickException:
        return []
    return [one for one in changes if one.endpoint.ifindex in chosen]
