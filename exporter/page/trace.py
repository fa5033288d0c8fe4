"""The form of an endpoint's page that asks which rule decides about a packet, and its answer.

An evaluation shares the thread of scrapes, so it is limited: to the policy files of the interfaces that the packet can
meet, to what takes a tenth of a second, and of connection tracking to the entries of the very flow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from shlex import quote

from exporter.calico.conntrack_rows import keys_of
from exporter.calico.packet import WITH_PORTS, Packet
from exporter.calico.protocols import PROTOCOLS, TCP
from exporter.diagnosis.selection import WrongUsage
from exporter.diagnosis.trace import PARTS, interfaces_of, trace
from exporter.diagnosis.trace_node import NodeFacts
from exporter.diagnosis.trace_packet import INTERFACE, Described, check_via, named, number_of, protocol_of, resolve
from exporter.diagnosis.trace_program import Budget, Files
from exporter.diagnosis.trace_sentences import sentences
from exporter.errors import ExporterError
from exporter.node.endpoints import Endpoint
from exporter.snapshot.reading import Reading
from exporter.snapshot.snapshot import Snapshot

TRACE_PARTS = PARTS - {"policy_files"} | {"policy_file_names"}
MAX_SECONDS = 0.1  # after which no further program is begun; the next one takes as long at most
# Measured at 5 MB and 540,000 steps a second.
_MAX_FILE_BYTES, _MAX_STEPS = 400_000, 20_000
_MAX_LINES = 400
_MAX_BACKENDS = 8  # of a service, whose flows are looked up; bpftool runs once for each key
_NOT_LOOKED_UP = "An open connection of this flow is not searched without the source port.", ""
_OPTIONS = ("the peer", "the peer")
TO, FROM = "to", "from"


@dataclass(frozen=True, slots=True)
class Asked:
    """The form as it was filled in: `way` is `to` or `from` this endpoint, `via` an interface of the host."""

    peer: str = ""
    way: str = TO
    protocol: str = ""
    port: str = ""
    source_port: str = ""
    via: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Asked":
        """The form in the parameters of a page."""
        way = FROM if query.get("way") == FROM else TO
        typed = (query.get(name, "").strip() for name in ("peer", "protocol", "port", "source-port", "via"))
        peer, protocol, port, source_port, via = typed
        return cls(peer, way, protocol, port, source_port, via)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The form and what was found: `lines` with their kind, or why there are none. `command` is the one to run."""

    asked: Asked
    lines: Sequence[tuple[str, str]] = ()
    problem: str = ""
    command: str = ""


def evaluate(
    now: Snapshot,
    endpoint: Endpoint,
    asked: Asked,
    reading: Reading,
    is_over: Callable[[], bool],
) -> Evaluated:
    """What `trace` says. `now` has `TRACE_PARTS`; of policy files and connection tracking, `reading` reads only what
    is about this packet.
    """
    own = f"{INTERFACE}{endpoint.interface}"
    ends = (asked.peer, own) if asked.way == TO else (own, asked.peer)
    try:
        described = _described(asked)
        packet, source, destination = resolve(now, described, ends, _OPTIONS)
        check_via(now, asked.via, "the interface")
        if flows := _flows(now, described, packet):
            reading.read_flows(packet.family, flows)
        snapshot = reading.read_policy_files(interfaces_of(now, packet, source, destination))
        files = Files(snapshot, Budget(_MAX_FILE_BYTES, _MAX_STEPS, is_over))
        result = trace(snapshot, packet, source, destination, asked.via, files)
    except ExporterError as error:
        return Evaluated(asked, problem=str(error))
    lines = list(sentences(result, named(source), named(destination), verbose=False))
    if described.protocol in WITH_PORTS and described.protocol != TCP and not asked.source_port:
        lines.append(_NOT_LOOKED_UP)
    if len(lines) > _MAX_LINES:
        lines = [*lines[:_MAX_LINES], (f"{len(lines) - _MAX_LINES} more lines: use the command", "")]
    return Evaluated(asked, lines, command=_command(described, ends, asked.via))


def busy(asked: Asked) -> Evaluated:
    """The answer while another evaluation is under way."""
    return Evaluated(asked, problem="another packet is being evaluated here: ask again")


def _flows(now: Snapshot, described: Described, packet: Packet) -> tuple[bytes, ...]:
    """The keys that the flow can have in connection tracking, none where it is not known or policy is asked anyway."""
    has_ports = packet.protocol in WITH_PORTS
    if packet.protocol == TCP or (has_ports and described.source_port is None):
        return ()
    service = NodeFacts(now, packet.family).service(packet)
    ends = [(one.address, one.port) for one in service.backends] if service else []
    ends = ends or [(packet.destination, packet.destination_port)]
    if len(ends) > _MAX_BACKENDS or not (packet.source and packet.destination):
        return ()
    source = ip_address(packet.source).packed, packet.source_port * has_ports
    to = [(ip_address(address).packed, port * has_ports) for address, port in ends]
    return tuple(key for one in to for key in keys_of(packet.protocol, source, one))


def _described(asked: Asked) -> Described:
    protocol = protocol_of(asked.protocol or "tcp")
    port, source_port = (number_of(one, 65535) if one else None for one in (asked.port, asked.source_port))
    for name, typed, number in (("port", asked.port, port), ("source port", asked.source_port, source_port)):
        if typed and number is None:
            raise WrongUsage(f"the {name} is no number up to 65535")
    described = Described(protocol, port, source_port)
    described.check("")
    if not asked.peer:
        raise WrongUsage("name the peer: a pod, an address, or interface:NAME")
    return described


def _command(described: Described, ends: tuple[str, str], via: str) -> str:
    ports = ("--port", described.port), ("--source-port", described.source_port)
    port = [word for name, number in ports if number is not None for word in (name, str(number))]
    protocol = next((name for name, one in PROTOCOLS.items() if one == described.protocol), str(described.protocol))
    words = ["--from", ends[0], "--to", ends[1], "--protocol", protocol, *port, *(["--via", via] if via else [])]
    return " ".join(["calico-bpf-exporter", "trace", *map(quote, words)])
