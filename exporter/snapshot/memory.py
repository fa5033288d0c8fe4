"""The state kept between snapshots of one node; everything else is read again for each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.bpf.maps import MapDump
from exporter.calico.ifstate import InterfaceState
from exporter.node.endpoint_status import LocalPods
from exporter.node.endpoints import Endpoints
from exporter.node.files import Folder
from exporter.node.netlink import Link
from exporter.snapshot.live_map import LiveMapMemory
from exporter.snapshot.map_fill import MapCounts
from exporter.snapshot.rules import Rules
from exporter.snapshot.snapshot import Part

if TYPE_CHECKING:  # `serve` needs it only with the collector `conntrack`
    from exporter.snapshot.conntrack_count import ConntrackCount


@dataclass(slots=True)
class Memory:
    """State kept between snapshots: counter map fingerprints, the known name and owner of each interface, and results
    cached while their inputs are unchanged.
    """

    counters: LiveMapMemory = field(default_factory=LiveMapMemory)
    status: Folder[bytes] | None = None
    pods: LocalPods | None = None
    ifstate: tuple[MapDump, tuple[InterfaceState, ...]] | None = None
    ifstate_fits: tuple[tuple[InterfaceState, ...], Sequence[Link]] | None = None
    joined: tuple[tuple[object, ...], Endpoints] | None = None
    rules: Rules | None = None
    map_counts: MapCounts = field(default_factory=MapCounts)
    conntrack_count: "Part[ConntrackCount | None]" = field(default_factory=Part)
