"""Formats an explanation of `explain.py` as lines of text.

Names are not escaped: the caller escapes each line for its output.
"""

from collections.abc import Iterator, Sequence

from exporter.calico.reasons import page_of
from exporter.diagnosis.counting_rules import CountingRule
from exporter.diagnosis.denied import denied_lines
from exporter.diagnosis.explain import Drop, Explanation, OtherDropper
from exporter.node.endpoints import Endpoint
from exporter.quantities import format_duration, plural
from exporter.snapshot.rules import END_OF_TIER

_MAX_OTHERS = 10
# Kinds of lines, for the caller's formatting; the kind of a rule's line is the rule's action.
HEADLINE, DROP, PROBLEM = "headline", "drop", "problem"


def sentences(explanation: Explanation, seconds: float | None) -> Iterator[tuple[str, str]]:
    """The lines, each with its kind: `HEADLINE`, `DROP`, `PROBLEM`, a rule's action or empty.

    `seconds` is the time between the snapshots, if known.
    """
    when = (
        "since its counters began"
        if not explanation.window
        else f"in {format_duration(seconds)}"
        if seconds
        else "in between"
    )
    packets = sum(drop.packets for drop in explanation.drops)
    summary = (
        f"{plural(packets, 'packet')} dropped" if packets else "no packet was dropped for a reason that Calico counts"
    )
    if explanation.uncounted:
        lost = f"{plural(explanation.uncounted, 'packet')} dropped that no counter of Calico's saw"
        summary = f"{summary}, and {lost}" if packets else lost
    yield f"{_names(explanation.endpoint)}, {when}: {summary}.", HEADLINE
    for drop in explanation.drops:
        yield from _drop_lines(drop)
        yield from _rule_lines(explanation, drop)
    if explanation.drops and (explanation.problems or explanation.notes):
        yield "", ""
    yield from ((f"Problem: {problem}.", PROBLEM) for problem in explanation.problems)
    yield from ((f"Note: {note}.", "") for note in explanation.notes)
    yield from ((line, "") for line in _denied_lines(explanation))
    if not explanation.drops:
        yield from ((line, "") for line in _other_lines(explanation))


def _drop_lines(drop: Drop) -> Iterator[tuple[str, str]]:
    way = f"{drop.direction}, " if drop.direction else ""
    yield "", ""
    yield f"{plural(drop.packets, 'packet')} ({way}{drop.hook}), reason {drop.reason}: {drop.meaning}.", DROP
    yield f"  To check: {drop.check}.", ""
    yield f"  More: {page_of(drop.reason)}", ""


def _rule_lines(explanation: Explanation, drop: Drop) -> Iterator[tuple[str, str]]:
    rules = [rule for rule in explanation.rules if rule.hook == drop.hook and drop.reason == "policy"]
    if rules:
        yield "  Rules of this endpoint that counted in the same time:", ""
    for rule in rules:
        yield f"    {rule.action:<5} {rule.hits:>8}  {_rule_title(rule)}: {rule.match}", rule.action
        yield f"                    {_share(rule, drop, window=explanation.window)}", ""
    yield from _trace_line(explanation, drop, rules)


def _trace_line(explanation: Explanation, drop: Drop, rules: Sequence[CountingRule]) -> Iterator[tuple[str, str]]:
    """The command that settles it where several rules may have denied."""
    if sum(rule.action == "deny" for rule in rules) > 1:
        endpoint = explanation.endpoint
        own = endpoint.title if endpoint.pod else f"interface:{endpoint.interface}"
        ends = f"--from {own} --to PEER" if drop.direction == "outbound" else f"--from PEER --to {own}"
        yield "  A trace says which of them denies a packet (PEER: the other end):", ""
        yield f"    calico-bpf-exporter trace {ends} --protocol PROTOCOL --port PORT", ""


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


def _denied_lines(explanation: Explanation) -> Iterator[str]:
    if explanation.denied:
        yield ""
        yield "Flows that their receiver denied, as connection tracking still knows them:"
        yield from (f"  {line}" for line in denied_lines(explanation.denied[:_MAX_OTHERS]))
    if len(explanation.denied) > _MAX_OTHERS:
        yield f"  and {len(explanation.denied) - _MAX_OTHERS} more"


def _other_lines(explanation: Explanation) -> Iterator[str]:
    if explanation.others:
        yield ""
        yield (
            "A packet that its receiver's policy denies counts as accepted here. These endpoints of this node dropped "
            "packets in the same time; if this one talks to one of them, run `why` on that endpoint:"
        )
    for other in explanation.others[:_MAX_OTHERS]:
        yield f"  {_other(other)}"
    if len(explanation.others) > _MAX_OTHERS:
        yield f"  and {len(explanation.others) - _MAX_OTHERS} more"
    if not explanation.others and not explanation.black_hole and not explanation.uncounted:
        yield (
            "No other endpoint of this node dropped inbound packets either: they may be lost on another node, or "
            "beyond Calico."
        )


def _other(other: OtherDropper) -> str:
    reasons = ", ".join(f"{reason} {packets}" for reason, packets in other.reasons.items())
    return f"{_names(other.endpoint)}: {plural(other.packets, 'packet')}, {other.direction} ({reasons})"


def _names(endpoint: Endpoint) -> str:
    return f"{endpoint.title} ({endpoint.interface})" if endpoint.pod else endpoint.interface
