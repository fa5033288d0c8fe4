"""Which rule denied a flow that connection tracking knows as denied: its packet, run through the receiver's program.

Pure functions of a snapshot. The program is the one of now; where it does not certainly deny the packet, the rule is
not known.
"""

from collections.abc import Sequence
from dataclasses import replace

from exporter.calico.policy_program import ALLOW
from exporter.calico.protocols import PORTLESS
from exporter.calico.rules import INGRESS
from exporter.diagnosis.denied import DeniedFlows, Ruling, denied_flows, packet_of
from exporter.diagnosis.trace_node import Hidden
from exporter.diagnosis.trace_program import Budget, Files, Programs, ProgramTrace
from exporter.diagnosis.trace_sentences import title_of
from exporter.errors import ExporterError
from exporter.node.endpoints import Endpoint
from exporter.snapshot.snapshot import Snapshot

# A program can have thousands of instructions: the latest flows are those that are asked about.
MAX_RULINGS = 20
_NO_TYPE = Hidden(
    ("icmp_type", "pre_nat_dport", "post_nat_dport"),
    "it depends on the type of ICMP, which connection tracking does not hold",
)


def with_rulings(snapshot: Snapshot, found: Sequence[DeniedFlows]) -> tuple[DeniedFlows, ...]:
    """The same flows, the first `MAX_RULINGS` with the rule that denies them."""
    if not found:
        return ()
    asked: list[DeniedFlows] = []
    try:
        files = Files(snapshot, Budget())
        asked += (replace(one, ruling=_ruling(snapshot, one, files)) for one in found[:MAX_RULINGS])
    except ExporterError as error:
        return tuple(replace(one, ruling=Ruling(why_unknown=str(error))) for one in found)
    left = f"only the rules of the latest {MAX_RULINGS} are looked up"
    return (*asked, *(replace(one, ruling=Ruling(why_unknown=left)) for one in found[MAX_RULINGS:]))


def policies_of(snapshot: Snapshot, endpoint: Endpoint | None) -> set[str]:
    """The interfaces whose policy decides about the flows that `endpoint` denied, or was denied."""
    if endpoint is None or snapshot.conntrack.error or snapshot.endpoints.error:
        return set()
    found = denied_flows(snapshot.conntrack.get(), snapshot.endpoints.get(), endpoint)
    return {one.receiver.interface for one in found[:MAX_RULINGS]}


def ruling_of(program: ProgramTrace) -> Ruling:
    """What a program says of a packet that it denied."""
    step = program.decided_by
    if program.denies and program.run and step:
        return Ruling(rule=title_of(step), step=step, rule_ids=program.run.rule_ids, checked=program.checked)
    if program.verdict == ALLOW:
        return Ruling(why_unknown=f"the policy of {program.endpoint.title} allows such a packet now")
    return Ruling(why_unknown=program.why or program.conditional or "no rule decided")


def _ruling(snapshot: Snapshot, flow: DeniedFlows, files: Files) -> Ruling:
    hidden = _NO_TYPE if flow.protocol in PORTLESS else Hidden()
    return ruling_of(Programs(snapshot, packet_of(flow), files).evaluate(flow.receiver, INGRESS, (0,), hidden))
