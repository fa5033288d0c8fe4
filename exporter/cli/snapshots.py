"""From a command's options to snapshots of the node or of bundles: one, two to compare, or one after another."""

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exporter.bpf.maps import Reader
from exporter.calico.layout_file import LayoutFile, LayoutFileError, parse_layout_file
from exporter.cli.options import NodeOptions
from exporter.node.pods import PodSource, in_cluster
from exporter.snapshot.live_map import LiveMapMemory
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading, take_snapshot
from exporter.snapshot.settings import FlowsOf, Settings, no_addresses
from exporter.snapshot.snapshot import Snapshot
from exporter.snapshot.source import NodeSource

if TYPE_CHECKING:
    from exporter.snapshot.bundle import Bundle

PoliciesOf = Callable[[Snapshot], Collection[str]]
# The node's traffic changes the live map within this time.
_BETWEEN_SNAPSHOTS = 1.0


def open_source(options: NodeOptions, *, follow: Reader | None = None) -> tuple[NodeSource, Memory]:
    """The source of the node's data and the memory to start with.

    With a reader to `follow`, threads keep links, routes and pods current.

    Raises `ReaderMissing` or `BundleError`.
    """
    if options.bundle is not None:
        return _open_bundle(options.bundle)
    from exporter.bpf.readers import open_reader
    from exporter.node.live_links import LiveLinks
    from exporter.snapshot.source import LiveNode

    reader = follow or open_reader(options.reader)
    pods = _pod_source(options, follow=follow is not None)
    return LiveNode(reader, options.bpf_fs, options.run_dir, LiveLinks() if follow else None, pods), Memory()


def settings_of(options: NodeOptions, flows_of: FlowsOf = no_addresses) -> Settings:
    """The user's settings for the node. Raises `LayoutFileError`."""
    return Settings(options.prefixes, _layout_file(options.layout_file), flows_of)


def one_snapshot(options: NodeOptions, parts: Collection[str], flows_of: FlowsOf = no_addresses) -> Snapshot:
    """One snapshot; where only changes show which counter map is live, the second of two that are a second apart.

    `flows_of` names the addresses whose connection-tracking entries are kept.
    """
    source, memory = open_source(options)
    take = take_snapshot if options.bundle else take_with_live_map
    return take(source, settings_of(options, flows_of), memory, parts)


def take_with_live_map(source: NodeSource, settings: Settings, memory: Memory, parts: Collection[str]) -> Snapshot:
    """A snapshot of a running node that knows the live counter map, if it can be determined."""
    snapshot = take_snapshot(source, settings, memory, parts)
    versions = snapshot.counter_map.or_else(None)
    if versions and versions.choice.live is None:
        time.sleep(_BETWEEN_SNAPSHOTS)
        return take_snapshot(source, settings, memory, parts)
    return snapshot


def node_name(options: NodeOptions) -> str:
    """The node's name in the cluster: from the flag, else $NODE_NAME, else the hostname."""
    return options.node or os.environ.get("NODE_NAME") or os.uname().nodename


class NodeSnapshots:
    """Snapshots of a running node, with these parts. Each raises if it has no counters; the next may have them."""

    def __init__(self, options: NodeOptions, parts: Collection[str], flows_of: FlowsOf = no_addresses) -> None:
        self._source, self._memory = open_source(options)
        self._settings = settings_of(options, flows_of)
        self._parts = parts

    def now(self, more: Collection[str] = ()) -> Snapshot:
        """A snapshot that knows the live counter map, if it can be determined, with `more` parts."""
        parts = {*self._parts, *more}
        return _with_counters(take_with_live_map(self._source, self._settings, self._memory, parts))

    def after(self, seconds: float, more: Collection[str] = (), policies_of: PoliciesOf | None = None) -> Snapshot:
        """A snapshot after this time (0 = now), with `more` parts; see `two_snapshots` for `policies_of`."""
        if seconds:
            time.sleep(seconds)
        parts = {*self._parts, *more}
        return _with_counters(_with_policies(Reading(self._source, self._settings, self._memory), parts, policies_of))


def _with_policies(reading: Reading, parts: Collection[str], policies_of: PoliciesOf | None) -> Snapshot:
    snapshot = reading.read(parts)
    interfaces = policies_of(snapshot) if policies_of else ()
    if not interfaces:
        return snapshot
    from exporter.diagnosis.trace import PARTS

    reading.read(PARTS - {"policy_files"})
    return reading.read_policy_files(interfaces)


def _with_counters(snapshot: Snapshot) -> Snapshot:
    snapshot.counters.get()
    return snapshot


def two_snapshots(
    options: NodeOptions,
    seconds: float,
    parts: Collection[str],
    check: Callable[[Snapshot], object],
    *,
    last: Collection[str] = (),
    policies_of: PoliciesOf | None = None,
    flows_of: FlowsOf = no_addresses,
) -> tuple[Snapshot | None, Snapshot]:
    """Two snapshots of the node, `seconds` apart, or of two bundles; of one bundle the only one.

    The parts `last` are read only for the second. `policies_of` names the interfaces whose policy is to be evaluated
    there: what that takes is large, and not read if it names none. `flows_of` is as in `one_snapshot`. `check` gets the
    first snapshot of a node and raises if there is no point in waiting for the second.
    """
    if options.bundle is not None:
        return _bundles(options, options.bundle, {*parts, *last}, policies_of, flows_of)
    snapshots = NodeSnapshots(options, parts, flows_of)
    first = snapshots.now()
    check(first)
    # The rest of the snapshot, such as a slow API server's pods, was read in this time too.
    passed = time.monotonic() - (first.at or time.monotonic())
    try:
        return first, snapshots.after(max(seconds - passed, 0), last, policies_of)
    except KeyboardInterrupt:  # stop waiting
        return first, snapshots.after(0, last, policies_of)


def earlier_and_latest(options: NodeOptions, parts: Collection[str]) -> tuple[Snapshot | None, Snapshot]:
    """A snapshot of the node or of a bundle, preceded by that of the earlier bundle if there are two."""
    if options.bundle is None:
        return None, one_snapshot(options, parts)
    return _bundles(options, options.bundle, parts)


def _bundles(
    options: NodeOptions,
    path: Path,
    parts: Collection[str],
    policies_of: PoliciesOf | None = None,
    flows_of: FlowsOf = no_addresses,
) -> tuple[Snapshot | None, Snapshot]:
    after = _of_bundle(options, path, parts, policies_of, flows_of)
    before = _of_bundle(options, options.before, parts) if options.before else None
    if before and before.node != after.node:
        raise click.UsageError(f"the bundles are of two nodes: {before.node} and {after.node}")
    if before and before.at is not None and after.at is not None and before.at > after.at:
        raise click.UsageError("the first bundle is the later one: give them in the order in which they were made")
    return before, after


def _open_bundle(path: Path) -> tuple["Bundle", Memory]:
    from exporter.snapshot.bundle import read_bundle

    bundle = read_bundle(path)
    return bundle, Memory(LiveMapMemory(proven=bundle.proven_live()))


def _of_bundle(
    options: NodeOptions,
    path: Path,
    parts: Collection[str],
    policies_of: PoliciesOf | None = None,
    flows_of: FlowsOf = no_addresses,
) -> Snapshot:
    bundle, memory = _open_bundle(path)
    made = None
    with suppress(KeyError, ValueError, OverflowError):
        made = datetime.fromisoformat(bundle.about["made"]).timestamp()
    snapshot = _with_policies(Reading(bundle, settings_of(options, flows_of), memory), parts, policies_of)
    return replace(snapshot, at=made, node=bundle.about.get("node", ""))


def _pod_source(options: NodeOptions, *, follow: bool) -> PodSource | None:
    enabled = options.kubernetes
    if enabled is None:
        enabled = options.kubeconfig is not None or in_cluster()
    if not enabled:
        return None
    from exporter.node.api_server import ApiServer
    from exporter.node.pod_watch import ListedPods, LivePods

    node, connect = node_name(options), partial(ApiServer, options.kubeconfig)
    return LivePods(connect, node) if follow else ListedPods(connect, node)


def _layout_file(path: Path | None) -> LayoutFile | None:
    if path is None:
        return None
    if path.exists() and not path.is_file():  # opening a FIFO waits for a writer
        raise LayoutFileError(f"{path} is not a regular file")
    try:
        return parse_layout_file(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LayoutFileError(f"{path} could not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LayoutFileError(f"{path} is not UTF-8 text") from error
