"""`policy`: the rules that Calico's programs apply to an endpoint, each with its hits, ends of tiers included."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import click

from exporter.calico.policy_file import Instruction, PolicyDebugError, PolicyFile
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.policy_table import Members, print_policy
from exporter.cli.selector import Selector, select, selector_options
from exporter.cli.snapshots import earlier_and_latest
from exporter.diagnosis.changes import compare_rules
from exporter.diagnosis.rules import PARTS, CountedProgram, CountedRule, merged, programs_of, why_no_files
from exporter.errors import ExporterError
from exporter.printable import printable, say, say_json
from exporter.snapshot.snapshot import Snapshot
from exporter.snapshot.source import is_policy_file_of

_flag = partial(flag, command="policy")
_IP_SETS = ("ip_sets_4", "ip_sets_6")


@dataclass(frozen=True, slots=True)
class ShowOptions:
    """The part of the programs to show, and how much detail."""

    direction: str
    family: str
    nonzero: bool
    ip_sets: bool
    instructions: bool


@click.command("policy", short_help="Show policy rules with hits, including tier ends.")
@selector_options("policy")
@_flag(
    "direction",
    "Traffic direction, as seen by the endpoint.",
    type=click.Choice(["inbound", "outbound", "all"]),
    default="all",
)
@_flag("family", "IP family.", type=click.Choice(["4", "6", "all"]), default="all")
@_flag("nonzero", "Hide rules without hits.", is_flag=True)
@_flag("ip-sets", "List the members of the rules' IP sets.", is_flag=True)
@_flag("instructions", "Also show the programs' instructions.", is_flag=True)
@_flag("output", "Output format.", type=click.Choice(["table", "json"]), default="table", short="-o")
@node_options(bundles=2)
def command(node: NodeOptions, selector: Selector, output: str, **given: Any) -> None:
    """Show the tiers, policies and rules of endpoints in the order in which a packet meets them, with their hits.

    Hits are per node: a rule that applies to several endpoints has one number. Deny hits are packets, allow hits are
    new flows. With two bundles it shows the hits between them.
    """
    wanted = ShowOptions(given["direction"], given["family"], given["nonzero"], given["ip_sets"], given["instructions"])
    parts = {*PARTS, *(_IP_SETS if wanted.ip_sets else ()), *(("policy_files",) if wanted.instructions else ())}
    before, after = earlier_and_latest(node, parts)
    policies = after.policies.get()
    for problem in policies.problems:
        say(problem, err=True)
    if not any(policies.files.values()):
        why = "none of Calico's policy files could be read" if policies.unread else why_no_files(after)
        raise click.ClickException(why)
    hits = _hits(before, after)
    if hits is None:
        wanted = replace(wanted, nonzero=False)  # unknown hits may not be zero
    programs = _programs(after, selector, hits, wanted)
    members = _members(after, programs) if wanted.ip_sets else {}
    contents = _contents(after) if wanted.instructions else {}
    if output == "json":
        listed = [_program_json(one, members, wanted, contents) for one in programs]
        say_json({"programs": listed})
        return
    print_policy(merged(programs), members, nonzero=wanted.nonzero)
    if wanted.instructions:
        for one in programs:
            _print_instructions(contents, one)


def _programs(
    snapshot: Snapshot, selector: Selector, hits: Mapping[int, int] | None, wanted: ShowOptions
) -> list[CountedProgram]:
    policies = snapshot.policies.get()
    carriers = {program.about.interface for program in policies.files.values() if program}
    known = sorted(snapshot.endpoints.get().by_index.values(), key=lambda one: one.title)
    chosen = select(known, selector)
    endpoints = [one for one in known if one.ifindex in chosen and one.interface in carriers]
    if not endpoints and selector != Selector():
        mine = {one.interface for one in known if one.ifindex in chosen}
        if any(is_policy_file_of(name, mine) for name in policies.unread):
            raise click.ClickException("none of this endpoint's policy files could be read")
        raise click.ClickException(
            "Calico has written no policy file for this endpoint: run `check` for what is known about it"
        )
    programs = [one for endpoint in endpoints for one in programs_of(snapshot, endpoint, hits)]
    families = (4, 6) if wanted.family == "all" else (int(wanted.family),)
    directions = ("inbound", "outbound") if wanted.direction == "all" else (wanted.direction,)
    return [one for one in programs if one.direction in directions and one.families[0] in families]


def _hits(before: Snapshot | None, after: Snapshot) -> Mapping[int, int] | None:
    try:
        return after.rule_hits.get() if before is None else compare_rules(before.rule_hits.get(), after.rule_hits.get())
    except ExporterError as error:
        say(f"without hits: {error}", err=True)
        return None


def _members(snapshot: Snapshot, programs: Sequence[CountedProgram]) -> Members:
    members = {}
    for family in sorted({one.families[0] for one in programs if any(_set_names(one))}):
        sets = snapshot.ip_sets(family)
        if sets.error:
            say(f"without the members of IPv{family} sets: {sets.error}", err=True)
        else:
            members[family] = sets.get()
    return members


def _set_names(program: CountedProgram) -> Iterator[str]:
    for tier in program.tiers:
        for policy in tier.policies:
            for rule in policy.rules:
                yield from rule.ip_sets


def _program_json(
    program: CountedProgram, members: Members, wanted: ShowOptions, contents: Mapping[str, bytes]
) -> dict[str, object]:
    endpoint, family = program.endpoint, program.families[0]
    instructions = [{**asdict(one), "code": one.code.hex()} for one in _instructions(contents, program)]

    def rules(listed: Sequence[CountedRule]) -> list[dict[str, object]]:
        shown = [rule for rule in listed if rule.hits or not wanted.nonzero]
        return [_rule_json(rule, members.get(family), wanted) for rule in shown]

    return {
        "interface": endpoint.interface,
        "ifindex": endpoint.ifindex,
        "namespace": endpoint.namespace,
        "pod": endpoint.pod,
        "direction": program.direction,
        "hook": program.hook,
        "ip_family": family,
        "error": program.error,
        "tiers": [
            {
                "tier": tier.name,
                "direction": tier.direction,
                "phase": tier.phase,
                "policies": [{**asdict(policy.name), "rules": rules(policy.rules)} for policy in tier.policies],
                "end_action": tier.end_action,
                "end_hits": tier.end_hits,
                "end_id": str(tier.end_id) if tier.end_id else None,
            }
            for tier in program.tiers
        ],
        "no_profile_match_hits": program.no_profile_match,
        **({"instructions": instructions} if wanted.instructions else {}),
    }


def _rule_json(
    rule: CountedRule, members: Mapping[int, tuple[str, ...]] | None, wanted: ShowOptions
) -> dict[str, object]:
    sets = [
        {
            "name": name,
            "number": None if number is None else f"{number:#x}",
            **({"members": _known_members(members, number)} if wanted.ip_sets else {}),
        }
        for name, number in rule.ip_sets.items()
    ]
    return {
        "rule": rule.position,
        "action": rule.action,
        "hits": rule.hits,
        "match": rule.match,
        "text": rule.text,
        # As strings: not every JSON parser keeps the 64 bits of a number.
        "id": str(rule.id) if rule.id else None,
        "ip_sets": sets,
    }


def _known_members(members: Mapping[int, tuple[str, ...]] | None, number: int | None) -> tuple[str, ...] | None:
    return None if members is None or number is None else members.get(number, ())


def _contents(snapshot: Snapshot) -> Mapping[str, bytes]:
    if snapshot.policy_files.error:
        say(f"without instructions: {snapshot.policy_files.error}", err=True)
        return {}
    return snapshot.policy_files.get().files


def _instructions(contents: Mapping[str, bytes], program: CountedProgram) -> Iterator[Instruction]:
    for name in program.files:
        with suppress(PolicyDebugError):  # it may have changed since it was read
            yield from PolicyFile(contents.get(name, b"")).instructions()


def _print_instructions(contents: Mapping[str, bytes], program: CountedProgram) -> None:
    click.echo(f"\n{printable(', '.join(program.files))}:")
    for index, one in enumerate(_instructions(contents, program)):
        for comment in one.comments:
            click.echo(f"       // {printable(comment)}")
        for label in one.labels:
            click.echo(f"     {printable(label)}:")
        click.echo(f"{index:>5}  {one.code.hex()}  {printable(one.annotation)}".rstrip())
