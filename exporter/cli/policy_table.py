"""Prints the policy of endpoints as tables with rich: a packet meets what stands there from top to bottom."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exporter.calico.hooks import XDP, hook_name
from exporter.calico.policy_debug import PROFILE
from exporter.node.endpoints import WORKLOAD
from exporter.printable import printable
from exporter.snapshot.rules_by_endpoint import CountedPolicy, CountedProgram, CountedRule, CountedTier

_PIPED_WIDTH = 120
_STYLES = {"deny": "red", "allow": "green", "pass": "yellow"}
_MOST_MEMBERS = 20

Members = Mapping[int, Mapping[int, tuple[str, ...]]]
# A row: what it is, its action, its hits, what it matches.
_Row = tuple[str, str, str, str]


def print_policy(programs: Sequence[CountedProgram], members: Members, *, nonzero: bool) -> None:
    """Prints these programs; `nonzero` leaves out what has no hit, and says how much that was."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    hidden = 0
    previous = None
    for program in programs:
        shown = list(_rows(program, members, nonzero=nonzero))
        hidden += sum(map(_is_counter, _rows(program, members, nonzero=False))) - sum(map(_is_counter, shown))
        if nonzero and not shown and not program.error:
            continue
        if program.endpoint is not previous:
            console.print(_title(program), style="bold", soft_wrap=True)
            previous = program.endpoint
        console.print(_heading(program), soft_wrap=True)
        if program.error:
            console.print(Text(printable(f"  not in place: {program.error}"), style="bold red"), soft_wrap=True)
        console.print(_table(shown))
    console.print(
        "Hits are the node's: one number for all who carry a rule. deny counts packets, allow new flows; - is not "
        "counted.",
        style="dim",
    )
    if hidden:
        console.print(f"not shown: {hidden} without a hit", style="dim")


def _is_counter(row: _Row) -> bool:
    return bool(row[2])


def _has_hits(row: _Row) -> bool:
    return row[2] not in {"", "0", "-"}


def _title(program: CountedProgram) -> Text:
    endpoint = program.endpoint
    names = f"{endpoint.title}  {endpoint.interface}" if endpoint.pod else endpoint.interface
    about = ", ".join([f"ifindex {endpoint.ifindex}", endpoint.kind, *endpoint.addresses])
    return Text(printable(f"{names}  ({about})"))


def _heading(program: CountedProgram) -> Text:
    way = "to the pod" if program.direction == "inbound" else "from the pod"
    who = f", {way}" if program.endpoint.kind == WORKLOAD else ""
    families = " and ".join(f"IPv{family}" for family in program.families)
    return Text(f"{program.direction}{who} ({program.hook.replace('_', ' ')}), {families}", style="underline")


def _table(rows: Sequence[_Row]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=bool(rows))
    table.add_column("", overflow="fold")
    table.add_column("ACTION", no_wrap=True)
    table.add_column("HITS", justify="right", no_wrap=True)
    table.add_column("MATCH", overflow="fold")
    for row in rows:
        what, action, hits, match = map(printable, row)
        style = f"bold {_STYLES.get(action, '')}" if _has_hits(row) else "dim"
        table.add_row(
            Text(what), Text(action, _STYLES.get(action, "")), Text(hits, style if action else ""), Text(match)
        )
    return table


def _rows(program: CountedProgram, members: Members, *, nonzero: bool) -> Iterator[_Row]:
    def wanted(rows: Iterable[_Row]) -> list[_Row]:
        return [row for row in rows if not nonzero or _has_hits(row)]

    for tier in program.tiers:
        rows: list[_Row] = []
        for policy in tier.policies:
            title = (f"    {_policy_title(policy)}", "", "", "")
            rules = wanted(_rule_row(rule, program, members) for rule in policy.rules)
            rows += [title, *rules] if rules or not nonzero else []
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
    return f"  {f'tier {tier.name}' if tier.name else 'profiles'}{host}", "", "", ""


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
        members_shown = found[:_MOST_MEMBERS] + [
            f"IPv{one} not known" for one in program.families if one not in members
        ]
        more = f" and {len(found) - _MOST_MEMBERS} more" if len(found) > _MOST_MEMBERS else ""
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
