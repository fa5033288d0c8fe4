"""`why`: watches an endpoint and says in sentences what dropped its packets, and which rules can have done it.

Exits 0 when nothing was dropped and 3 when something was, so that a script can ask.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict

import click
from click.core import ParameterSource

from exporter.calico.reasons import page_of
from exporter.cli.looks import TimedLook, two_looks
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.selector import Selector, select, selector_options
from exporter.durations import Duration, shown
from exporter.node.endpoints import Endpoint
from exporter.printable import say
from exporter.snapshot.counting_rules import CountingRule
from exporter.snapshot.explain import Drop, Explanation, OtherDropper, explain
from exporter.snapshot.rules import END_OF_TIER
from exporter.snapshot.take import Snapshot

LOSES_PACKETS = 3
_MOST_OTHERS = 10
_STYLES = {"deny": "red", "allow": "green", "pass": "yellow"}


@click.command("why", short_help="Say why an endpoint loses packets.")
@selector_options("why")
@flag("for", "How long to watch; Ctrl-C ends it sooner.", command="why", type=Duration(), default="30s")
@flag("output", "How to print it.", command="why", type=click.Choice(["text", "json"]), default="text", short="-o")
@node_options(bundles=2)
def command(node: NodeOptions, selector: Selector, output: str, **given: float) -> None:
    """Watch one endpoint and explain which of its packets were dropped, for which reason, and which rules counted then.

    Of two bundles it explains the time between them, of one all since its counters began. Exits 0 when nothing was
    dropped, 3 when something was.
    """
    seconds = given["for"]
    if selector == Selector():
        raise click.UsageError("say whose packets: --pod, --ip or --interface")
    if node.bundle is None:
        click.echo(f"watching for {shown(seconds)}; Ctrl-C ends it sooner", err=True)
    elif click.get_current_context().get_parameter_source("for") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--for watches a node: two bundles have their own time")
    before, after = two_looks(node, seconds, lambda look: _one(look, selector))
    explanation = explain(before.snapshot if before else None, after.snapshot, _endpoint(before, after, selector))
    passed = after.seconds_since(before) if before else None
    if output == "json":
        click.echo(json.dumps(_json(explanation, passed, after.snapshot), indent=2))
    else:
        for line, style in _lines(explanation, passed):
            say(line, style)
    if explanation.loses_packets:
        raise click.exceptions.Exit(LOSES_PACKETS)


def _endpoint(before: TimedLook | None, after: TimedLook, selector: Selector) -> Endpoint:
    try:
        return _one(after.snapshot, selector)
    except click.ClickException:
        if before is None:
            raise
        return _one(before.snapshot, selector)  # it may be gone by now


def _one(look: Snapshot, selector: Selector) -> Endpoint:
    chosen = select(look.endpoints.by_index.values(), selector)
    if len(chosen) > 1:
        raise click.UsageError(f"why explains one endpoint, and {len(chosen)} fit: name one with --interface")
    return look.endpoints.of(chosen.pop())


def _lines(explanation: Explanation, seconds: float | None) -> Iterator[tuple[str, str]]:
    """The lines and the colour of each."""
    endpoint = explanation.endpoint
    names = f"{endpoint.title} ({endpoint.interface})" if endpoint.pod else endpoint.interface
    when = "since its counters began" if not explanation.window else f"in {shown(seconds)}" if seconds else "in between"
    packets = sum(drop.packets for drop in explanation.drops)
    said = (
        f"{_number(packets, 'packet')} dropped" if packets else "no packet was dropped for a reason that Calico counts"
    )
    yield f"{names}, {when}: {said}.", "bold"
    for drop in explanation.drops:
        yield from _drop_lines(drop)
        yield from _rule_lines(explanation, drop)
    if explanation.drops and (explanation.problems or explanation.notes):
        yield "", ""
    yield from ((f"Problem: {problem}.", "red") for problem in explanation.problems)
    yield from ((f"Note: {note}.", "") for note in explanation.notes)
    if not explanation.drops:
        yield from ((line, "") for line in _other_lines(explanation))


def _drop_lines(drop: Drop) -> Iterator[tuple[str, str]]:
    way = f"{drop.direction}, " if drop.direction else ""
    yield "", ""
    yield f"{_number(drop.packets, 'packet')} ({way}{drop.hook}), reason {drop.reason}: {drop.meaning}.", "red"
    yield f"  To check: {drop.check}.", ""
    yield f"  More: {page_of(drop.reason)}", ""


def _rule_lines(explanation: Explanation, drop: Drop) -> Iterator[tuple[str, str]]:
    rules = [rule for rule in explanation.rules if rule.hook == drop.hook and drop.reason == "policy"]
    if rules:
        yield "  Rules of this endpoint that counted in the same time:", ""
    for rule in rules:
        yield f"    {rule.action:<5} {rule.hits:>8}  {_rule_title(rule)}: {rule.match}", _STYLES.get(rule.action, "")
        yield f"                    {_share(rule, drop, window=explanation.window)}", ""


def _rule_title(rule: CountingRule) -> str:
    if rule.rule == END_OF_TIER:
        return f"end of tier {rule.tier}"
    if not rule.tier:
        return (
            f"{rule.kind} {rule.policy or '(unnamed)'}, rule {rule.rule}"
            if rule.rule.isdigit()
            else "no profile matched"
        )
    return f"{rule.kind} {rule.policy}, tier {rule.tier}, rule {rule.rule}"


def _share(rule: CountingRule, drop: Drop, *, window: bool) -> str:
    if rule.others and (rule.others_dropping or rule.action != "deny" or not window):
        sharing = "1 other endpoint shares" if rule.others == 1 else f"{rule.others} other endpoints share"
        return f"this number is for the whole node, and {sharing} the rule: it may be theirs"
    alone = "no other endpoint of this node carries it"
    if rule.others:
        sharing = "the other endpoint that shares it" if rule.others == 1 else f"the {rule.others} others that share it"
        alone = f"{sharing} dropped nothing by policy in this time"
    if rule.action != "deny":
        return f"{alone}; it denied nothing itself"
    if not window:
        return alone
    if rule.hits > drop.packets:
        return f"{alone}; it counted more than was dropped here: at the other hook, or elsewhere in the meantime"
    return f"{alone}: it denied {'these' if rule.hits == drop.packets else f'{rule.hits} of its'} packets"


def _other_lines(explanation: Explanation) -> Iterator[str]:
    if explanation.others:
        yield ""
        yield (
            "A packet that its receiver's policy denies counts as accepted here. These endpoints of this node dropped "
            "packets in the same time; if this one talks to one of them, ask why of that one:"
        )
    for other in explanation.others[:_MOST_OTHERS]:
        yield f"  {_other(other)}"
    if len(explanation.others) > _MOST_OTHERS:
        yield f"  and {len(explanation.others) - _MOST_OTHERS} more"
    if not explanation.others and not explanation.black_hole:
        yield (
            "No other endpoint of this node dropped inbound packets either: they may be lost on another node, or "
            "beyond Calico."
        )


def _other(other: OtherDropper) -> str:
    reasons = ", ".join(f"{reason} {packets}" for reason, packets in other.reasons.items())
    names = f"{other.endpoint.title} ({other.endpoint.interface})" if other.endpoint.pod else other.endpoint.interface
    return f"{names}: {_number(other.packets, 'packet')}, {other.direction} ({reasons})"


def _json(explanation: Explanation, seconds: float | None, after: Snapshot) -> dict[str, object]:
    from exporter.cli.counters_changes import counted_json

    def whose(endpoint: Endpoint) -> dict[str, object]:
        kept = ("interface", "ifindex", "kind", "namespace", "pod")
        return {name: getattr(endpoint, name) for name in kept}

    change = explanation.change
    return {
        **whose(explanation.endpoint),
        "window": explanation.window,
        "seconds": seconds,
        "loses_packets": explanation.loses_packets,
        "counted": counted_json(change, after.counter_layout, seconds) if change else [],
        "drops": [asdict(drop) for drop in explanation.drops],
        "rules": [asdict(rule) for rule in explanation.rules],
        "problems": list(explanation.problems),
        "notes": list(explanation.notes),
        "others": [
            {**whose(one.endpoint), "direction": one.direction, "packets": one.packets, "reasons": dict(one.reasons)}
            for one in explanation.others
        ],
        "black_hole": list(explanation.black_hole),
        "text": [line for line, _ in _lines(explanation, seconds)],
    }


def _number(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
