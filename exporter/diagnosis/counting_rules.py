"""The rules of an endpoint with hits between two snapshots, and the other endpoints that may have hit them.

Rule counters are per node. The hits are certainly the endpoint's only if no other endpoint with the rule dropped
packets at that hook.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from exporter.calico.counters import DROPPED_BY_POLICY
from exporter.calico.hooks import TC_HOOKS, XDP, hook_name
from exporter.calico.policy_debug import PROFILE, parse_file_name
from exporter.calico.rules import NO_PROFILE_MATCH
from exporter.diagnosis.changes import APPEARED, VANISHED, EndpointChange, compare_rules
from exporter.diagnosis.rules import CountedProgram, merged, programs_of, sharers, why_no_files
from exporter.errors import ExporterError
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.snapshot.rules import END_OF_TIER, NO_PROFILE, TIER
from exporter.snapshot.snapshot import Snapshot

_ORDER = {"deny": 0, "pass": 1, "allow": 2}
# An interface and the name of one of its hooks.
_Hook = tuple[str, str]


@dataclass(frozen=True, slots=True)
class CountingRule:
    """A rule of the endpoint with hits in this period.

    `others` is the number of other endpoints that share its counter, `others_dropping` of those that dropped packets
    by policy, or may have: if 0, all hits of a deny rule are this endpoint's. `policy` is empty for a tier's end and
    for "no profile matched"; `rule` is its position, `end_of_tier` or `no_profile_match`.
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
    """The rules of an endpoint with hits, deny rules first; `known` is whether the list is complete.

    `notes` are limits of the data.
    """

    rules: tuple[CountingRule, ...]
    known: bool
    notes: tuple[str, ...] = ()


def counting_rules(
    before: Snapshot | None, after: Snapshot, endpoint: Endpoint, changes: Sequence[EndpointChange]
) -> CountingRules:
    """The rules of `endpoint` with hits between the snapshots; `changes` are those of all endpoints."""
    try:
        hits = after.rule_hits.get() if before is None else compare_rules(before.rule_hits.get(), after.rule_hits.get())
        programs = merged([one for one in programs_of(after, endpoint, hits) if one.hook != hook_name(XDP)])
        carriers = _carriers(before, after, changes)
    except ExporterError as error:
        return CountingRules((), known=False, notes=(f"Which rules counted is not known: {error}",))
    policies = after.policies.get()
    if not any(policies.files.values()):
        why = policies.problems[0] if policies.unread else why_no_files(after)
        return CountingRules((), known=False, notes=(f"Which rules counted is not known: {why}",))
    droppers = _droppers(changes)
    found = {rule: None for program in programs for rule in _counting(program, carriers, droppers)}
    unread = list(_unread(after, endpoint))
    rules = sorted(found, key=lambda rule: (_ORDER.get(rule.action, 3), -rule.hits))
    return CountingRules(tuple(rules), not unread, (*unread, *_data_notes(before, after)))


def _carriers(before: Snapshot | None, after: Snapshot, changes: Sequence[EndpointChange]) -> Mapping[int, set[_Hook]]:
    """Where each rule is loaded in either snapshot; a pod added in between had no policy or profile at first."""
    carriers = sharers(after)
    if before:
        with suppress(ExporterError):
            for rule_id, hooks in sharers(before).items():
                carriers.setdefault(rule_id, set()).update(hooks)
    new = [one.endpoint for one in changes if one.fate == APPEARED and one.endpoint.kind == WORKLOAD]
    carriers.setdefault(NO_PROFILE_MATCH, set()).update((one.interface, hook_name(h)) for one in new for h in TC_HOOKS)
    return carriers


def _droppers(changes: Sequence[EndpointChange]) -> set[_Hook]:
    """Hooks at which policy dropped packets, or may have if the interface was removed."""
    found = set()
    for change in changes:
        for hook in TC_HOOKS:
            row = change.counters.hooks.get(hook)
            if change.fate == VANISHED or (row and any(row[DROPPED_BY_POLICY : DROPPED_BY_POLICY + 1])):
                found.add((change.endpoint.interface, hook_name(hook)))
    return found


def _unread(after: Snapshot, endpoint: Endpoint) -> Iterator[str]:
    for name in after.policies.get().unread:
        about = parse_file_name(name)
        if about and about.interface == endpoint.interface:
            yield f"Its policy file {name} could not be read: rules that it names may be missing here"


def _data_notes(before: Snapshot | None, after: Snapshot) -> Iterator[str]:
    if before is None:
        yield "Rule counts begin when Calico starts, those of an endpoint with its interface: do not compare them"
    elif any(after.rule_hits.get().get(rule_id, 0) < hits for rule_id, hits in before.rule_hits.get().items()):
        yield "Rule counts fell in this time: Calico started or a policy changed, and earlier hits are not known"


def _counting(
    program: CountedProgram, carriers: Mapping[int, set[_Hook]], droppers: set[_Hook]
) -> Iterator[CountingRule]:
    def others(rule_id: int) -> tuple[int, int]:
        hooks = {one for one in carriers.get(rule_id, set()) if one[0] != program.endpoint.interface}
        return len({interface for interface, _ in hooks}), len({interface for interface, _ in hooks & droppers})

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
        about = (program.hook, PROFILE, "", "", NO_PROFILE, "deny")
        match = "what no profile of the endpoint matched, inbound or outbound"
        yield CountingRule(*about, program.no_profile_match, *others(NO_PROFILE_MATCH), match)
