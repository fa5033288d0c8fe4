"""`counters --diff` and `--watch`: takes looks at a node one after another and shows what was counted in between."""

import json
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Never

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from exporter.cli.counters_changes import Lately, changes_json, changes_lines, fitting_view, print_changes
from exporter.cli.options import NodeOptions
from exporter.cli.selector import Selector, Wanted, select
from exporter.cli.snapshots import NodeSnapshots, two_snapshots
from exporter.diagnosis.changes import VANISHED, EndpointChange, compare_counters
from exporter.diagnosis.counters import PARTS, counters_by_endpoint
from exporter.errors import ExporterError
from exporter.printable import say
from exporter.quantities import shown
from exporter.snapshot.snapshot import Snapshot


def show_difference(node: NodeOptions, wanted: Wanted, seconds: float) -> None:
    """Shows what was counted within `seconds`, or between two bundles."""
    before, after = two_snapshots(node, seconds, PARTS, lambda look: _select(look, wanted))
    if before is None:
        raise click.UsageError("one bundle is one look: give --bundle twice to see what changed in between")
    changes = _changes(before, after, wanted)
    layout, passed = after.counters.get().layout, after.seconds_since(before)
    if wanted.output == "json":
        click.echo(json.dumps(changes_json(changes, layout, passed, wanted.top), indent=2))
    else:
        print_changes(changes, layout, passed, wanted.top)


def show_watch(node: NodeOptions, wanted: Wanted, seconds: float) -> None:
    """Shows it again and again until Ctrl-C: in a terminal all since the start, in a pipe each interval's."""
    console = Console(highlight=False)
    looks = NodeSnapshots(node, PARTS)
    first = looks.now()
    _select(first, wanted)  # wrong usage is said at once, not after the first interval
    in_place = wanted.output != "json" and console.is_terminal and not console.is_dumb_terminal
    live = Live(_waiting(seconds), console=console, auto_refresh=False) if in_place else None
    # What is shown last is the last whole interval: a rate of the moments before Ctrl-C would mislead.
    with suppress(KeyboardInterrupt), live or nullcontext():
        _watch(looks, first, seconds, wanted, live)


def _waiting(seconds: float) -> Text:
    return Text(f"watching: the first counts come in {shown(seconds)}; Ctrl-C ends it", style="dim")


def _watch(looks: NodeSnapshots, first: Snapshot, seconds: float, wanted: Wanted, live: Live | None) -> Never:
    previous = first
    while True:
        try:
            look = looks.after(seconds)
            if live:
                _update(live, (first, previous, look), wanted)
            else:
                _write(previous, look, wanted)
        except ExporterError as error:
            # Calico may be restarting: what comes after is compared with the next look that is whole.
            say(str(error), err=True)
            first = previous = _next_whole(looks, seconds)
        else:
            previous = look


def _select(look: Snapshot, wanted: Wanted) -> set[int]:
    return select((one.endpoint for one in counters_by_endpoint(look)), wanted.selector)


def _next_whole(looks: NodeSnapshots, seconds: float) -> Snapshot:
    while True:
        with suppress(ExporterError):
            return looks.after(seconds)


def _update(live: Live, three: tuple[Snapshot, Snapshot, Snapshot], wanted: Wanted) -> None:
    first, previous, look = three
    changes, recent = _changes(first, look, wanted, known=True), _changes(previous, look, wanted, known=True)
    layout, top = look.counters.get().layout, wanted.top
    lately = Lately(recent, look.seconds_since(previous))
    live.update(fitting_view(live.console, changes, layout, look.seconds_since(first), top, lately), refresh=True)


def _write(previous: Snapshot, look: Snapshot, wanted: Wanted) -> None:
    changes = _changes(previous, look, wanted, known=True)
    layout, passed, now = look.counters.get().layout, look.seconds_since(previous), datetime.now(UTC)
    if wanted.output == "json":
        click.echo(json.dumps({"at": now.isoformat(), **changes_json(changes, layout, passed, wanted.top)}))
    else:
        for line in changes_lines(changes, layout, passed, wanted.top, now):
            say(line)


def _changes(before: Snapshot, after: Snapshot, wanted: Wanted, *, known: bool = False) -> list[EndpointChange]:
    """The wanted of all changes. One that was `known` before may be gone by now, which is no failure."""
    every = compare_counters(before, after)
    if wanted.selector == Selector():
        return every
    present = [one for one in every if one.fate != VANISHED]
    shown = _selected(present, wanted, known=known) or _selected(every, wanted, known=known)
    if not shown and not known:
        select((one.endpoint for one in every), wanted.selector)  # says who is not there
    # One that was made again is two: the one that went, and the one that came.
    names = {(one.endpoint.interface, one.endpoint.pod) for one in shown}
    return [one for one in every if one in shown or (one.endpoint.interface, one.endpoint.pod) in names]


def _selected(changes: Sequence[EndpointChange], wanted: Wanted, *, known: bool) -> list[EndpointChange]:
    try:
        chosen = select((one.endpoint for one in changes), wanted.selector)
    except click.UsageError:
        if not known:
            raise
        # A second pod of that name has come since: both are shown.
        name = (wanted.selector.pod or "").rpartition("/")[2]
        return [one for one in changes if one.endpoint.pod == name]
    except click.ClickException:
        return []
    return [one for one in changes if one.endpoint.ifindex in chosen]
