"""`why --packets` and `bundle --packets`: captures packets between two snapshots of the node."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any

import click

from exporter.cli.as_json import endpoint_names, ruling_json
from exporter.cli.options import NodeOptions
from exporter.cli.snapshots import NodeSnapshots, take_with_live_map
from exporter.diagnosis.changes import compare_counters
from exporter.diagnosis.denied_rules import policies_of
from exporter.diagnosis.explain import LAST_PARTS, PARTS, Explanation, drops_of
from exporter.diagnosis.packet_groups import PARTS as GROUP_PARTS
from exporter.diagnosis.packet_groups import PacketGroup, policies_of_flows
from exporter.diagnosis.packet_report import PacketReport, capture_of, report, report_of_bundle
from exporter.diagnosis.watched import PARTS as WATCHED_PARTS
from exporter.diagnosis.watched import watched_node, watched_of
from exporter.errors import ExporterError
from exporter.node import NodeError
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.node.packet_filter import Watched
from exporter.node.packet_flows import Capture
from exporter.node.packet_socket import PacketSocket
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.recorded_packets import Counted, RecordedPackets
from exporter.snapshot.settings import Settings
from exporter.snapshot.snapshot import Part, Snapshot
from exporter.snapshot.source import NodeSource

# What a bundle's capture is evaluated with; without one it is not read.
BUNDLE_PARTS = GROUP_PARTS | WATCHED_PARTS | {"packets"}
_NOT_RECORDED = "this bundle was made without them; bundle --packets 10s records them too"


@dataclass(frozen=True, slots=True)
class Watch:
    """Two snapshots and what was captured between them; `error` is why nothing could be."""

    before: Snapshot
    after: Snapshot
    watched: Watched
    capture: Capture
    error: str = ""

    def report(self, explanation: Explanation) -> PacketReport:
        """What the capture says beside this explanation."""
        if self.error:
            return PacketReport(error=self.error)
        return report(self.after, self.capture, self.watched, explanation)


def watch(options: NodeOptions, seconds: float, choose: Callable[[Snapshot], Endpoint]) -> Watch:
    """Captures the packets of the endpoint that `choose` finds in a first snapshot, for this time.

    The counters are read right after the capture has begun and right before it ends. Without the right to capture it
    waits all the same.
    """
    chosen: list[Endpoint] = []
    snapshots = NodeSnapshots(options, PARTS, lambda _: [address for one in chosen for address in one.addresses])
    first = snapshots.now(WATCHED_PARTS)
    endpoint = choose(first)
    refuse_host(endpoint)
    chosen.append(endpoint)
    watched, last = watched_of(first, endpoint), LAST_PARTS | GROUP_PARTS
    try:
        opened = PacketSocket(watched)
    except NodeError as error:
        with suppress(KeyboardInterrupt):
            time.sleep(seconds)
        after = snapshots.after(0, last, lambda snapshot: policies_of(snapshot, endpoint))
        return Watch(first, after, watched, Capture(), str(error))
    with closing(opened):
        before = snapshots.after(0)
        opened.run(seconds)
        capture = opened.capture()
        after = snapshots.after(0, last, lambda snapshot: policies_with(snapshot, capture, endpoint))
    return Watch(before, after, watched, capture)


def refuse_host(endpoint: Endpoint) -> None:
    """Raises `click.UsageError` for what is no pod."""
    if endpoint.kind != WORKLOAD:
        raise click.UsageError("--packets watches a pod: the packets of a host's interface are everybody's")


def policies_with(snapshot: Snapshot, capture: Capture, endpoint: Endpoint) -> set[str]:
    """The interfaces whose policy decides about the flows that were captured, or are known as denied."""
    return policies_of(snapshot, endpoint) | policies_of_flows(snapshot, capture, endpoint)


def recorded_flows(bundle: Snapshot, endpoint: Endpoint) -> Capture:
    """What a bundle's capture saw of an endpoint, nothing without one."""
    recorded = bundle.packets.or_else(None)
    return capture_of(bundle, recorded.capture, endpoint) if recorded else Capture()


def recorded_report(bundle: Snapshot, endpoint: Endpoint, *, wanted: bool) -> PacketReport | None:
    """What a bundle's capture says about an endpoint; without one it is None, or the reason if it is `wanted`."""
    if wanted:
        refuse_host(endpoint)
    recorded, error = bundle.packets.or_else(None), bundle.packets.error
    if recorded and endpoint.kind == WORKLOAD:
        return report_of_bundle(bundle, recorded, endpoint)
    if error or wanted:
        return PacketReport(error=str(error or _NOT_RECORDED))
    return None


def record(source: NodeSource, settings: Settings, memory: Memory, seconds: float) -> Part[RecordedPackets]:
    """Captures the packets of all pods for this time; what the counters count meanwhile is read as in `watch`."""
    try:
        first = take_with_live_map(source, settings, memory, WATCHED_PARTS | {"counters"})
        with closing(PacketSocket(watched_node(first))) as opened:
            before = take_snapshot(source, settings, memory, {"counters", "endpoints"})
            opened.run(seconds)
            capture = opened.capture()
            after = take_snapshot(source, settings, memory, {"counters", "endpoints"})
        return Part(RecordedPackets(capture, tuple(_counted(before, after))))
    except ExporterError as error:
        return Part(error=error)


def _counted(before: Snapshot, after: Snapshot) -> Iterator[Counted]:
    for change in compare_counters(before, after):
        for drop in drops_of(change, after):
            yield Counted(change.endpoint.interface, drop.direction, drop.reason, drop.packets)


def packets_json(found: PacketReport) -> dict[str, object]:
    """The report as JSON."""
    capture = found.capture
    return {
        "error": found.error,
        "seconds": capture.seconds,
        "seen": capture.packets,
        "lost": capture.lost,
        "limit_reached": capture.full,
        "groups": [_group_json(one, name) for one, name in zip(found.groups, found.names, strict=True)],
        "agreement": [asdict(one) for one in found.agreements],
        "not_placed": [{"why": why, "packets": packets} for why, packets in found.unplaced],
    }


def _group_json(one: PacketGroup, name: str) -> dict[str, Any]:
    return {
        "direction": one.direction,
        "peer": one.peer,
        "peer_name": name,
        "destination": one.destination,
        "backend": f"{one.translated[0]} {one.translated[1]}" if one.translated else None,
        "ip_family": one.family,
        "protocol": one.protocol,
        "port": one.port,
        "icmp_type": one.icmp[0] if one.icmp else None,
        "icmp_code": one.icmp[1] if one.icmp else None,
        "flows": one.flows,
        "packets": one.packets,
        "verdict": one.verdict,
        "why": one.why,
        "reason": one.reason,
        "decider": endpoint_names(one.decider) if one.decider else None,
        **(ruling_json(one.ruling) if one.ruling else {"decided_by": None}),
    }
