"""Which rules of an endpoint counted between two looks, and who else could have hit them.

A rule's number is the node's. It is the endpoint's own only where nobody who shares the rule dropped anything at the
hook where he does.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from exporter.calico.counters import DROPPED_BY_POLICY
from exporter.calico.hooks import TC_HOOKS, XDP, hook_name
from exporter.calico.policy_debug import parse_file_name
from exporter.calico.rules import NO_PROFILE_MATCH
from exporter.diagnosis.changes import APPEARED, VANISHED, EndpointChange, compare_rules
from exporter.diagnosis.rules import CountedProgram, merged, programs_of, sharers
from exporter.errors import ExporterError
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.snapshot.rules import END_OF_TIER, TIER
from exporter.snapshot.snapshot import Snapshot

_ORDER = {"deny": 0, "pass": 1, "allow": 2}
# An interface and the name of one of its hooks.
_Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class CountingRule:
    """A rule of the endpoint that counted in the same time.

    `others` is how many other endpoints share its counter, `others_dropping` how many of those dropped packets by
    policy in that time, or may have: if none did, all hits of a deny rule are this endpoint's. `policy` is empty for a
    tier's end and for "no profile matched"; `rule` is its place, `end_of_tier` or `no_profile_match`.
    """

    hook: str
    kind: str
    policy: str
    tier: str
    rule: str
    action: str
    hits: int
    others: int
    others_dropping: int
    match: str


@dataclass(frozen=True, slots=True)
class CountingRules:
    """The rules of an endpoint that counted, those that deny first; `known` says whether all of them are.

    `notes` say what is not known, and what to keep in mind of the numbers.
    """

    rules: tuple[CountingRule, ...]
    known: bool
    notes: tuple[str, ...] = ()


def counting_rules(
    before: Snapshot | None, after: Snapshot, endpoint: Endpoint, changes: Sequence[EndpointChange]
) -> CountingRules:
    """The rules of `endpoint` that counted between the looks, of whose endpoints `changes` tells the rest."""
    try:
        hits = after.rule_hits.get() if before is None else compare_rules(before.rule_hits.get(), after.rule_hits.get())
        programs = merged([one for one in programs_of(after, endpoint, hits) if one.hook != hook_name(XDP)])
        carriers = _carriers(before, after, changes)
    except ExporterError as error:
        return CountingRules((), known=False, notes=(f"Which rules counted is not known: {error}",))
    policies = after.policies.get()
    if not any(policies.files.values()):
        off = "Calico writes no policy files here (bpfPolicyDebugEnabled is off)"
        why = "none of Calico's policy files could be read" if policies.unread else off
        return CountingRules((), known=False, notes=(f"Which rules counted is not known: {why}",))
    droppers = _droppers(changes)
    found = {rule: None for program in programs for rule in _counting(program, carriers, droppers)}
    unread = list(_unread(after, endpoint))
    rules = sorted(found, key=lambda rule: (_ORDER.get(rule.action, 3), -rule.hits))
    return CountingRules(tuple(rules), not unread, (*unread, *_cautions(before, after)))


def _carriers(before: Snapshot | None, after: Snapshot, changes: Sequence[EndpointChange]) -> Mapping[int, set[_Place]]:
    """Who carries each rule at either look; a pod that came in between had no policy at first, and no profile."""
    carriers = sharers(after)
    if before:
        with suppress(ExporterError):
            for rule_id, places in sharers(before).items():
                carriers.setdefault(rule_id, set()).update(places)
    new = [one.endpoint for one in changes if one.fate == APPEARED and one.endpoint.kind == WORKLOAD]
    carriers.setdefault(NO_PROFILE_MATCH, set()).update((one.interface, hook_name(h)) for one in new for h in TC_HOOKS)
    return carriers


def _droppers(changes: Sequence[EndpointChange]) -> set[_Place]:
    """Where packets were dropped by policy; where an interface is gone, where they may have been."""
    found = set()
    for change in changes:
        for hook in TC_HOOKS:
            row = change.counters.hooks.get(hook)
            if change.fate == VANISHED or (row and row[DROPPED_BY_POLICY]):
                found.add((change.endpoint.interface, hook_name(hook)))
    return found


def _unread(after: Snapshot, endpoint: Endpoint) -> Iterator[str]:
    for name in after.policies.get().unread:
        about = parse_file_name(name)
        if about and about.interface == endpoint.interface:
            yield f"Its policy file {name} could not be read: rules that it names may be missing here"


def _cautions(before: Snapshot | None, after: Snapshot) -> Iterator[str]:
    if before is None:
        yield "Rule counts begin when Calico starts, those of an endpoint with its interface: do not compare them"
    elif any(after.rule_hits.get().get(rule_id, 0) < hits for rule_id, hits in before.rule_hits.get().items()):
        yield "Rule counts fell in this time: Calico started or a policy changed, and earlier hits are not known"


def _counting(
    program: CountedProgram, carriers: Mapping[int, set[_Place]], droppers: set[_Place]
) -> Iterator[CountingRule]:
    def others(rule_id: int) -> tuple[int, int]:
        places = {place for place in carriers.get(rule_id, set()) if place[0] != program.endpoint.interface}
        return len({interface for interface, _ in places}), len({interface for interface, _ in places & droppers})

    for tier in program.tiers:
        for policy in tier.policies:
            title = "/".join(filter(None, (policy.name.namespace, policy.name.name)))
            for rule in policy.rules:
                if rule.hits:
                    about = (program.hook, policy.name.kind, title, tier.name, str(rule.position), rule.action)
                    yield CountingRule(*about, rule.hits, *others(rule.id), rule.match)
        if tier.end_hits:
            about = (program.hook, TIER, "", tier.name, END_OF_TIER, tier.end_action)
            yield CountingRule(*about, tier.end_hits, *others(tier.end_id), "what no rule of the tier matched")
    if program.no_profile_match:
        about = (program.hook, "Profile", "", "", "no_profile_match", "deny")
        match = "what no profile of the endpoint matched, inbound or outbound"
        yield CountingRule(*about, program.no_profile_match, *others(NO_PROFILE_MATCH), match)
