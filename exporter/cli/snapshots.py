"""Consecutive snapshots of a node, or those of two bundles, for commands that compare."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click

from exporter.cli.node import decided, open_source, settings_of, take_decided
from exporter.cli.options import NodeOptions
from exporter.snapshot.reading import Memory, take_snapshot
from exporter.snapshot.snapshot import Snapshot


class NodeSnapshots:
    """Snapshots of a running node, with these parts. Each raises if it has no counters; the next may have them."""

    def __init__(self, options: NodeOptions, parts: Collection[str]) -> None:
        self._source, self._memory = open_source(options)
        self._settings = settings_of(options)
        self._parts = parts

    def now(self) -> Snapshot:
        """A snapshot that knows the live counter map, if it can be determined."""
        return _with_counters(decided(self._source, self._settings, self._memory, self._parts))

    def after(self, seconds: float) -> Snapshot:
        """A snapshot after this time (0 = now)."""
        if seconds:
            time.sleep(seconds)
        return _with_counters(take_snapshot(self._source, self._settings, self._memory, self._parts))


def _with_counters(snapshot: Snapshot) -> Snapshot:
    snapshot.counters.get()
    return snapshot


def two_snapshots(
    options: NodeOptions, seconds: float, parts: Collection[str], check: Callable[[Snapshot], object]
) -> tuple[Snapshot | None, Snapshot]:
    """Two snapshots of the node, `seconds` apart, or of two bundles; of one bundle the only one.

    `check` gets the first snapshot of a node and raises if there is no point in waiting for the second.
    """
    if options.bundle is not None:
        return _bundles(options, options.bundle, parts)
    snapshots = NodeSnapshots(options, parts)
    first = snapshots.now()
    check(first)
    try:
        return first, snapshots.after(seconds)
    except KeyboardInterrupt:  # stop waiting
        return first, snapshots.after(0)


def one_snapshot(options: NodeOptions, parts: Collection[str]) -> tuple[Snapshot | None, Snapshot]:
    """A snapshot of the node or of a bundle, preceded by that of the earlier bundle if there are two."""
    if options.bundle is None:
        return None, take_decided(options, parts)
    return _bundles(options, options.bundle, parts)


def _bundles(options: NodeOptions, path: Path, parts: Collection[str]) -> tuple[Snapshot | None, Snapshot]:
    after = _of_bundle(options, path, parts)
    before = _of_bundle(options, options.before, parts) if options.before else None
    if before and before.node != after.node:
        raise click.UsageError(f"the bundles are of two nodes: {before.node} and {after.node}")
    if before and before.at is not None and after.at is not None and before.at > after.at:
        raise click.UsageError("the first bundle is the later one: give them in the order in which they were made")
    return before, after


def _of_bundle(options: NodeOptions, path: Path, parts: Collection[str]) -> Snapshot:
    from exporter.snapshot.bundle import read_bundle

    bundle, memory = read_bundle(path), Memory()
    memory.counters.proven = bundle.proven_live()
    made = None
    with suppress(KeyError, ValueError, OverflowError):
        made = datetime.fromisoformat(bundle.about["made"]).timestamp()
    snapshot = take_snapshot(bundle, settings_of(options), memory, parts)
    return replace(snapshot, at=made, node=bundle.about.get("node", ""))
