"""Which flows opened while packets were captured, and what was seen of each beyond the hook that could deny it.

Of a packet nothing is kept but its addresses, ports, ICMP type and sequence number, each within a limit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from exporter.calico.tables import address_text
from exporter.node.packet_headers import FRAGMENT, MALFORMED, OPENS, SHORT, Header

MAX_FLOWS = 1 << 14  # some 30 MB at most
_MAX_OF_FLOW = 8  # ends and identities of one flow that are kept
_UNREADABLE = (SHORT, MALFORMED, FRAGMENT)

# A family, a protocol, and the address and port of the end that opened a flow.
_Opener = tuple[int, int, bytes, int]
_End = tuple[bytes, int]
_Item = TypeVar("_Item")
_Key = tuple[int, int, bytes, int, bytes, int]


@dataclass(frozen=True, slots=True)
class SeenFlow:
    """Packets that opened a flow or can have, all of which came in by `interface`. Ports are 0 where there are none.

    `passed_to` are the destinations of such packets that went out again, `answered_by` who sent packets back.
    `same_passed` says that one went out with the same sequence number or IP id, whatever its destination.
    """

    family: int
    protocol: int
    source: str
    source_port: int
    destination: str
    destination_port: int
    icmp: tuple[int, int] | None
    interface: str
    packets: int
    passed_to: frozenset[tuple[str, int]] = frozenset()
    same_passed: bool = False
    answered_by: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Capture:
    """What was seen in `seconds`. `packets` are those that the filter passed, `lost` those that the socket had no
    memory for.

    `unreadable` are packets without a flow that came in, by interface and by what is wrong with them; `left_out` those
    of more flows than are kept; `full` says that it ended at the limit of packets.
    """

    flows: tuple[SeenFlow, ...] = ()
    unreadable: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    packets: int = 0
    lost: int = 0
    left_out: int = 0
    full: bool = False
    seconds: float = 0.0


@dataclass(slots=True)
class _Flow:
    interface: str
    icmp: tuple[int, int] | None
    packets: int = 0
    identities: set[int] = field(default_factory=set)


@dataclass(slots=True)
class FlowTable:
    """The flows so far; `keeps` says whether a flow that opens with this header, by this interface, is kept."""

    keeps: Callable[[Header, str], bool]
    packets: int = 0
    left_out: int = 0
    _flows: dict[_Key, _Flow] = field(default_factory=dict)
    _openers: set[_Opener] = field(default_factory=set)
    _passed: dict[_Opener, set[tuple[bytes, int, int]]] = field(default_factory=dict)
    _answers: dict[_Opener, set[_End]] = field(default_factory=dict)
    _unreadable: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, header: Header, interface: str, *, outgoing: bool) -> None:
        """Adds a packet that came in by an interface, or goes out by it."""
        self.packets += 1
        kind, family, protocol, source, destination, port, other, _, identity = header
        if kind in _UNREADABLE and not outgoing:
            found = self._unreadable.setdefault(interface, {})
            found[kind] = found.get(kind, 0) + 1
        if not family:
            return
        answered = family, protocol, destination, other
        if kind != OPENS or (*answered, source, port) in self._flows:
            self._keep(self._answers, answered, (source, port))  # those of the node itself go out only
        elif outgoing:
            self._keep(self._passed, (family, protocol, source, port), (destination, other, identity))
        else:
            self._open(header, interface)

    def capture(self, seconds: float, lost: int, *, full: bool) -> Capture:
        """What was seen until now."""
        flows = tuple(self._seen(key, one) for key, one in self._flows.items())
        return Capture(flows, dict(self._unreadable), self.packets, lost, self.left_out, full, seconds)

    def _open(self, header: Header, interface: str) -> None:
        key = (*header[1:4], header.source_port, header.destination, header.destination_port)
        flow = self._flows.get(key)
        if flow is None:
            if not self.keeps(header, interface):
                return
            if len(self._flows) >= MAX_FLOWS:
                self.left_out += 1
                return
            flow = self._flows[key] = _Flow(interface, header.icmp)
            self._openers.add(key[:4])
        flow.packets += 1
        if header.identity and len(flow.identities) < _MAX_OF_FLOW:
            flow.identities.add(header.identity)

    def _seen(self, key: _Key, flow: _Flow) -> SeenFlow:
        family, protocol, source, port, destination, other = key
        passed, answers = self._passed.get(key[:4], set()), self._answers.get(key[:4], set())
        return SeenFlow(
            family=family,
            protocol=protocol,
            source=address_text(source),
            source_port=port,
            destination=address_text(destination),
            destination_port=other,
            icmp=flow.icmp,
            interface=flow.interface,
            packets=flow.packets,
            passed_to=frozenset((address_text(address), number) for address, number, _ in passed),
            same_passed=any(identity in flow.identities for _, _, identity in passed),
            answered_by=frozenset((address_text(address), number) for address, number in answers),
        )

    def _keep(self, kept: dict[_Opener, set[_Item]], opener: _Opener, item: _Item) -> None:
        """Keeps what was seen of a flow after it opened."""
        if opener in self._openers and len(found := kept.setdefault(opener, set())) < _MAX_OF_FLOW:
            found.add(item)
