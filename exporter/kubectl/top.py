"""`top`: measures many nodes at the same time and shows the top endpoints by drops."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite

import click

from exporter.columns import Cell, Column, Row, lines_of
from exporter.kubectl.answers import UNREADABLE, Answer, query_all
from exporter.kubectl.kubectl import Kubectl
from exporter.kubectl.targets import Exporters, all_targets
from exporter.printable import say, say_json, width_of
from exporter.quantities import plural

_COLUMNS = (
    *map(Column, ("NODE", "ENDPOINT", "DIRECTION", "REASON")),
    *(Column(heading, right=True) for heading in ("DROPPED", "PER SECOND")),
)
# Of each node some rows are kept until all have answered: what no real one has would fill the memory.
_MAX_COUNTED, _MAX_NAME = 1000, 253


@dataclass(frozen=True, slots=True)
class Dropper:
    """What an endpoint dropped for one reason in one direction; the pod's names are empty if it is not a pod."""

    node: str
    namespace: str
    pod: str
    interface: str
    direction: str
    reason: str
    packets: int
    per_second: float | None

    @property
    def title(self) -> str:
        """The endpoint's name for a person."""
        return f"{self.namespace}/{self.pod}" if self.pod else self.interface


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to show: for how long to measure, the number of endpoints, and of which namespace (None: of all).

    `parallel` nodes are measured at once.
    """

    seconds: str
    limit: int
    namespace: str | None
    parallel: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What one node dropped: the rows of its top endpoints, and the packets and endpoints of all."""

    rows: Sequence[Dropper] = ()
    packets: int = 0
    endpoints: int = 0
    problem: str = ""


def show_top(kubectl: Kubectl, exporters: Exporters, wanted: Wanted, output: str) -> None:
    """Prints the endpoints that dropped the most, and exits 1 if a node did not answer.

    Raises `KubectlError` or `NoTarget` if no node can be queried.
    """
    targets, problems = all_targets(kubectl, exporters)
    batches = f", {wanted.parallel} at a time" if len(targets) > wanted.parallel else ""
    say(f"measuring {plural(len(targets), 'node')} for {wanted.seconds}{batches}", err=True)
    commands = [(target, ["counters", f"--diff={wanted.seconds}"]) for target in targets]
    reduce = partial(_measured, wanted)
    nodes = list(query_all(kubectl, commands, wanted.seconds, reduce, wanted.parallel))
    silent = [one.problem for one in nodes if one.problem]
    answered = len(targets) - len(silent)
    problems += silent
    shown = worst([row for one in nodes for row in one.rows], wanted.limit)
    if output == "json":
        say_json({"nodes": answered, "problems": problems, "droppers": [*map(asdict, shown)]})
    else:
        for line in _table(shown, width_of(sys.stdout)) if shown else ():
            click.echo(line)
        say(_summary(nodes, shown, answered, wanted.seconds))
    for problem in problems:
        say(problem, err=True)
    if problems:
        raise click.exceptions.Exit(1)


def _measured(wanted: Wanted, answer: Answer) -> Measured:
    try:
        found = [one for one in droppers_of(answer) if wanted.namespace in (None, one.namespace)]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return Measured(problem=answer.problem or f"node {answer.target.node}: {UNREADABLE}")
    endpoints = len({one.interface for one in found})
    return Measured(worst(found, wanted.limit), sum(one.packets for one in found), endpoints)


def droppers_of(answer: Answer) -> Iterator[Dropper]:
    """What the endpoints of one node dropped; an invalid answer raises whatever reading it does."""
    for endpoint in answer.found["endpoints"]:
        if len(endpoint["counted"]) > _MAX_COUNTED:
            raise ValueError("no endpoint has so many counters")
        for one in endpoint["counted"]:
            if one["category"] == "dropped":
                rate, packets = one["per_second"], int(one["count"])
                if packets >> 64 or not isfinite(rate or 0):
                    raise ValueError("a counter has 64 bits")
                yield Dropper(
                    answer.target.node,
                    _name(endpoint["namespace"]),
                    _name(endpoint["pod"]),
                    _name(endpoint["interface"]),
                    _name(one["direction"] or one["hook"]),
                    _name(one["reason"]),
                    packets,
                    None if rate is None else float(rate),
                )


def _name(value: object) -> str:
    name = str(value)
    if len(name) > _MAX_NAME:
        raise ValueError("no name is so long")
    return name


def worst(droppers: Sequence[Dropper], limit: int) -> list[Dropper]:
    """All rows of the `limit` endpoints that dropped the most, in that order."""
    packets: Counter[tuple[str, str]] = Counter()
    for one in droppers:
        packets[one.node, one.interface] += one.packets
    chosen = sorted(packets, key=lambda endpoint: (-packets[endpoint], endpoint))[:limit]
    order = {endpoint: number for number, endpoint in enumerate(chosen)}
    rows = [one for one in droppers if (one.node, one.interface) in order]
    return sorted(rows, key=lambda one: (order[one.node, one.interface], -one.packets, one.direction, one.reason))


def _table(droppers: Sequence[Dropper], width: int | None) -> list[str]:
    """One line each; names too long for the terminal go on a line above their endpoint's drops."""
    rows = [[one.node, one.title, one.direction, one.reason, str(one.packets), _rate(one)] for one in droppers]
    lines = list(lines_of(_COLUMNS, [list(map(Cell, row)) for row in rows], width))
    if width is None or max(map(len, lines)) <= width:
        return lines
    below: list[Row] = []
    previous: list[str] = []
    for node, title, direction, *numbers in rows:
        if [node, title] != previous:
            below.append([Cell(f"{title}  {node}")])
        below.append(list(map(Cell, (f"  {direction}", *numbers))))
        previous = [node, title]
    return list(lines_of((Column("  DIRECTION"), *_COLUMNS[3:]), below, width))


def _rate(dropper: Dropper) -> str:
    return "" if dropper.per_second is None else f"{dropper.per_second:.3g}"


def _summary(nodes: Sequence[Measured], shown: Sequence[Dropper], answered: int, seconds: str) -> str:
    everyone = sum(one.endpoints for one in nodes)
    hidden = everyone - len({(one.node, one.interface) for one in shown})
    more = f"; {hidden} that dropped less are not shown" if hidden else ""
    packets = plural(sum(one.packets for one in nodes), "packet")
    return f"{packets} dropped by {plural(everyone, 'endpoint')} of {plural(answered, 'node')} in {seconds}{more}"
