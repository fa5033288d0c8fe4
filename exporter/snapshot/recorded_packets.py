"""A capture of all pods in a bundle: which flows opened, and what the pods' counters counted as dropped meanwhile.

Of a packet it has what a capture keeps: addresses, ports, the type of ICMP and counts. Its member is JSON; it comes
from anywhere, so that what is not as written here is an error when it is read.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from exporter.node.packet_flows import Capture, SeenFlow

PACKETS = "packets.json"  # the member
_AS_THEY_ARE = ("protocol", "source", "source_port", "destination", "destination_port", "icmp", "interface", "packets")
_TOTALS = ("packets", "lost", "left_out")
_BYTE, _PORT, _COUNT, _DAY = 0xFF, 0xFFFF, (1 << 64) - 1, 86_400


@dataclass(frozen=True, slots=True)
class Counted:
    """Packets that an interface's counters counted as dropped while packets were captured."""

    interface: str
    direction: str
    reason: str
    packets: int


@dataclass(frozen=True, slots=True)
class RecordedPackets:
    """A capture, and what was counted in its time."""

    capture: Capture = field(default_factory=Capture)
    counted: tuple[Counted, ...] = ()


def packets_member(recorded: RecordedPackets) -> bytes:
    """The content of its member."""
    found = asdict(replace(recorded, capture=replace(recorded.capture, flows=())))
    found["capture"]["flows"] = [_flow_json(one) for one in recorded.capture.flows]
    return json.dumps(found, separators=(",", ":")).encode()


def parse_packets(found: Any) -> RecordedPackets:
    """What the member says. Raises `KeyError`, `TypeError`, `ValueError` or `AttributeError`."""
    capture = found["capture"]
    flows = tuple(map(_flow, capture["flows"]))
    unreadable = {
        _text(interface): {_text(kind): _number(packets, _COUNT) for kind, packets in kinds.items()}
        for interface, kinds in capture["unreadable"].items()
    }
    totals = {name: _number(capture[name], _COUNT) for name in _TOTALS}
    seconds = float(capture["seconds"])
    if not 0 <= seconds <= 2 * _DAY:
        raise ValueError(f"it lasted {seconds} seconds")
    return RecordedPackets(
        Capture(flows, unreadable, **totals, full=bool(capture["full"]), seconds=seconds),
        tuple(map(_counted, found["counted"])),
    )


def _counted(row: Mapping[str, Any]) -> Counted:
    interface, direction, reason = (_text(row[name]) for name in ("interface", "direction", "reason"))
    return Counted(interface, direction, reason, _number(row["packets"], _COUNT))


def _flow_json(flow: SeenFlow) -> dict[str, object]:
    found: dict[str, object] = {name: getattr(flow, name) for name in _AS_THEY_ARE}
    found |= {name: sorted(getattr(flow, name)) for name in ("passed_to", "answered_by")}
    return found | {"same_passed": flow.same_passed}


def _flow(row: Mapping[str, Any]) -> SeenFlow:
    source, destination = ip_address(_text(row["source"])), ip_address(_text(row["destination"]))
    if source.version != destination.version:
        raise ValueError(f"a flow is from {source} to {destination}")
    kind, code = row["icmp"] or (None, None)
    return SeenFlow(
        family=source.version,
        protocol=_number(row["protocol"], _BYTE),
        source=str(source),
        source_port=_number(row["source_port"], _PORT),
        destination=str(destination),
        destination_port=_number(row["destination_port"], _PORT),
        icmp=None if kind is None else (_number(kind, _BYTE), _number(code, _BYTE)),
        interface=_text(row["interface"]),
        packets=_number(row["packets"], _COUNT),
        passed_to=_ends(row["passed_to"]),
        same_passed=bool(row["same_passed"]),
        answered_by=_ends(row["answered_by"]),
    )


def _ends(rows: Sequence[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    return frozenset((str(ip_address(_text(address))), _number(port, _PORT)) for address, port in rows)


def _number(value: object, most: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"it holds {value!r} instead of a number up to {most}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"it holds {value!r} instead of a string")
    return value
