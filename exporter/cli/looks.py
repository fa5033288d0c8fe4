"""Several looks at one node after another, or at two bundles of it, for commands that compare."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import click

from exporter.cli.node import open_source, settings_of, settled
from exporter.cli.options import NodeOptions
from exporter.snapshot.take import Memory, Snapshot
from exporter.snapshot.timed import TimedLook, read_now


class NodeLooks:
    """Looks at a running node. Each raises `MapError`, `LayoutError` or `NodeError`, and another can be taken after."""

    def __init__(self, options: NodeOptions) -> None:
        self._source, self._memory = open_source(options)
        self._settings = settings_of(options)

    def settled(self) -> Snapshot:
        """A look of which nothing has been read yet but what tells the live counter map."""
        return settled(self._source, self._settings, self._memory)

    def now(self) -> TimedLook:
        """A look that knows the live counter map, if anything can tell."""
        return read_now(self.settled())

    def after(self, seconds: float) -> TimedLook:
        """A look after this time, 0 for one at once."""
        if seconds:
            time.sleep(seconds)
        return read_now(Snapshot(self._source, self._settings, self._memory))


def two_looks(
    options: NodeOptions, seconds: float, check: Callable[[Snapshot], object]
) -> tuple[TimedLook | None, TimedLook]:
    """Two looks at the node, `seconds` apart, or at two bundles; of one bundle the only one.

    `check` sees the first look at a node before the wait, and raises where it makes no sense to wait.
    """
    if options.bundle is not None:
        return _bundles(options, options.bundle)
    looks = NodeLooks(options)
    first = looks.now()
    check(first.snapshot)
    try:
        return first, looks.after(seconds)
    except KeyboardInterrupt:  # it is over sooner
        return first, looks.after(0)


def _bundles(options: NodeOptions, path: Path) -> tuple[TimedLook | None, TimedLook]:
    after = _look_at(options, path)
    before = _look_at(options, options.before) if options.before else None
    if before and before.node != after.node:
        raise click.UsageError(f"the bundles are of two nodes: {before.node} and {after.node}")
    if before and before.at is not None and after.at is not None and before.at > after.at:
        raise click.UsageError("the first bundle is the later one: give them in the order in which they were made")
    return before, after


def _look_at(options: NodeOptions, path: Path) -> TimedLook:
    from exporter.snapshot.bundle import read_bundle

    bundle, memory = read_bundle(path), Memory()
    memory.counters.proven = bundle.proven_live()
    at = None
    with suppress(KeyError, ValueError, OverflowError):
        at = datetime.fromisoformat(bundle.about["made"]).timestamp()
    return TimedLook(Snapshot(bundle, settings_of(options), memory), at, bundle.about.get("node", ""))


def one_look(options: NodeOptions) -> tuple[Snapshot | None, Snapshot]:
    """A look at the node now, or at a bundle; the first is that at the earlier of two bundles, if there are two."""
    if options.bundle is None:
        return None, NodeLooks(options).settled()
    before, after = _bundles(options, options.bundle)
    return before.snapshot if before else None, after.snapshot
