"""Prints the policy of endpoints as tables, top to bottom in the order of evaluation."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from exporter.calico.hooks import XDP, hook_name
from exporter.calico.policy_debug import PROFILE
from exporter.cli.counters_table import title
from exporter.columns import Cell, Column, Row, say_columns
from exporter.diagnosis.rules import CountedPolicy, CountedProgram, CountedRule, CountedTier
from exporter.printable import say

_STYLES = {"deny": "red", "allow": "green", "pass": "yellow"}
_MAX_MEMBERS = 20
_PHASES = {
    "pre_dnat": ", before service translation (pre-DNAT)",
    "forward": ", forwarded packets",
    "normal": ", packets to and from the host itself",
    "untracked": ", before connection tracking (untracked)",
}
_COLUMNS = (Column(""), Column("ACTION"), Column("HITS", right=True), Column("MATCH"))

# The members of IP sets by IP family and set number.
Members = Mapping[int, Mapping[int, tuple[str, ...]]]
# A row: what it is, its action, its hits, what it matches.
_Row = tuple[str, str, str, str]


def print_policy(programs: Sequence[CountedProgram], members: Members, *, nonzero: bool) -> None:
    """Prints these programs; `nonzero` hides what has no hits and prints how much that is."""
    hidden = 0
    previous = None
    for program in programs:
        shown = list(_rows(program, members, nonzero=nonzero))
        hidden += sum(map(_is_counter, _rows(program, members, nonzero=False))) - sum(map(_is_counter, shown))
        if nonzero and not shown and not program.error:
            continue
        if program.endpoint is not previous:
            say(title(program.endpoint), "bold")
            previous = program.endpoint
        say(_heading(program), "underline")
        if program.error:
            say(f"  not in place: {program.error}", "bold red")
        if shown:
            say_columns(_COLUMNS, list(map(_cells, shown)))
    say(
        "Hits are per node: one number for all endpoints with a rule. deny counts packets, allow new flows; - is not "
        "counted.",
        "dim",
    )
    if hidden:
        say(f"not shown: {hidden} without a hit", "dim")


def _is_counter(row: _Row) -> bool:
    return bool(row[2])


def _has_hits(row: _Row) -> bool:
    return row[2] not in {"", "0", "-"}


def _heading(program: CountedProgram) -> str:
    families = " and ".join(f"IPv{family}" for family in program.families)
    return f"{program.direction} ({program.hook}), {families}"


def _cells(row: _Row) -> Row:
    what, action, hits, match = row
    style = f"bold {_STYLES.get(action, '')}" if _has_hits(row) else "dim"
    if not any((action, hits, match)):
        return [Cell(what)]  # a heading spans the line
    return [Cell(what), Cell(action, _STYLES.get(action, "")), Cell(hits, style), Cell(match)]


def _rows(program: CountedProgram, members: Members, *, nonzero: bool) -> Iterator[_Row]:
    def wanted(rows: Iterable[_Row]) -> list[_Row]:
        return [row for row in rows if not nonzero or _has_hits(row)]

    for tier in program.tiers:
        rows: list[_Row] = []
        for policy in tier.policies:
            heading = (f"    {_policy_title(policy)}", "", "", "")
            rules = wanted(_rule_row(rule, program, members) for rule in policy.rules)
            rows += [heading, *rules] if rules or not nonzero else []
        if tier.name:
            end = f"    end of tier {tier.name}", tier.end_action, _hits(tier.end_hits), _end(tier, program)
            rows += wanted([end])
        yield from [_tier_title(tier, program)] if rows else []
        yield from rows
    if program.no_profile_match is not None:
        hits = _hits(program.no_profile_match)
        yield from wanted([("    no profile matched", "deny", hits, "both directions together")])


def _tier_title(tier: CountedTier, program: CountedProgram) -> _Row:
    host = "" if tier.direction == program.direction else f", {tier.direction} policy of the host endpoint *"
    return f"  {f'tier {tier.name}' if tier.name else 'profiles'}{host}{_PHASES.get(tier.phase, '')}", "", "", ""


def _rule_row(rule: CountedRule, program: CountedProgram, members: Members) -> _Row:
    return f"      rule {rule.position}", rule.action, _hits(rule.hits), _match(rule, program, members)


def _policy_title(policy: CountedPolicy) -> str:
    name = policy.name
    title = "/".join(filter(None, (name.namespace, name.name)))
    unnamed = "(not named in the file)" if name.kind == PROFILE else "(staged, not enforced)"
    return f"{name.kind if title else 'policy'} {title or unnamed}"


def _match(rule: CountedRule, program: CountedProgram, members: Members) -> str:
    parts = [rule.match]
    for name, number in rule.ip_sets.items():
        if number is None or not members:
            continue
        found = [one for family in program.families for one in members.get(family, {}).get(number, ())]
        members_shown = found[:_MAX_MEMBERS] + [f"IPv{one} not known" for one in program.families if one not in members]
        more = f" and {len(found) - _MAX_MEMBERS} more" if len(found) > _MAX_MEMBERS else ""
        parts.append(f"{name} = {{{', '.join(members_shown)}{more}}}")
    return "; ".join(parts)


def _end(tier: CountedTier, program: CountedProgram) -> str:
    if tier.end_hits is not None or program.hook == hook_name(XDP):
        return ""
    if not tier.end_action:
        return "before v3.30 not counted on its own"
    return "" if tier.end_id else "nothing gets here"


def _hits(hits: int | None) -> str:
    return "-" if hits is None else str(hits)
