"""The policy of an endpoint: tiers, policies and rules in evaluation order, each with its hits.

Pure functions of a snapshot. Hits are per node: the same rule on another interface shares the counter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from exporter.calico.hooks import hook_name
from exporter.calico.policy_debug import PolicyProgram, Rule, Tier
from exporter.calico.rule_text import match_of, set_numbers
from exporter.calico.rules import EGRESS, INGRESS, NO_PROFILE_MATCH
from exporter.node.endpoints import WORKLOAD, Endpoint
from exporter.snapshot.rules import COUNTED_ACTIONS, DIRECTIONS, PolicyName, hook_of
from exporter.snapshot.snapshot import Snapshot

# The snapshot parts that this module needs; hits are passed in.
PARTS = frozenset({"policies", "rules", "endpoints", "counters", "rule_hits", "run_dir"})
_OFF = (
    "Calico has written no policy files here: set bpfPolicyDebugEnabled: true in the FelixConfiguration (its default)"
)


@dataclass(frozen=True, slots=True)
class CountedRule:
    """A rule with its hits, None if it has no counter or the counters could not be read.

    `match` describes what it matches, `text` is Felix's form; `ip_sets` are the numbers of its IP sets by name, None
    for one that its program does not name.
    """

    position: int
    action: str
    hits: int | None
    id: int
    match: str
    text: str
    ip_sets: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class CountedPolicy:
    """A policy under its Kubernetes name, with its rules in order."""

    name: PolicyName
    rules: tuple[CountedRule, ...]


@dataclass(frozen=True, slots=True)
class CountedTier:
    """A tier, or the profiles if its name is empty. `end_hits` is None if its end has no separate counter.

    `phase` is which packets it is for; `direction` is that of the rules, which differs from the program's for rules of
    a host endpoint `*`.
    """

    name: str
    direction: str
    policies: tuple[CountedPolicy, ...]
    end_action: str
    end_hits: int | None
    end_id: int
    phase: str


@dataclass(frozen=True, slots=True)
class CountedProgram:
    """The policy program at one hook of an endpoint, for these IP families; `error` is why it is not loaded.

    `no_profile_match` are the hits of its final deny, None if it has none or the counters could not be read.
    """

    endpoint: Endpoint
    direction: str
    hook: str
    families: tuple[int, ...]
    error: str
    tiers: tuple[CountedTier, ...]
    no_profile_match: int | None
    files: tuple[str, ...]


def programs_of(snapshot: Snapshot, endpoint: Endpoint, hits: Mapping[int, int] | None) -> list[CountedProgram]:
    """The programs of an endpoint, inbound first, IPv4 first. `hits` are by rule id, None if unknown."""
    files = [
        (name, program)
        for name, program in snapshot.policies.get().files.items()
        if program and program.about.interface == endpoint.interface
    ]
    order = [INGRESS, EGRESS, "xdp"]
    files.sort(key=lambda one: (order.index(one[1].about.direction), one[1].about.family))
    return [_program(snapshot, endpoint, name, program, hits) for name, program in files]


def why_no_files(snapshot: Snapshot, cost: str = "") -> str:
    """Why there are no policy files, and what to do about it; `cost` is what that costs."""
    if snapshot.run_dir.error:
        return str(snapshot.run_dir.error)
    return f"{_OFF}, {cost}" if cost else _OFF


def merged(programs: Sequence[CountedProgram]) -> list[CountedProgram]:
    """The programs, with those of IPv4 and IPv6 merged if their rules are the same."""
    found: list[CountedProgram] = []
    for one in programs:
        last = found[-1] if found else None
        if (
            last
            and last.endpoint == one.endpoint
            and last.hook == one.hook
            and last.error == one.error
            and _rules_of(last) == _rules_of(one)
        ):
            found[-1] = replace(
                last,
                families=(*last.families, *one.families),
                files=(*last.files, *one.files),
                tiers=tuple(map(_with_end_of, last.tiers, one.tiers)),
                no_profile_match=one.no_profile_match if last.no_profile_match is None else last.no_profile_match,
            )
        else:
            found.append(one)
    return found


def sharers(snapshot: Snapshot) -> dict[int, set[tuple[str, str]]]:
    """The existing interfaces and hooks whose tc program contains each rule id."""
    found: dict[int, set[tuple[str, str]]] = {}
    for program in snapshot.policies.get().files.values():
        endpoint = snapshot.rules.get().owners.endpoints.get(program.about.interface) if program else None
        if program and endpoint and program.about.direction in (INGRESS, EGRESS):
            hook = hook_name(hook_of(program.about.direction, workload=endpoint.kind == WORKLOAD))
            for rule_id in _ids(program):
                found.setdefault(rule_id, set()).add((endpoint.interface, hook))
    return found


def _ids(program: PolicyProgram) -> Iterator[int]:
    for tier in program.tiers:
        if tier.end_id:
            yield tier.end_id
        yield from (rule.id for policy in tier.policies for rule in policy.rules if rule.id)
    if program.counts_zero:
        yield NO_PROFILE_MATCH


def _program(
    snapshot: Snapshot, endpoint: Endpoint, name: str, program: PolicyProgram, hits: Mapping[int, int] | None
) -> CountedProgram:
    about = program.about
    counted = hits if about.direction != "xdp" else None
    # Before v3.30 id 0 also counts tier ends and accepted packets.
    zero = counted if program.counts_zero and snapshot.ends_have_ids() else None
    return CountedProgram(
        endpoint,
        DIRECTIONS[about.direction],
        hook_name(hook_of(about.direction, workload=endpoint.kind == WORKLOAD)),
        (about.family,),
        program.error,
        tuple(_tier(snapshot, program, tier, counted) for tier in program.tiers),
        None if zero is None else zero.get(NO_PROFILE_MATCH, 0),
        (name,),
    )


def _tier(snapshot: Snapshot, program: PolicyProgram, tier: Tier, hits: Mapping[int, int] | None) -> CountedTier:
    policies = []
    for policy in tier.policies:
        name = snapshot.rules.get().owners.policy_name(program, tier, policy, policy.rules[0] if policy.rules else None)
        rules = tuple(_rule(rule, hits, namespaced=bool(name.namespace)) for rule in policy.rules)
        policies.append(CountedPolicy(name, rules))
    direction = DIRECTIONS[snapshot.rules.get().owners.direction_for_owner(program, tier)]
    end_hits = hits.get(tier.end_id, 0) if hits is not None and tier.end_id else None
    endpoint = snapshot.rules.get().owners.endpoints.get(program.about.interface)
    workload = endpoint is not None and endpoint.kind == WORKLOAD
    phase = tier.phase(workload=workload, xdp=program.about.direction == "xdp")
    return CountedTier(tier.name, direction, tuple(policies), tier.end_action, end_hits, tier.end_id, phase)


def _rule(rule: Rule, hits: Mapping[int, int] | None, *, namespaced: bool) -> CountedRule:
    match = match_of(rule.text, namespaced=namespaced)
    numbers = set_numbers(rule.text, rule.ip_sets)
    counted = hits is not None and rule.action in COUNTED_ACTIONS and rule.id
    return CountedRule(
        rule.position,
        rule.action,
        hits.get(rule.id, 0) if counted and hits is not None else None,
        rule.id,
        match.words,
        rule.text,
        {name: numbers.get(name) for name in match.ip_sets},
    )


def _rules_of(program: CountedProgram) -> list[object]:
    return [
        (
            tier.name,
            tier.end_action,
            [(policy.name, [(rule.id, rule.ip_sets) for rule in policy.rules]) for policy in tier.policies],
        )
        for tier in program.tiers
    ]


def _with_end_of(tier: CountedTier, other: CountedTier) -> CountedTier:
    # A tier's end may be compiled into the program of one family only.
    return tier if tier.end_id else replace(tier, end_hits=other.end_hits, end_id=other.end_id)
