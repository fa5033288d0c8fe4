"""`trace`: runs the node's own policy programs on a described packet, and says which rule decides about it.

For scripts, it exits 0 when the packet is allowed, 3 when it is denied, and 1 when that is not known.
"""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from exporter.calico.packet import ICMP, ICMP6, PROTOCOLS, SCTP, TCP, WITH_PORTS, Packet
from exporter.calico.policy_program import ALLOW, DENY
from exporter.cli.candidates import complete_ends, complete_interfaces
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.selector import by_pod
from exporter.cli.snapshots import one_snapshot
from exporter.diagnosis.policy_run import Step
from exporter.diagnosis.trace import PARTS, Trace, trace
from exporter.diagnosis.trace_node import End, NodeFacts
from exporter.diagnosis.trace_program import ProgramTrace
from exporter.diagnosis.trace_sentences import PROGRAM, sentences
from exporter.node.endpoints import HOST, Endpoint, Endpoints
from exporter.printable import say
from exporter.snapshot.snapshot import Snapshot

EXIT_CODES = {ALLOW: 0, DENY: 3}
NOT_KNOWN = 1
_STYLES = {PROGRAM: "bold", "deny": "red", "allow": "green", "pass": "yellow", "unknown": "yellow"}
_INTERFACE = "interface:"
_ECHO_REQUEST = {ICMP: 8, ICMP6: 128}


@dataclass(frozen=True, slots=True)
class Described:
    """The packet as the user describes it; what was not given is None."""

    protocol: int
    port: int | None
    source_port: int | None
    icmp_type: int | None
    icmp_code: int | None

    @property
    def icmp(self) -> bool:
        """Whether it has a type and a code."""
        return self.protocol in _ECHO_REQUEST

    def check(self) -> None:
        """Raises `click.UsageError` for an option that the protocol does not have, or lacks."""
        with_ports = self.protocol in (*WITH_PORTS, SCTP)
        if with_ports and self.port is None:
            raise click.UsageError("give the destination's --port")
        if not with_ports and (self.port is not None or self.source_port is not None):
            raise click.UsageError("only tcp, udp and sctp have --port and --source-port")
        if not self.icmp and (self.icmp_type is not None or self.icmp_code is not None):
            raise click.UsageError("only icmp and icmpv6 have --icmp-type and --icmp-code")


class Protocol(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A protocol by its name or number."""

    name = "protocol"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        number = value if isinstance(value, int) else PROTOCOLS.get(value.lower())
        if number is None and value.isascii() and value.isdigit() and int(value) < 256:
            number = int(value)
        if number is None:
            self.fail(f"{value} is none of {', '.join(PROTOCOLS)}, nor a number up to 255", param, ctx)
        return number

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """See `click.ParamType`."""
        del ctx, param
        return [click.shell_completion.CompletionItem(name) for name in PROTOCOLS if name.startswith(incomplete)]


_PORT, _BYTE = click.IntRange(0, 65535), click.IntRange(0, 255)


_own = partial(flag, command="trace")


@click.command("trace", short_help="Show which rule decides about a packet.")
@_own("from", "Source: pod [NAMESPACE/]NAME, address or interface:NAME.", required=True, shell_complete=complete_ends)
@_own(
    "to", "Destination: pod [NAMESPACE/]NAME, address or interface:NAME.", required=True, shell_complete=complete_ends
)
@_own("protocol", "Protocol: tcp, udp, icmp, icmpv6, sctp or a number.", type=Protocol(), default="tcp")
@_own("port", "Destination port, for tcp, udp and sctp.", type=_PORT)
@_own("source-port", "Source port (default: 40000).", type=_PORT)
@_own("icmp-type", "ICMP type (default: echo request).", type=_BYTE)
@_own("icmp-code", "ICMP code (default: 0).", type=_BYTE)
@_own("via", "Host interface that the packet takes, where it is not known.", shell_complete=complete_interfaces)
@_own("verbose", "Also show the rules that did not match, and why.", is_flag=True)
@_own("output", "Output format.", type=click.Choice(["text", "json"]), default="text", short="-o")
@node_options()
def command(node: NodeOptions, via: str | None, output: str, *, verbose: bool, **given: Any) -> None:
    """Run the node's own policy programs on the first packet of a new flow, and show which rule decides about it.

    One end at least is a pod of this node or the node itself (interface:NAME of the host). No packet is sent and
    nothing of the node is changed. Exits 0 when it is allowed, 3 when it is denied, 1 when that is not known.
    """
    described = Described(
        given["protocol"], given["port"], given["source_port"], given["icmp_type"], given["icmp_code"]
    )
    described.check()
    ends = given["from"], given["to"]
    # A SYN of TCP is policed whatever connection tracking says.
    parts = PARTS if described.protocol == TCP else PARTS | {"conntrack"}
    snapshot = one_snapshot(node, parts, lambda endpoints: _addresses(endpoints, ends))
    family = _family(snapshot, described, ends)
    source, destination = (_end(snapshot, given[name], family, f"--{name}") for name in ("from", "to"))
    _check_via(snapshot, via)
    result = trace(
        snapshot, _packet(described, family, source, destination), source, destination, via or "", node.prefixes
    )
    lines = list(sentences(result, _named(source), _named(destination), verbose=verbose))
    if output == "json":
        click.echo(json.dumps({**_json(result), "text": [line for line, _ in lines]}, indent=2))
    else:
        for line, about in lines:
            say(line, _STYLES.get(about, ""))
    raise click.exceptions.Exit(EXIT_CODES.get(result.verdict, NOT_KNOWN))


def _packet(described: Described, family: int, source: End, destination: End) -> Packet:
    if described.icmp:
        kind = _ECHO_REQUEST[described.protocol] if described.icmp_type is None else described.icmp_type
        return Packet(
            family,
            source.address,
            destination.address,
            described.protocol,
            icmp_type=kind,
            icmp_code=described.icmp_code or 0,
        )
    if described.port is None:
        return Packet(family, source.address, destination.address, described.protocol)
    source_port = 40000 if described.source_port is None else described.source_port
    return Packet(family, source.address, destination.address, described.protocol, source_port, described.port)


def _family(snapshot: Snapshot, described: Described, ends: Sequence[str]) -> int:
    """The packet's IP family: that of an address or of ICMP, else the first that both ends have."""
    families = {address.version for address in map(_address, ends) if address}
    by_protocol = {ICMP: 4, ICMP6: 6}.get(described.protocol)
    if len(families) > 1:
        raise click.UsageError("--from and --to are addresses of two IP families")
    if families and by_protocol and by_protocol not in families:
        raise click.UsageError(f"{'icmp' if by_protocol == 4 else 'icmpv6'} is not of the addresses' IP family")
    if families or by_protocol:
        return next(iter(families)) if families else int(by_protocol or 4)
    pods = [_endpoint(snapshot, end, option) for end, option in zip(ends, ("--from", "--to"), strict=True)]
    have = [{ipaddress.ip_address(one).version for one in pod.addresses} for pod in pods if pod and pod.addresses]
    return next((family for family in (4, 6) if all(family in one for one in have)), 4)


def _addresses(endpoints: Endpoints, ends: Sequence[str]) -> set[str]:
    """The addresses of these ends, as far as they can be told before there is a snapshot."""
    pods = (one for one in endpoints.by_index.values() if one.pod in ends or one.title in ends)
    return {str(one) for one in map(_address, ends) if one} | {address for pod in pods for address in pod.addresses}


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _endpoint(snapshot: Snapshot, text: str, option: str) -> Endpoint | None:
    """The endpoint that a name stands for; None for an address."""
    every = list(snapshot.endpoints.get().by_index.values())
    if _address(text):
        return None
    if text.startswith(_INTERFACE):
        name = text.removeprefix(_INTERFACE)
        found = next((one for one in every if one.interface == name), None)
        if found is None:
            raise click.ClickException(f"there is no interface {name} on this node")
        return found
    return by_pod(every, text, option)


def _end(snapshot: Snapshot, text: str, family: int, option: str) -> End:
    endpoint, address, facts = _endpoint(snapshot, text, option), _address(text), NodeFacts(snapshot, family)
    if address:
        return facts.end(str(address))
    if endpoint and endpoint.kind == HOST:
        return facts.end_at(endpoint)
    addresses = [one for one in endpoint.addresses if ipaddress.ip_address(one).version == family] if endpoint else []
    if not addresses:
        raise click.ClickException(f"no IPv{family} address of {text} is known here: give the address instead")
    return End(addresses[0], endpoint)


def _check_via(snapshot: Snapshot, via: str | None) -> None:
    hosts = sorted(one.interface for one in snapshot.endpoints.get().by_index.values() if one.kind == HOST)
    if via is not None and via not in hosts:
        raise click.UsageError(f"--via {via} is no interface of the host: it has {', '.join(hosts)}")


def _named(end: End) -> str:
    if end.endpoint and end.endpoint.pod:
        return f"{end.title} ({end.address})"
    return end.title


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
        "places": [{"address": one.address, "where": one.where, "node": one.node} for one in result.places],
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
        "decided_by": _step_json(decided) if decided else None,
        "steps": run.steps if run else 0,
    }


def _step_json(step: Step) -> dict[str, object]:
    names = ("kind", "policy_namespace", "policy", "tier", "rule", "action", "match", "hits")
    return {name: getattr(step, name) for name in names}
