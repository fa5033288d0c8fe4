"""The form of an endpoint's page that asks which rule decides about a packet, and its answer.

An evaluation shares the thread of scrapes, so it is limited: to the policy files of the interfaces that the packet can
meet, and to what takes a tenth of a second.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from shlex import quote

from exporter.calico.packet import PROTOCOLS
from exporter.diagnosis.selection import WrongUsage
from exporter.diagnosis.trace import PARTS, interfaces_of, trace
from exporter.diagnosis.trace_packet import INTERFACE, Described, named, number_of, protocol_of, resolve
from exporter.diagnosis.trace_program import Budget, Files
from exporter.diagnosis.trace_sentences import sentences
from exporter.errors import ExporterError
from exporter.node.endpoints import Endpoint
from exporter.snapshot.snapshot import Snapshot

TRACE_PARTS = PARTS - {"policy_files"} | {"policy_file_names"}
MAX_SECONDS = 0.1  # after which no further program is begun; the next one takes as long at most
# Measured at 5 MB and 540,000 steps a second.
_MAX_FILE_BYTES, _MAX_STEPS = 400_000, 20_000
_MAX_LINES = 400
_OPTIONS = ("the peer", "the peer")
TO, FROM = "to", "from"


@dataclass(frozen=True, slots=True)
class Asked:
    """The form as it was filled in: `way` is `to` or `from` this endpoint."""

    peer: str = ""
    way: str = TO
    protocol: str = ""
    port: str = ""

    @classmethod
    def of(cls, query: Callable[[str], str]) -> "Asked":
        """The form in the parameters of a page."""
        way = FROM if query("way") == FROM else TO
        return cls(query("peer").strip(), way, query("protocol").strip(), query("port").strip())


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
    prefixes: Sequence[str],
    read_policy_files: Callable[[Collection[str]], Snapshot],
    is_over: Callable[[], bool],
) -> Evaluated:
    """What `trace` says. `now` has `TRACE_PARTS`; `read_policy_files` adds those of the interfaces that it is given."""
    own = f"{INTERFACE}{endpoint.interface}"
    ends = (asked.peer, own) if asked.way == TO else (own, asked.peer)
    try:
        described = _described(asked)
        packet, source, destination = resolve(now, described, ends, _OPTIONS)
        snapshot = read_policy_files(interfaces_of(now, packet, source, destination))
        files = Files(snapshot, Budget(_MAX_FILE_BYTES, _MAX_STEPS, is_over))
        result = trace(snapshot, packet, source, destination, "", prefixes, files)
    except ExporterError as error:
        return Evaluated(asked, problem=str(error))
    lines = list(sentences(result, named(source), named(destination), verbose=False))
    if len(lines) > _MAX_LINES:
        lines = [*lines[:_MAX_LINES], (f"{len(lines) - _MAX_LINES} more lines: use the command", "")]
    return Evaluated(asked, lines, command=_command(described, ends))


def busy(asked: Asked) -> Evaluated:
    """The answer while another evaluation is under way."""
    return Evaluated(asked, problem="another packet is being evaluated here: ask again")


def _described(asked: Asked) -> Described:
    protocol = protocol_of(asked.protocol or "tcp")
    port = number_of(asked.port, 65535) if asked.port else None
    if asked.port and port is None:
        raise WrongUsage("the port is no number up to 65535")
    described = Described(protocol, port)
    described.check("")
    if not asked.peer:
        raise WrongUsage("name the peer: a pod, an address, or interface:NAME")
    return described


def _command(described: Described, ends: tuple[str, str]) -> str:
    port = [] if described.port is None else ["--port", str(described.port)]
    protocol = next((name for name, one in PROTOCOLS.items() if one == described.protocol), str(described.protocol))
    words = ["--from", ends[0], "--to", ends[1], "--protocol", protocol, *port]
    return " ".join(["calico-bpf-exporter", "trace", *map(quote, words)])
