"""`trace`: runs the node's own policy programs on a described packet, and says which rule decides about it.

For scripts, it exits 0 when the packet is allowed, 3 when it is denied, and 1 when that is not known.
"""

from functools import partial
from typing import Any

import click
from click.shell_completion import CompletionItem

from exporter.calico.packet import WITH_PORTS
from exporter.calico.policy_program import ALLOW, DENY
from exporter.calico.protocols import PROTOCOLS, SCTP, TCP
from exporter.cli.as_json import step_json
from exporter.cli.candidates import complete_ends, complete_interfaces
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.snapshots import one_snapshot
from exporter.diagnosis.selection import WrongUsage
from exporter.diagnosis.trace import PARTS, Trace, trace
from exporter.diagnosis.trace_packet import Described, addresses_of, check_via, named, protocol_of, resolve
from exporter.diagnosis.trace_program import ProgramTrace
from exporter.diagnosis.trace_sentences import PROGRAM, sentences
from exporter.printable import printable, say, say_json

EXIT_CODES = {ALLOW: 0, DENY: 3}
NOT_KNOWN = 1
_STYLES = {PROGRAM: "bold", "deny": "red", "allow": "green", "pass": "yellow", "unknown": "yellow"}


class Protocol(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A protocol by its name or number."""

    name = "protocol"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        try:
            return value if isinstance(value, int) else protocol_of(value)
        except WrongUsage as error:
            self.fail(printable(str(error)), param, ctx)

    def shell_complete(
        self, _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """See `click.ParamType`."""
        return [CompletionItem(name) for name in PROTOCOLS if name.startswith(incomplete)]


_PORT, _BYTE = click.IntRange(0, 65535), click.IntRange(0, 255)
_flag = partial(flag, command="trace")


@click.command("trace", short_help="Show which rule decides about a packet.")
@_flag("from", "Source: pod [NAMESPACE/]NAME, address or interface:NAME.", required=True, shell_complete=complete_ends)
@_flag(
    "to", "Destination: pod [NAMESPACE/]NAME, address or interface:NAME.", required=True, shell_complete=complete_ends
)
@_flag("protocol", "Protocol: tcp, udp, icmp, icmpv6, sctp or a number.", type=Protocol(), default="tcp")
@_flag("port", "Destination port, for tcp, udp and sctp.", type=_PORT)
@_flag("source-port", "Source port (default: 40000).", type=_PORT)
@_flag("icmp-type", "ICMP type (default: echo request).", type=_BYTE)
@_flag("icmp-code", "ICMP code (default: 0).", type=_BYTE)
@_flag("via", "Host interface that the packet takes, where it is not known.", shell_complete=complete_interfaces)
@_flag("verbose", "Also show the rules that did not match, and why.", is_flag=True)
@_flag("output", "Output format.", type=click.Choice(["text", "json"]), default="text", short="-o")
@node_options()
def command(node: NodeOptions, via: str | None, output: str, *, verbose: bool, **given: Any) -> None:
    """Run the node's own policy programs on the first packet of a new flow, and show which rule decides about it.

    At least one end must be a pod of this node or the node itself (interface:NAME of the host). No packet is sent and
    nothing on the node is changed. Exits 0 when the packet is allowed, 3 when it is denied, 1 when that is not known.
    """
    described = Described(
        given["protocol"], given["port"], given["source_port"], given["icmp_type"], given["icmp_code"]
    )
    ends = given["from"], given["to"]
    try:
        described.check()
        # A SYN of TCP is policed whatever connection tracking says.
        parts = PARTS if described.protocol == TCP else PARTS | {"conntrack"}
        snapshot = one_snapshot(node, parts, lambda endpoints: addresses_of(endpoints, ends))
        packet, source, destination = resolve(snapshot, described, ends, ("--from", "--to"))
        check_via(snapshot, via or "", "--via")
    except WrongUsage as error:
        raise click.UsageError(printable(str(error))) from error
    result = trace(snapshot, packet, source, destination, via or "")
    lines = list(sentences(result, named(source), named(destination), verbose=verbose))
    if output == "json":
        say_json({**_json(result), "text": [line for line, _ in lines]})
    else:
        for line, about in lines:
            say(line, _STYLES.get(about, ""))
    raise click.exceptions.Exit(EXIT_CODES.get(result.verdict, NOT_KNOWN))


def _json(result: Trace) -> dict[str, object]:
    packet = result.packet
    icmp, ports = packet.is_icmp, packet.protocol in (*WITH_PORTS, SCTP)
    return {
        "verdict": result.verdict,
        "why_unknown": result.why_unknown,
        "packet": {
            "source": packet.source,
            "destination": packet.destination,
            "protocol": packet.protocol,
            "source_port": packet.source_port if ports else None,
            "destination_port": packet.destination_port if ports else None,
            "icmp_type": packet.icmp_type if icmp else None,
            "icmp_code": packet.icmp_code if icmp else None,
        },
        "service": _service_json(result),
        "programs": list(map(_program_json, result.programs)),
        "notes": list(result.notes),
        "locations": [{"address": one.address, "where": one.where, "node": one.node} for one in result.locations],
    }


def _service_json(result: Trace) -> dict[str, object] | None:
    if result.service is None:
        return None
    backends = [{"address": one.address, "port": one.port, "verdict": verdict} for one, verdict in result.backends]
    return {"address": result.packet.destination, "port": result.packet.destination_port, "backends": backends}


def _program_json(program: ProgramTrace) -> dict[str, object]:
    run, endpoint, decided = program.run, program.endpoint, program.decided_by
    return {
        "namespace": endpoint.namespace,
        "pod": endpoint.pod,
        "interface": endpoint.interface,
        "hook": program.hook,
        "direction": program.direction,
        "phase": program.phase,
        "ip_family": program.family,
        "backend": program.backend,
        "verdict": program.verdict,
        "why": program.why,
        "conditional": program.conditional,
        "program_checked": program.checked,
        "rule_ids_truncated": bool(run and run.truncated),
        # As strings: not every JSON parser keeps the 64 bits of a number.
        "rule_ids": [str(one) for one in run.rule_ids] if run else [],
        "decided_by": step_json(decided) if decided else None,
        "steps": run.steps if run else 0,
    }
