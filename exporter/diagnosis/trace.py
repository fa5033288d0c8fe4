"""What Calico's policy does with the first packet of a flow: which programs it meets on this node, and what they say.

Pure functions of a snapshot. `trace_walk.py` follows one packet; here are services, each of whose backends is followed,
and the verdict of what was met.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from exporter.calico.nat import Backend
from exporter.calico.packet import WITH_PORTS, Packet
from exporter.calico.policy_program import ALLOW, DENY, NotKnown
from exporter.calico.services import EXCLUDED, NAT, NO_BACKENDS, Service
from exporter.calico.tables import address_port
from exporter.diagnosis.trace_node import End, Location, NodeFacts
from exporter.diagnosis.trace_program import UNKNOWN, Budget, Files, Programs, ProgramTrace
from exporter.diagnosis.trace_walk import Walk
from exporter.node.endpoints import HOST
from exporter.snapshot.snapshot import Snapshot

_BY_FAMILY = ("ip_set_trie", "failsafes", "services", "routes")
PARTS = frozenset(
    {"endpoints", "ifstate", "rule_hits", "policy_files", "policy_tags", "addresses", "interfaces_to", "run_dir"}
) | {f"{part}_{family}" for part in _BY_FAMILY for family in (4, 6)}


@dataclass(frozen=True, slots=True)
class Trace:
    """What happens to a packet on this node. `notes` are what the verdict leaves out, and where to ask.

    `service` is the one that the packet is for; `backends` are then the verdicts of its backends, whose programs
    `programs` are. `locations` say where the source and each destination are.
    """

    packet: Packet
    verdict: str
    why_unknown: str
    programs: tuple[ProgramTrace, ...]
    notes: tuple[str, ...]
    service: Service | None = None
    backends: tuple[tuple[Backend, str], ...] = ()
    locations: tuple[Location, ...] = ()


def trace(
    snapshot: Snapshot,
    packet: Packet,
    source: End,
    destination: End,
    via: str,
    files: Files | None = None,
) -> Trace:
    """Follows the packet through this node; `via` is the host's interface that the user named.

    A packet for a service goes to each of its backends, unless it is translated already. With `files`, several packets
    share what was loaded of policy files, and its budget.

    Raises `NodeError` or `MapError` without endpoints or policy files.
    """
    facts, loaded = NodeFacts(snapshot, packet.family), Files(snapshot, Budget()) if files is None else files
    service = facts.service(packet)

    def follow(to: End, translated: tuple[str, int] | None = None, *, excluded: bool = False) -> Trace:
        programs = Programs(snapshot, replace(packet, translated=translated), loaded)
        return _follow(Walk(programs, facts, source, to, via, excluded))

    if packet.translated:
        return follow(facts.end(packet.translated[0]), packet.translated)
    if service is None:
        return follow(destination)
    if packet.protocol not in WITH_PORTS or service.verdict == EXCLUDED:
        whole = follow(destination, excluded=packet.protocol in WITH_PORTS)
        why = "leaves to another load balancer" if packet.protocol in WITH_PORTS else "translates for TCP and UDP alone"
        note = f"{destination.title} is a service that Calico {why}"
        return replace(whole, notes=(*whole.notes, note), service=service)
    if service.verdict != NAT:
        note = (
            f"the service {address_port(packet.destination, packet.destination_port)} {_why_not(service)} before policy"
        )
        return Trace(packet, DENY, "", (), (note,), service, (), (facts.location(source),))
    found = [(one, follow(facts.end(one.address), (one.address, one.port))) for one in service.backends]
    whole = _of_backends(packet, service, found)
    return replace(whole, notes=(*whole.notes, *_affinity(facts, packet, service)))


def interfaces_of(snapshot: Snapshot, packet: Packet, source: End, destination: End) -> set[str]:
    """The interfaces whose policy the packet can meet here: those of the ends, of backends, and the host's."""
    facts = NodeFacts(snapshot, packet.family)
    service = facts.service(packet)
    ends = [source, destination, *(facts.end(one.address) for one in (service.backends if service else ()))]
    hosts = {one.interface for one in snapshot.endpoints.get().by_index.values() if one.kind == HOST and one.state}
    return hosts | {one.endpoint.interface for one in ends if one.endpoint}


def _why_not(service: Service) -> str:
    if service.verdict != NO_BACKENDS:
        return "does not serve this source (source ranges): Calico drops the packet"
    where = " on this node, and its traffic policy is Local" if service.frontend.count else ""
    return f"has no backends{where}: Calico rejects the packet"


def _affinity(facts: NodeFacts, packet: Packet, service: Service) -> Iterator[str]:
    """Which backend session affinity chose for this client."""
    bound = facts.bound(packet)
    if bound and bound in service.backends and service.frontend.affinity:
        chosen = address_port(bound.address, bound.port)
        yield (
            f"session affinity gave this client {chosen} last, and gives it again within "
            f"{service.frontend.affinity} s of its last connection"
        )


def _of_backends(packet: Packet, service: Service, found: Sequence[tuple[Backend, Trace]]) -> Trace:
    """One verdict of all backends, if they have the same."""
    verdicts = {one.verdict for _, one in found}
    verdict = verdicts.pop() if len(verdicts) == 1 else UNKNOWN
    why = next((one.why_unknown for _, one in found if one.why_unknown), "the service's backends differ")
    programs = [
        replace(program, backend=address_port(backend.address, backend.port))
        for backend, one in found
        for program in one.programs
    ]
    notes, locations = (
        tuple(dict.fromkeys(item for _, one in found for item in getattr(one, name))) for name in ("notes", "locations")
    )
    backends = tuple((backend, one.verdict) for backend, one in found)
    why = why if verdict == UNKNOWN else ""
    return Trace(packet, verdict, why, tuple(programs), notes, service, backends, locations)


def _follow(walk: Walk) -> Trace:
    locations = tuple(map(walk.facts.location, (walk.source, walk.destination)))
    stuck = ""
    try:
        walk.go()
    except NotKnown as error:
        stuck = str(error)
    verdict, why = (DENY, "") if walk.is_refused else _verdict(walk.met, stuck)
    return Trace(
        walk.programs.packet, verdict, why, tuple(walk.met), tuple(dict.fromkeys(walk.notes)), locations=locations
    )


def _verdict(programs: Sequence[ProgramTrace], stuck: str) -> tuple[str, str]:
    """A program that certainly denies settles it, whatever the others do."""
    if any(one.denies for one in programs):
        return DENY, ""
    reasons = [one.why for one in programs if one.verdict == UNKNOWN]
    reasons += [one.conditional for one in programs if one.verdict == DENY]
    reasons += [stuck] if stuck else []
    return (UNKNOWN, reasons[0]) if reasons else (ALLOW, "")
