"""`why --packets`: captures an endpoint's packets between two snapshots of the node."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any

import click

from exporter.cli.conntrack import ruling_json
from exporter.cli.options import NodeOptions
from exporter.cli.snapshots import NodeSnapshots
from exporter.diagnosis.denied_rules import policies_of
from exporter.diagnosis.explain import LAST_PARTS, PARTS, Explanation
from exporter.diagnosis.packet_groups import PARTS as GROUP_PARTS
from exporter.diagnosis.packet_groups import PacketGroup, policies_of_flows
from exporter.diagnosis.packet_report import WATCHED_PARTS, PacketReport, report, watched_of
from exporter.node import NodeError
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.node.packet_filter import Watched
from exporter.node.packet_flows import Capture
from exporter.node.packet_socket import PacketSocket
from exporter.snapshot.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Watch:
    """Two snapshots and what was captured between them; `error` is why nothing could be."""

    before: Snapshot
    after: Snapshot
    watched: Watched
    capture: Capture
    error: str = ""

    def report(self, explanation: Explanation, prefixes: Sequence[str]) -> PacketReport:
        """What the capture says beside this explanation."""
        if self.error:
            return PacketReport(error=self.error)
        return report(self.after, self.capture, self.watched, explanation, prefixes)


def watch(options: NodeOptions, seconds: float, choose: Callable[[Snapshot], Endpoint]) -> Watch:
    """Captures the packets of the endpoint that `choose` finds in a first snapshot, for this time.

    The counters are read right after the capture has begun and right before it ends. Without the right to capture it
    waits all the same.
    """
    chosen: list[Endpoint] = []
    snapshots = NodeSnapshots(options, PARTS, lambda _: [address for one in chosen for address in one.addresses])
    first = snapshots.now(WATCHED_PARTS)
    endpoint = choose(first)
    if endpoint.kind != WORKLOAD:
        raise click.UsageError("--packets watches a pod: the packets of a host's interface are everybody's")
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
        after = snapshots.after(0, last, lambda snapshot: _policies(snapshot, capture, endpoint))
    return Watch(before, after, watched, capture)


def _policies(snapshot: Snapshot, capture: Capture, endpoint: Endpoint) -> set[str]:
    return policies_of(snapshot, endpoint) | policies_of_flows(snapshot, capture, endpoint)


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
    decider = one.decider
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
        "decider": {name: getattr(decider, name) for name in ("interface", "namespace", "pod")} if decider else None,
        **(ruling_json(one.ruling) if one.ruling else {"decided_by": None}),
    }
