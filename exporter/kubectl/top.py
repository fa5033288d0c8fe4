"""`top`: many nodes looked at in the same seconds, and the endpoints that dropped most among them."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import click

from exporter.columns import Cell, Column, Row, lines_of
from exporter.kubectl.answers import AT_ONCE, UNREADABLE, Answer, ask_all
from exporter.kubectl.kubectl import Kubectl
from exporter.kubectl.targets import Exporters, all_targets
from exporter.printable import say, width_of
from exporter.quantities import plural

_COLUMNS = (
    *map(Column, ("NODE", "ENDPOINT", "DIRECTION", "REASON")),
    *(Column(heading, right=True) for heading in ("DROPPED", "PER SECOND")),
)


@dataclass(frozen=True, slots=True)
class Dropper:
    """What an endpoint dropped for one reason in one direction; the pod's names are empty if it is none."""

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


def show_top(
    kubectl: Kubectl, exporters: Exporters, seconds: str, most: int, namespace: str | None, output: str
) -> None:
    """Prints the `most` endpoints that dropped most, and exits 1 if a node did not answer.

    Raises `KubectlError` or `NoTarget` where no node could be asked.
    """
    places, problems = all_targets(kubectl, exporters)
    crowd = f", {AT_ONCE} at a time" if len(places) > AT_ONCE else ""
    say(f"looking at {plural(len(places), 'node')} for {seconds}{crowd}", err=True)
    droppers: list[Dropper] = []
    silent = []
    for answer in ask_all(kubectl, places, [["counters", f"--diff={seconds}"]] * len(places), seconds):
        try:
            found = list(droppers_of(answer))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            silent.append(answer.problem or f"node {answer.place.node}: {UNREADABLE}")
        else:
            droppers += [one for one in found if namespace in (None, one.namespace)]
    answered = len(places) - len(silent)
    problems += silent
    shown = worst(droppers, most)
    if output == "json":
        click.echo(json.dumps({"nodes": answered, "problems": problems, "droppers": [*map(asdict, shown)]}, indent=2))
    else:
        for line in _table(shown, width_of(sys.stdout)) if shown else ():
            click.echo(line)
        say(_summary(droppers, shown, answered, seconds))
    for problem in problems:
        say(problem, err=True)
    if problems:
        raise click.exceptions.Exit(1)


def droppers_of(answer: Answer) -> Iterator[Dropper]:
    """What the endpoints of one node dropped; an answer of another shape raises what reading it does."""
    for endpoint in answer.found["endpoints"]:
        for one in endpoint["counted"]:
            if one["category"] == "dropped":
                rate, packets = one["per_second"], int(one["count"])
                if packets >> 64:
                    raise ValueError("a counter has 64 bits")
                yield Dropper(
                    answer.place.node,
                    str(endpoint["namespace"]),
                    str(endpoint["pod"]),
                    str(endpoint["interface"]),
                    str(one["direction"] or one["hook"]),
                    str(one["reason"]),
                    packets,
                    None if rate is None else float(rate),
                )


def worst(droppers: Sequence[Dropper], most: int) -> list[Dropper]:
    """All rows of the `most` endpoints that dropped most, those first."""
    packets: Counter[tuple[str, str]] = Counter()
    for one in droppers:
        packets[one.node, one.interface] += one.packets
    chosen = sorted(packets, key=lambda endpoint: (-packets[endpoint], endpoint))[:most]
    order = {endpoint: number for number, endpoint in enumerate(chosen)}
    rows = [one for one in droppers if (one.node, one.interface) in order]
    return sorted(rows, key=lambda one: (order[one.node, one.interface], -one.packets, one.direction, one.reason))


def _table(droppers: Sequence[Dropper], width: int | None) -> list[str]:
    """One line for each; where long names do not fit the terminal, they stand above what their endpoint dropped."""
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


def _summary(droppers: Sequence[Dropper], shown: Sequence[Dropper], nodes: int, seconds: str) -> str:
    everyone = {(one.node, one.interface) for one in droppers}
    hidden = len(everyone) - len({(one.node, one.interface) for one in shown})
    more = f"; {hidden} that dropped less are not shown" if hidden else ""
    packets = plural(sum(one.packets for one in droppers), "packet")
    return f"{packets} dropped by {plural(len(everyone), 'endpoint')} of {plural(nodes, 'node')} in {seconds}{more}"
