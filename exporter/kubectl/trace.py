"""`trace FROM TO`: asks the node of each end for its half of the packet's way, and joins the answers.

An exporter knows the pods of its own node only: each is asked about its pod by name, and about the other end by
address. A service's backends are known to the node that sends; the node of each backend is asked next.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import click

from exporter.kubectl.answers import UNREADABLE, Answer, query_all
from exporter.kubectl.ends import End, ends_at
from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.targets import Exporters, NoTarget, Target, target_of_node
from exporter.printable import say

ALLOW, DENY, UNKNOWN = "allow", "deny", "unknown"
EXIT_CODES = {ALLOW: 0, DENY: 3, UNKNOWN: 1}
_WORDS = {ALLOW: "allowed", DENY: "denied", UNKNOWN: "not known"}
_STYLES = {ALLOW: "green", DENY: "red", UNKNOWN: "yellow"}
_FAMILIES = {"icmp": 4, "1": 4, "icmpv6": 6, "58": 6}
_WITH_PORTS = ("tcp", "udp", "sctp", "6", "17", "132")


@dataclass(frozen=True, slots=True)
class Described:
    """The packet as the user describes it; `more` are words for the exporter's command."""

    protocol: str
    port: int | None
    more: tuple[str, ...] = ()

    @property
    def has_port(self) -> bool:
        """Whether the protocol has ports."""
        return self.protocol in _WITH_PORTS

    def words(self, source: str, destination: str) -> list[str]:
        """The exporter's command. Values are part of their option: one that begins with - is none itself."""
        port = [] if self.port is None else [f"--port={self.port}"]
        ends = [f"--from={source}", f"--to={destination}", f"--protocol={self.protocol}"]
        return ["trace", *ends, *port, *self.more]


@dataclass(frozen=True, slots=True)
class Half:
    """What one node says; `why` is not empty where its verdict is not known."""

    node: str
    verdict: str
    why: str
    found: dict[str, Any]

    @property
    def text(self) -> list[str]:
        """Its lines."""
        return list(map(str, self.found["text"])) if self.found else [f"not known: {self.why}"]


@dataclass(frozen=True, slots=True)
class Joined:
    """The verdict of all halves; `backends` are a service's: address with port, title and verdict."""

    verdict: str
    why: str
    halves: tuple[Half, ...]
    backends: tuple[tuple[str, str, str], ...] = ()


def with_port(packet: Described, destination: End) -> Described:
    """The packet with its port, which may be a service's only one. Raises `click.UsageError`."""
    if not packet.has_port:
        if packet.port is not None:
            raise click.UsageError("only tcp, udp and sctp have --port")
        return packet
    if packet.port is None and len(destination.ports) == 1:
        return replace(packet, port=destination.ports[0])
    if packet.port is None:
        raise click.UsageError("give the destination's --port, such as --port 80/tcp")
    return packet


def trace_two(kubectl: Kubectl, exporters: Exporters, ends: tuple[End, End], packet: Described) -> Joined:
    """Asks the nodes of both ends. Raises `NoTarget` or `KubectlError` where no node can be asked."""
    source, destination = ends
    family = _family(source, destination, packet)
    nodes = list(dict.fromkeys(filter(None, (source.node, destination.node))))
    if not nodes:
        raise NoTarget(f"neither {source.title} nor {destination.title} is on a node of this cluster, as far as known")
    halves = _ask(kubectl, exporters, [(node, packet, source, destination) for node in nodes], family)
    backends = _backends(halves[0]) if source.node else []
    if not backends:
        return _joined(halves)
    found = ends_at(kubectl, [address for address, _, _ in backends])
    rest = [one for one in backends if found[one[0]].node not in ("", source.node)]
    asked = [(found[one[0]].node, replace(packet, port=one[1]), source, found[one[0]]) for one in rest]
    more = dict(zip(rest, _ask(kubectl, exporters, asked, family), strict=True))
    verdicts = [_worst([one[2], more[one].verdict] if one in more else [one[2]]) for one in backends]
    table = [
        (_with_port(address, port), found[address].title, verdict)
        for (address, port, _), verdict in zip(backends, verdicts, strict=True)
    ]
    return _of_backends((*halves, *more.values()), table)


def _ask(
    kubectl: Kubectl, exporters: Exporters, asked: Sequence[tuple[str, Described, End, End]], family: int
) -> list[Half]:
    """One half for each; a node that cannot be asked is a half that is not known."""
    targets: dict[str, Target | str] = {}
    for node in dict.fromkeys(one[0] for one in asked):
        try:
            targets[node] = target_of_node(kubectl, exporters, node)
            say(f"node {node}: asking {targets[node].exporter} there", err=True)  # type: ignore[union-attr]
        except NoTarget as error:
            targets[node] = str(error)
    commands = []
    for node, packet, *ends in asked:
        target = targets[node]
        if isinstance(target, Target):
            values = [str(one.pod) if one.pod and one.node == node else one.address(family) for one in ends]
            commands.append((target, packet.words(*values)))
    answers = query_all(kubectl, [one for one, _ in commands], [words for _, words in commands], "1s")
    return [
        Half(node, UNKNOWN, str(targets[node]), {}) if isinstance(targets[node], str) else _half(next(answers))
        for node, *_ in asked
    ]


def _half(answer: Answer) -> Half:
    node, found = answer.target.node, answer.found
    if answer.problem:
        return Half(node, UNKNOWN, answer.problem.removeprefix(f"node {node}: "), {})
    text, why = found.get("text"), found.get("why_unknown")
    if found.get("verdict") not in EXIT_CODES or not isinstance(text, list) or not isinstance(why, str):
        return Half(node, UNKNOWN, UNREADABLE, {})
    return Half(node, found["verdict"], why, found)


def _backends(half: Half) -> list[tuple[str, int, str]]:
    """Address, port and verdict of each backend, as the sender's node says."""
    service = half.found.get("service") or {}
    try:
        rows = [(str(ip_address(one["address"])), int(one["port"]), one["verdict"]) for one in service["backends"]]
        if any(verdict not in EXIT_CODES for _, _, verdict in rows):
            raise KubectlError(UNREADABLE)
    except KeyError:
        if not service:
            return []
        raise KubectlError(UNREADABLE) from None
    except (TypeError, ValueError) as error:
        raise KubectlError(UNREADABLE) from error
    return rows


def _joined(halves: Sequence[Half]) -> Joined:
    verdict = _worst([one.verdict for one in halves])
    why = next((f"node {one.node}: {one.why}" for one in halves if one.verdict == UNKNOWN), "")
    return Joined(verdict, why if verdict == UNKNOWN else "", tuple(halves))


def _of_backends(halves: tuple[Half, ...], table: Sequence[tuple[str, str, str]]) -> Joined:
    verdicts = {verdict for _, _, verdict in table}
    verdict = verdicts.pop() if len(verdicts) == 1 else UNKNOWN
    why = next((f"node {one.node}: {one.why}" for one in halves[1:] if one.verdict == UNKNOWN), halves[0].why)
    return Joined(verdict, (why or "the service's backends differ") if verdict == UNKNOWN else "", halves, tuple(table))


def _worst(verdicts: Sequence[str]) -> str:
    """A half that denies settles it; else one that is not known."""
    return next((one for one in (DENY, UNKNOWN) if one in verdicts), ALLOW)


def _with_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _family(source: End, destination: End, packet: Described) -> int:
    have = [{ip_address(one).version for one in end.addresses} for end in (source, destination)]
    wanted = [_FAMILIES[packet.protocol]] if packet.protocol in _FAMILIES else [4, 6]
    family = next((one for one in wanted if all(one in each for each in have)), 0)
    if not family:
        raise NoTarget(f"{source.title} and {destination.title} have no addresses of one IP family for it")
    return family


def say_joined(joined: Joined, ends: tuple[End, End], packet: Described, output: str | None) -> None:
    """Prints it and exits: 0 allowed, 3 denied, 1 not known."""
    if output == "json":
        click.echo(json.dumps(_json(joined, ends), indent=2))
    else:
        for line, style in _lines(joined, ends, packet):
            say(line, style)
    raise click.exceptions.Exit(EXIT_CODES[joined.verdict])


def _json(joined: Joined, ends: tuple[End, End]) -> dict[str, object]:
    return {
        "verdict": joined.verdict,
        "why_unknown": joined.why,
        "from": ends[0].title,
        "to": ends[1].title,
        "backends": [dict(zip(("address", "title", "verdict"), one, strict=True)) for one in joined.backends],
        "nodes": [{"node": one.node, "problem": "" if one.found else one.why, **one.found} for one in joined.halves],
    }


def _lines(joined: Joined, ends: tuple[End, End], packet: Described) -> Iterator[tuple[str, str]]:
    what = packet.protocol if packet.port is None else f"{packet.protocol} to port {packet.port}"
    yield f"{ends[0].title} to {ends[1].title}, {what}: {_WORDS[joined.verdict]}.", _STYLES[joined.verdict]
    if joined.why:
        yield f"Why: {joined.why}.", ""
    for address, title, verdict in joined.backends:
        yield f"  backend {address} ({title}): {_WORDS[verdict]}", _STYLES[verdict]
    for half in joined.halves:
        yield "", ""
        yield f"What node {half.node} says:", "bold"
        yield from ((f"  {line}" if line else "", "") for line in half.text)
