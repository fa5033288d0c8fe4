"""`why POD --to POD2`: watches two pods at once and shows on which side packets were lost.

Each exporter explains its pod; this module compares the two. Counters are per pod, not per pair of pods, and a
receiver's total excludes packets of known connections: no sentence here claims more.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import click

from exporter.kubectl.answers import UNREADABLE, Answer, query_all
from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.peers import name_peers
from exporter.kubectl.targets import Target
from exporter.printable import say, say_json
from exporter.quantities import plural

LOSES_PACKETS = 3
_WATCH = "30s"


@dataclass(frozen=True, slots=True)
class Leg:
    """One stretch of the round trip: what one pod counted in one direction.

    `entered` are the packets that Calico's program saw, which for `inbound` are the first of each connection only.
    """

    way: str
    pod: str
    direction: str
    entered: int
    flows: int
    dropped: dict[str, int]

    @property
    def lost(self) -> int:
        """Packets dropped for any reason."""
        return sum(self.dropped.values())


def explain_two(kubectl: Kubectl, sender: Target, receiver: Target, *, watch: str | None, output: str | None) -> None:
    """Watches both for the same time and prints what each counted. Exits 3 if one dropped packets.

    Raises `KubectlError` if one cannot be queried.
    """
    watch = watch or _WATCH
    for target in (sender, receiver):
        say(str(target), err=True)
    say(f"watching both for {watch}", err=True)
    commands = [(target, ["why", "--pod", str(target.pod), f"--for={watch}"]) for target in (sender, receiver)]
    answers = list(query_all(kubectl, commands, watch, lambda answer: answer))
    if problems := [answer.problem for answer in answers if answer.problem]:
        for answer in answers:
            if not answer.problem:
                _say_text(answer)
        raise KubectlError("; ".join(problems))
    unnamed = [problem for one in answers for problem in name_peers(kubectl, one.target.node, one.found)]
    try:
        legs = legs_of(answers[0], answers[1])
        loses = [bool(answer.found["loses_packets"]) for answer in answers]
        lines = list(_lines(answers, legs, watch))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KubectlError(UNREADABLE) from error
    if output == "json":
        sides = {
            side: {"node": one.target.node, **one.found}
            for side, one in zip(("sender", "receiver"), answers, strict=True)
        }
        found = {**sides, "legs": [asdict(leg) for leg in legs], "verdict": list(verdict(legs))}
        say_json(found)
    else:
        for line, style in lines:
            say(line, style)
    for problem in dict.fromkeys(unnamed):
        say(problem, err=True)
    if any(loses):
        raise click.exceptions.Exit(LOSES_PACKETS)


def _say_text(answer: Answer) -> None:
    """Prints one side's explanation where the other failed."""
    text = answer.found.get("text")
    for line in text if isinstance(text, list) else ():
        say(str(line), "")


def legs_of(sender: Answer, receiver: Answer) -> tuple[Leg, Leg, Leg, Leg]:
    """Out of the sender, into the receiver, and the same way back."""
    return (
        _leg("there", sender, "outbound"),
        _leg("there", receiver, "inbound"),
        _leg("back", receiver, "outbound"),
        _leg("back", sender, "inbound"),
    )


def _leg(way: str, answer: Answer, direction: str) -> Leg:
    entered = flows = 0
    dropped: dict[str, int] = {}
    for one in answer.found["counted"]:
        if one["direction"] != direction:
            continue
        if one["category"] == "total":
            entered += one["count"]
        elif one["category"] == "accepted" and one["reason"] == "policy":
            flows += one["count"]
        elif one["category"] == "dropped":
            dropped[one["reason"]] = dropped.get(one["reason"], 0) + one["count"]
    return Leg(way, str(answer.target.pod), direction, entered, flows, dropped)


def verdict(legs: tuple[Leg, Leg, Leg, Leg]) -> Iterator[str]:
    """Sentences about the four stretches together."""
    out, into, _, _ = legs
    for leg in legs:
        if leg.lost:
            yield f"{leg.pod} dropped {plural(leg.lost, f'{leg.direction} packet')} ({_reasons(leg)})"
    if out.flows and into.dropped.get("policy"):
        yield "Each repeated SYN of a connection that is denied counts at its sender as a new connection"
    if any(leg.lost for leg in legs):
        yield "The counters are of a pod: packets of and to others than these two are in them"
    elif not out.entered:
        yield f"{out.pod} sent nothing in this time: let it send, and watch again"
    elif out.flows and not into.entered:
        yield (
            f"Neither dropped a packet, but {out.pod} opened {plural(out.flows, 'connection')} and nothing reached "
            f"{into.pod}: it was sent elsewhere, or lost between the two nodes"
        )
    else:
        yield "Neither dropped a packet for a reason that Calico counts"


def _lines(answers: list[Answer], legs: tuple[Leg, Leg, Leg, Leg], watch: str) -> Iterator[tuple[str, str]]:
    out, into, _, _ = legs
    yield f"From {out.pod} to {into.pod}, in {watch}:", "bold"
    width = max(len(out.pod), len(into.pod))
    for leg in legs:
        dropped = f"{plural(leg.lost, 'packet')} dropped ({_reasons(leg)})" if leg.lost else "nothing dropped"
        flows = plural(leg.flows, "new connection")
        yield f"  {leg.way:<5}  {leg.pod:<{width}}  {leg.direction:<8}  {flows}, {dropped}", "red" if leg.lost else ""
    yield from ((f"{sentence}.", "") for sentence in verdict(legs))
    for answer in answers:
        yield "", ""
        yield f"What {answer.target.pod} says, on node {answer.target.node}:", "bold"
        yield from ((f"  {line}", "") for line in answer.found["text"])


def _reasons(leg: Leg) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(leg.dropped.items(), key=lambda one: -one[1]))
