"""Formats a trace of `trace.py` as lines of text.

Names are not escaped: the caller escapes each line for its output.
"""

from collections.abc import Iterator

from exporter.calico.packet import WITH_PORTS, Packet
from exporter.calico.policy_program import ALLOW, DENY
from exporter.calico.protocols import SCTP, protocol_name
from exporter.calico.tables import address_port
from exporter.diagnosis.policy_run import Step
from exporter.diagnosis.trace import Trace
from exporter.diagnosis.trace_program import ProgramTrace
from exporter.quantities import plural
from exporter.snapshot.rules import END_OF_TIER, NO_PROFILE

# The kind of a program's line. That of the first line is the verdict, that of a rule which matched its action.
PROGRAM = "program"
_VERDICTS = {ALLOW: "allowed", DENY: "denied"}


def sentences(trace: Trace, source: str, destination: str, *, verbose: bool) -> Iterator[tuple[str, str]]:
    """The lines, each with its kind. `verbose` shows the rules that did not match too."""
    verdict = _VERDICTS.get(trace.verdict, "not known")
    yield f"{source} to {destination}, {words_of(trace.packet)}: {verdict}.", trace.verdict
    if trace.why_unknown:
        yield f"Why: {trace.why_unknown}.", ""
    yield from _backends(trace)
    for program in trace.programs:
        yield "", ""
        yield from _program(program, verbose=verbose)
    if trace.notes or trace.programs:
        yield "", ""
    yield from ((f"Note: {note}.", "") for note in trace.notes)
    if any(one.run and one.checked is None for one in trace.programs):
        yield "Whether these files are the programs in the kernel could not be checked.", ""


def words_of(packet: Packet) -> str:
    """The protocol, and the port or the type and code, as rules say it."""
    name = protocol_name(packet.protocol)
    if packet.is_icmp:
        return f"{name} type {packet.icmp_type} code {packet.icmp_code}"
    return f"{name} to port {packet.destination_port}" if packet.protocol in (*WITH_PORTS, SCTP) else name


def _backends(trace: Trace) -> Iterator[tuple[str, str]]:
    """The backends of the service, each with its verdict, the pods of this node with their names."""
    pods = {address: one.endpoint.title for one in trace.programs for address in one.endpoint.addresses}
    for backend, verdict in trace.backends:
        name = f" ({pods[backend.address]})" if backend.address in pods else ""
        end = address_port(backend.address, backend.port)
        yield f"  backend {end}{name}: {_VERDICTS.get(verdict, 'not known')}", verdict


def _program(program: ProgramTrace, *, verbose: bool) -> Iterator[tuple[str, str]]:
    endpoint = program.endpoint
    where = f"{endpoint.title} ({endpoint.interface})" if endpoint.pod else endpoint.interface
    title = f"{where}, {program.direction} ({program.hook}), IPv{program.family}"
    title += f", backend {program.backend}" if program.backend else ""
    if program.run is None:
        yield f"{title}: {_VERDICTS.get(program.verdict, 'not known')}: {program.why}", PROGRAM
        return
    decided = program.decided_by
    by = f" by {title_of(decided)}" if decided else ": no rule applies to it"
    yield f"{title}: {_VERDICTS[program.verdict]}{by}", PROGRAM
    if program.conditional:
        yield f"  only if: {program.conditional}", ""
    hidden = 0
    for step in program.run.way:
        if step.matched or verbose:
            yield from _step(step)
        else:
            hidden += 1
    if hidden:
        yield f"  not shown: {plural(hidden, 'rule')} that did not match (--verbose)", ""
    if program.run.truncated:
        yield "  more rules matched than the program can record", ""


def _step(step: Step) -> Iterator[tuple[str, str]]:
    hits = "-" if step.hits is None else str(step.hits)
    if step.matched:
        yield f"  {step.action:<5} {hits:>8}  {title_of(step)}: {step.match}", step.action
    else:
        yield f"  {'-':<5} {hits:>8}  {title_of(step)}: {step.match}; {step.why or 'matches, and goes on'}", ""


def title_of(step: Step) -> str:
    """A rule, a tier's end or a missing profile match by its name."""
    if step.rule == NO_PROFILE:
        return "no profile match"
    if step.rule == END_OF_TIER:
        return f"the end of tier {step.tier}"
    owner = "/".join(filter(None, (step.policy_namespace, step.policy))) or "(unnamed)"
    tier = f", tier {step.tier}" if step.tier else ""
    return f"{step.kind or 'policy'} {owner}{tier}, rule {step.rule}"
