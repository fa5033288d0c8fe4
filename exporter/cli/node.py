"""From a command's options to a snapshot of the node or of a bundle."""

import os
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

from exporter.bpf.maps import Reader
from exporter.calico.layout_file import LayoutFile, LayoutFileError, parse_layout_file
from exporter.cli.options import NodeOptions
from exporter.node.api_server import ApiServer, in_cluster
from exporter.node.pods import PodSource
from exporter.snapshot.reading import EVERY_PART, Memory, Settings, take_snapshot
from exporter.snapshot.snapshot import Snapshot
from exporter.snapshot.source import NodeSource

# The node's traffic changes the live map within this time.
_BETWEEN_SNAPSHOTS = 1.0


def open_source(options: NodeOptions, *, follow: Reader | None = None) -> tuple[NodeSource, Memory]:
    """The source of the node's data and the memory to start with.

    With a reader to `follow`, threads keep links, routes and pods current.

    Raises `ReaderMissing` or `BundleError`.
    """
    memory = Memory()
    if options.bundle is not None:
        from exporter.snapshot.bundle import read_bundle

        bundle = read_bundle(options.bundle)
        memory.counters.proven = bundle.proven_live()
        return bundle, memory
    from exporter.bpf.readers import open_reader
    from exporter.node.live_links import LiveLinks
    from exporter.snapshot.source import LiveNode

    reader = follow or open_reader(options.reader)
    pods = _pod_source(options, follow=follow is not None)
    return LiveNode(reader, options.bpf_fs, options.run_dir, LiveLinks() if follow else None, pods), memory


def settings_of(options: NodeOptions) -> Settings:
    """The user's settings for the node. Raises `LayoutFileError`."""
    return Settings(options.prefixes, _layout_file(options.layout_file))


def take_decided(options: NodeOptions, parts: Collection[str] = EVERY_PART) -> Snapshot:
    """One snapshot; where only changes show which counter map is live, the second of two that are a second apart."""
    source, memory = open_source(options)
    take = take_snapshot if options.bundle else decided
    return take(source, settings_of(options), memory, parts)


def decided(source: NodeSource, settings: Settings, memory: Memory, parts: Collection[str] = EVERY_PART) -> Snapshot:
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


def _pod_source(options: NodeOptions, *, follow: bool) -> PodSource | None:
    enabled = options.kubernetes
    if enabled is None:
        enabled = options.kubeconfig is not None or in_cluster()
    if not enabled:
        return None
    from exporter.node.pod_watch import ListedPods, LivePods

    node, connect = node_name(options), partial(ApiServer, options.kubeconfig)
    return LivePods(connect, node) if follow else ListedPods(connect, node)


def _layout_file(path: Path | None) -> LayoutFile | None:
    if path is None:
        return None
    try:
        return parse_layout_file(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LayoutFileError(f"{path} could not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LayoutFileError(f"{path} is not UTF-8 text") from error
