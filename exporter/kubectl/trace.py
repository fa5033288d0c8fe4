"""`trace FROM TO`: asks the node of each end for its half of the packet's way, and joins the answers.

An exporter knows the pods of its own node only: each is asked about its pod by name, and about the other end by
address. A service's backends are known to the node that sends; the node of each backend is asked next.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import click

from exporter.kubectl.answers import UNREADABLE, Answer, query_all
from exporter.kubectl.ends import End, ends_at
from exporter.kubectl.flags import WITH_PORTS
from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.targets import Exporters, NoTarget, Target, target_of_node
from exporter.printable import say, say_json

ALLOW, DENY, UNKNOWN = "allow", "deny", "unknown"
EXIT_CODES = {ALLOW: 0, DENY: 3, UNKNOWN: 1}
_WORDS = {ALLOW: "allowed", DENY: "denied", UNKNOWN: "not known"}
_STYLES = {ALLOW: "green", DENY: "red", UNKNOWN: "yellow"}
_FAMILIES = {"icmp": 4, "icmpv6": 6}
_OTHER_NODE, _SOMEWHERE = "other_node", "unknown"  # where an end is, as the exporter says it


@dataclass(frozen=True, slots=True)
class Described:
    """The packet as the user describes it; `more` are words for the exporter's command."""

    protocol: str
    port: int | None
    more: tuple[str, ...]

    def words(self, source: str, destination: str) -> list[str]:
        """The exporter's command. Values are part of their option: one that begins with - is none itself."""
        port = [] if self.port is None else [f"--port={self.port}"]
        ends = [f"--from={source}", f"--to={destination}", f"--protocol={self.protocol}"]
        return ["trace", *ends, *port, *self.more]


@dataclass(frozen=True, slots=True)
class Half:
    """What one node says, `title` in words; `why` is not empty where its verdict is not known.

    `found` is the exporter's response, empty where there is none.
    """

    title: str
    verdict: str
    why: str
    found: dict[str, Any]

    @property
    def text(self) -> list[str]:
        """Its lines."""
        return list(map(str, self.found["text"])) if self.found else [f"not known: {self.why}"]

    @property
    def locations(self) -> dict[str, tuple[str, str]]:
        """Where each end is, and the address of its node if that is another."""
        return {one["address"]: (one["where"], one["node"]) for one in self.found.get("locations", ())}


@dataclass(frozen=True, slots=True)
class Joined:
    """The verdict of all halves; `backends` are a service's: address with port, title and verdict."""

    verdict: str
    why: str
    halves: tuple[Half, ...]
    backends: tuple[tuple[str, str, str], ...] = ()


def described(protocol: str | None, port: tuple[int, str] | None, destination: End, more: Sequence[str]) -> Described:
    """The packet by the options; a service's port tells the rest. Raises `click.UsageError`."""
    number, of_port = port or (None, "")
    if of_port and protocol not in (None, of_port):
        raise click.UsageError(f"--port is of {of_port}, --protocol is {protocol}")
    protocol = protocol or of_port
    if destination.ports and (not protocol or protocol in WITH_PORTS):
        number, protocol = _port_of(destination, number, protocol)
    protocol = protocol or "tcp"
    if protocol not in WITH_PORTS and number is not None:
        raise click.UsageError("only tcp, udp and sctp have --port")
    if protocol in WITH_PORTS and number is None:
        raise click.UsageError("give the destination's --port, such as --port 80/tcp")
    return Described(protocol, number, tuple(more))


def _port_of(service: End, number: int | None, protocol: str) -> tuple[int, str]:
    fitting = [one for one in service.ports if number in (None, one[0]) and protocol in ("", one[1])]
    if len(fitting) == 1:
        return fitting[0]
    which = "has several such ports" if fitting else "has no such port"
    listed = ", ".join(f"{number}/{protocol}" for number, protocol in fitting or service.ports)
    raise click.UsageError(f"{service.title} {which}: name one with --port: {listed}")


def trace_two(kubectl: Kubectl, exporters: Exporters, ends: tuple[End, End], packet: Described) -> Joined:
    """Asks the nodes of both ends. Raises `NoTarget` or `KubectlError` where no node answers."""
    source, destination = ends
    family = _family(source, destination, packet)
    nodes = list(dict.fromkeys(filter(None, (source.node, destination.node))))
    if not nodes:
        problem = source.problem or destination.problem
        sentence = f"neither {source.title} nor {destination.title} is on a node of this cluster, as far as known"
        raise NoTarget(f"{sentence}{f': {problem}' if problem else ''}")
    halves = _ask(kubectl, exporters, [(node, packet, source, destination) for node in nodes], family)
    if not any(one.found for one in halves):
        raise KubectlError("; ".join(f"{one.title}: {one.why}" for one in halves))
    first = halves[0]
    backends = _backends(first)
    if not backends:
        return _joined([*halves, *_not_asked(first if first.found else halves[-1], ends)])
    found = ends_at(kubectl, [address for address, _, _ in backends])
    rest = [one for one in backends if found[one[0]].node not in ("", nodes[0])]
    asked = [(found[one[0]].node, replace(packet, port=one[1]), source, found[one[0]]) for one in rest]
    more = dict(zip(rest, _ask(kubectl, exporters, asked, family), strict=True))
    missing = {one: half for one in backends for half in _not_asked(first, [found[one[0]]])}
    others = more | missing
    table = []
    for one in backends:
        address, port, verdict = one
        both = _worst([verdict, others[one].verdict if one in others else ALLOW])
        table.append((_with_port(address, port), found[address].title, both))
    return _of_backends((first, *others.values(), *_not_asked(first, [source])), table)


def _ask(
    kubectl: Kubectl, exporters: Exporters, asked: Sequence[tuple[str, Described, End, End]], family: int
) -> list[Half]:
    """One half for each; a node that cannot be asked is a half that is not known."""
    targets: dict[str, Target] = {}
    problems: dict[str, str] = {}
    for node in dict.fromkeys(one[0] for one in asked):
        try:
            targets[node] = target_of_node(kubectl, exporters, node)
            say(f"node {node}: asking {targets[node].exporter} there", err=True)
        except NoTarget as error:
            problems[node] = str(error)
    commands = []
    for node, packet, *ends in asked:
        if node in targets:
            values = [str(one.pod) if one.pod and one.node == node else one.address(family) for one in ends]
            commands.append((targets[node], packet.words(*values)))
    halves = query_all(kubectl, commands, "1s", _half)
    return [
        Half(f"node {node}", UNKNOWN, problems[node], {}) if node in problems else next(halves) for node, *_ in asked
    ]


def _half(answer: Answer) -> Half:
    title, found = f"node {answer.target.node}", answer.found
    if answer.problem:
        return Half(title, UNKNOWN, answer.problem.removeprefix(f"{title}: "), {})
    text, why, locations = found.get("text"), found.get("why_unknown"), found.get("locations", [])
    readable = found.get("verdict") in EXIT_CODES and isinstance(text, list) and isinstance(why, str)
    if not (readable and isinstance(locations, list) and all(map(_is_location, locations))):
        return Half(title, UNKNOWN, UNREADABLE, {})
    return Half(title, found["verdict"], str(why), found)


def _is_location(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(one), str) for one in ("address", "where", "node"))


def _not_asked(half: Half, ends: Iterable[End]) -> list[Half]:
    """A half that is not known for each of the ends that no node was asked about, though there may be one."""
    found = []
    for end in ends:
        locations = [half.locations[one] for one in end.addresses if one in half.locations]
        where, node = locations[0] if locations else ("", "")
        if end.node or not (where == _OTHER_NODE or (where == _SOMEWHERE and end.problem)):
            continue
        title = f"node {node}" if node else f"the node of {end.title}"
        why = end.problem or f"no pod has the address {end.title} now, so it is not known which exporter to ask"
        found.append(Half(title, UNKNOWN, why, {}))
    return found


def _backends(half: Half) -> list[tuple[str, int, str]]:
    """Address, port and verdict of each backend, as the sender's node says."""
    service = half.found.get("service")
    if not service:
        return []
    try:
        rows = [(str(ip_address(one["address"])), int(one["port"]), str(one["verdict"])) for one in service["backends"]]
    except (KeyError, TypeError, ValueError) as error:
        raise KubectlError(UNREADABLE) from error
    if any(verdict not in EXIT_CODES for _, _, verdict in rows):
        raise KubectlError(UNREADABLE)
    return rows


def _joined(halves: Sequence[Half]) -> Joined:
    verdict = _worst([one.verdict for one in halves])
    why = next((f"{one.title}: {one.why}" for one in halves if one.verdict == UNKNOWN), "")
    return Joined(verdict, why if verdict == UNKNOWN else "", tuple(halves))


def _of_backends(halves: tuple[Half, ...], table: Sequence[tuple[str, str, str]]) -> Joined:
    verdicts = {verdict for _, _, verdict in table}
    verdict = verdicts.pop() if len(verdicts) == 1 else UNKNOWN
    why = next((f"{one.title}: {one.why}" for one in halves[1:] if one.verdict == UNKNOWN), halves[0].why)
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
        say_json(_json(joined, ends))
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
        "nodes": [
            {"node": one.title.removeprefix("node "), "problem": "" if one.found else one.why, **one.found}
            for one in joined.halves
        ],
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
        yield f"What {half.title} says:", "bold"
        yield from ((f"  {line}" if line else "", "") for line in half.text)
