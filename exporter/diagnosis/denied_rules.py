"""Which rule denied a flow that connection tracking knows as denied: its packet, run through the receiver's program.

Pure functions of a snapshot. The program is the one of now; where it does not certainly deny the packet, the rule is
not known.
"""

from collections.abc import Sequence
from dataclasses import replace

from exporter.calico.packet import ICMP, ICMP6
from exporter.calico.policy_program import ALLOW
from exporter.calico.rules import INGRESS
from exporter.diagnosis.denied import DeniedFlows, Ruling, packet_of
from exporter.diagnosis.trace import PARTS as TRACE_PARTS
from exporter.diagnosis.trace_program import Programs, ProgramTrace
from exporter.diagnosis.trace_sentences import title_of
from exporter.errors import ExporterError
from exporter.snapshot.snapshot import Snapshot

PARTS = TRACE_PARTS
# A program can have thousands of instructions: the latest flows are those that are asked about.
MAX_RULINGS = 20
_TYPE_FIELDS = ("icmp_type", "pre_nat_dport", "post_nat_dport")
_NO_TYPE = "it depends on the type of ICMP, which connection tracking does not hold"


def with_rulings(snapshot: Snapshot, found: Sequence[DeniedFlows], prefixes: Sequence[str]) -> tuple[DeniedFlows, ...]:
    """The same flows, the first `MAX_RULINGS` with the rule that denies them."""
    asked = [replace(one, ruling=_ruling(snapshot, one, prefixes)) for one in found[:MAX_RULINGS]]
    left = f"only the rules of the latest {MAX_RULINGS} are looked up"
    return (*asked, *(replace(one, ruling=Ruling(why_unknown=left)) for one in found[MAX_RULINGS:]))


def ruling_of(program: ProgramTrace) -> Ruling:
    """What a program says of a packet that it denied."""
    step = program.decided_by
    if program.denies and program.run and step:
        return Ruling(rule=title_of(step), step=step, rule_ids=program.run.rule_ids, checked=program.checked)
    if program.verdict == ALLOW:
        return Ruling(why_unknown=f"the policy of {program.endpoint.title} allows such a packet now")
    return Ruling(why_unknown=program.why or program.conditional or "no rule decided")


def _ruling(snapshot: Snapshot, flow: DeniedFlows, prefixes: Sequence[str]) -> Ruling:
    is_icmp = flow.protocol in (ICMP, ICMP6)
    try:
        programs = Programs(snapshot, packet_of(flow), prefixes)
        program = programs.evaluate(flow.receiver, INGRESS, (0,), _TYPE_FIELDS if is_icmp else ())
    except ExporterError as error:
        return Ruling(why_unknown=str(error))
    ruling = ruling_of(program)
    if is_icmp and any(f"state->{name}" in ruling.why_unknown for name in _TYPE_FIELDS):
        return Ruling(why_unknown=_NO_TYPE)
    return ruling
