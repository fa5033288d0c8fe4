"""The rules of this node: the owner and direction of each rule id, and the problems of policy programs.

Joins policy programs with their endpoints. Pure functions of a snapshot's parts. A rule is counted once per node but
appears in many files: here it is one entry with all the ids it has in them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.calico.hooks import TC_EGRESS, TC_INGRESS, XDP, hook_name
from exporter.calico.names import is_workload_name
from exporter.calico.policy_debug import PROFILE, Policy, PolicyProgram, Rule, Tier, parse_file_name
from exporter.calico.policy_names import user_policy
from exporter.calico.rules import EGRESS, INGRESS, NO_PROFILE_MATCH, RuleHits, rule_ids, tier_end_id
from exporter.node.endpoints import WORKLOAD, Endpoint, Endpoints
from exporter.node.policies import Policies

# What stands for the kind of a policy and for the position of a rule where there is neither.
TIER, END_OF_TIER, NO_PROFILE = "Tier", "end_of_tier", "no_profile_match"
COUNTED_ACTIONS = ("allow", "deny", "pass")
DIRECTIONS = {INGRESS: "inbound", EGRESS: "outbound", "xdp": "inbound"}
_OTHER = {INGRESS: EGRESS, EGRESS: INGRESS}
# When policy debug is switched on, Felix writes the files of one interface after the other.
_WRITTEN = 5.0


@dataclass(frozen=True, slots=True, order=True)
class PolicyName:
    """A policy under its Kubernetes name: kind, namespace, name, tier, and the direction from its endpoint's view.

    A profile has no tier; its name is empty if Calico does not name it (before v3.32) and no rule id identifies it.
    """

    kind: str
    namespace: str
    name: str
    tier: str
    direction: str


@dataclass(frozen=True, slots=True, order=True)
class RuleName:
    """A rule: its policy, its position there (`end_of_tier` for a tier's end), and `allow`, `deny` or `pass`."""

    policy: PolicyName
    rule: str
    action: str


@dataclass(frozen=True, slots=True)
class RuleTable:
    """The rules counted by this node's tc programs, each with its counter ids.

    `names` are sorted and unique, `ids` are the ids of each name. `explained` are all ids except 0 that a policy file
    assigns to a named rule; `carriers` maps a policy to the existing interfaces that carry it. `ends_have_ids` is
    whether tier ends have separate ids (v3.30), None if no file shows it.
    """

    names: tuple[RuleName, ...]
    ids: tuple[tuple[int, ...], ...]
    explained: frozenset[int]
    carriers: Mapping[PolicyName, frozenset[str]]
    ends_have_ids: bool | None

    def hits(self, hits: RuleHits) -> list[int]:
        """The hits of each name."""
        return [sum([hits.get(one, 0) for one in ids]) for ids in self.ids]


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """An endpoint's policy program for one hook and IP family that is not loaded, and why."""

    endpoint: Endpoint
    hook: str
    direction: str
    family: int
    why: str


@dataclass(frozen=True, slots=True)
class _Content:
    """The content of a tier, shared by its endpoints: its policies, and (rule, id, action in the file) of each rule."""

    policies: frozenset[PolicyName]
    rules: tuple[tuple[RuleName, int, str], ...]


class RuleOwners:
    """Resolves the owners of rules: the kind of a program's interface, and the names and directions of its rules."""

    def __init__(
        self, known: Iterable[Endpoint], prefixes: Sequence[str], programs: Iterable[PolicyProgram] = ()
    ) -> None:
        self.endpoints = {one.interface: one for one in known}
        self._prefixes = prefixes
        self._contents: dict[tuple[int, str, bool], _Content] = {}
        self._profiles = dict(self._unnamed_profiles(programs))

    def is_workload(self, interface: str) -> bool:
        """Whether the interface is a pod's; decided by its name if it no longer exists."""
        endpoint = self.endpoints.get(interface)
        return endpoint.kind == WORKLOAD if endpoint else is_workload_name(interface, self._prefixes)

    def direction_for_owner(self, program: PolicyProgram, tier: Tier) -> str:
        """`ingress` or `egress`: the direction of this tier's rules from their endpoint's view.

        A pod's program also carries the policy of a host endpoint `*`, to which the pod's outbound packets are ingress.
        """
        given = EGRESS if program.about.direction == EGRESS else INGRESS
        if program.about.direction not in _OTHER or not self.is_workload(program.about.interface):
            return given
        by_id = _direction_by_id(tier, given, self._profile(program))
        return by_id or (_OTHER[given] if tier.before_workload else given)

    def content(self, program: PolicyProgram, tier: Tier) -> _Content:
        """The policies and rules of a tier in `program`, under their Kubernetes names."""
        workload = self.is_workload(program.about.interface)
        key = (id(tier), program.about.direction, workload)
        if key not in self._contents:
            self._contents[key] = self._content(program, tier)
        return self._contents[key]

    def policy_name(self, program: PolicyProgram, tier: Tier, policy: Policy, rule: Rule | None) -> PolicyName:
        """The policy under its Kubernetes name; an unnamed profile is identified by the id of its `rule`."""
        return self._policy_name(self.direction_for_owner(program, tier), tier, policy, rule)

    def _content(self, program: PolicyProgram, tier: Tier) -> _Content:
        word = self.direction_for_owner(program, tier)
        policies = set()
        rules = []
        for policy in tier.policies:
            for rule in policy.rules:
                name = self._policy_name(word, tier, policy, rule)
                policies.add(name)
                rules.append((RuleName(name, str(rule.position), rule.action), rule.id, rule.action))
            if policy.name:
                policies.add(self._policy_name(word, tier, policy, None))
        if tier.end_id:
            end = PolicyName(TIER, "", "", tier.name, DIRECTIONS[word])
            action = tier.end_action or "deny"  # Felix's default
            rules.append((RuleName(end, END_OF_TIER, action), tier.end_id, action))
        return _Content(frozenset(one for one in policies if one.name), tuple(rules))

    def _policy_name(self, word: str, tier: Tier, policy: Policy, rule: Rule | None) -> PolicyName:
        if policy.kind == PROFILE:
            profile = policy.name or (self._profiles.get(rule.id, "") if rule else "")
            return PolicyName(PROFILE, "", profile, "", DIRECTIONS[word])
        return PolicyName(*user_policy(policy.kind, policy.name, tier.name), tier.name, DIRECTIONS[word])

    def _profile(self, program: PolicyProgram) -> str:
        endpoint = self.endpoints.get(program.about.interface)
        return f"kns.{endpoint.namespace}" if endpoint and endpoint.namespace else ""

    def _unnamed_profiles(self, programs: Iterable[PolicyProgram]) -> Iterator[tuple[int, str]]:
        """Rule ids of profiles that no file names (before v3.32), each with the profile that yields that id."""
        for program in programs:
            profile, direction = self._profile(program), program.about.direction
            unnamed = (policy for tier in program.tiers for policy in tier.policies if policy.kind == PROFILE)
            for rule in (rule for policy in unnamed if profile and not policy.name for rule in policy.rules):
                counted = rule.action in COUNTED_ACTIONS and direction in _OTHER
                if counted and rule.id in rule_ids(rule.action, direction, rule.position, "profile", "", profile):
                    yield rule.id, profile


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a node with their owners, their problems, and the inputs they were derived from.

    `absent` are the policy files that other interfaces have and a ready one has not, each since when it is not there;
    `waiting` is whether one of them is not a problem yet.
    """

    files: Mapping[str, PolicyProgram | None]
    unread: tuple[str, ...]
    endpoints: Endpoints
    owners: RuleOwners
    table: RuleTable
    problems: list[PolicyProblem]
    absent: Mapping[tuple[str, str, int], float]
    waiting: bool


def hook_of(direction: str, *, workload: bool) -> int:
    """The hook that enforces `ingress`, `egress` or `xdp` policy: packets to a pod are egress for the host."""
    if direction == "xdp":
        return XDP
    return TC_EGRESS if (direction == INGRESS) == workload else TC_INGRESS


def join_rules(
    policies: Policies, endpoints: Endpoints, prefixes: Sequence[str], before: "Rules | None", now: float
) -> "Rules":
    """The rules of a node at `now`, in seconds on a monotonic clock; reuses `before` where its inputs are unchanged."""
    programs = [program for program in policies.files.values() if program]
    same = before is not None and before.files is policies.files and before.endpoints is endpoints
    if before and same and before.unread == policies.unread and not before.waiting:
        return before
    owners = before.owners if before and same else RuleOwners(endpoints.by_index.values(), prefixes, programs)
    table = before.table if before and same else rule_table(programs, owners)
    absent = _absent(policies, owners, before, now)
    overdue = [file for file, since in absent.items() if now - since >= _WRITTEN]
    # Without the kernel's links, an interface in Calico's state may be gone.
    problems = policy_problems(policies, owners, overdue) if endpoints.links_known else []
    waiting = len(overdue) < len(absent)
    return Rules(policies.files, policies.unread, endpoints, owners, table, problems, absent, waiting)


def rule_table(programs: Iterable[PolicyProgram], owners: RuleOwners) -> RuleTable:
    """The rules of these programs. A host's file overrides a pod's, which may contain rules of the host."""
    name_of: dict[int, RuleName] = {}
    explained: set[int] = set()
    carriers: dict[PolicyName, set[str]] = {}
    ends: set[bool] = set()
    for program in sorted(programs, key=lambda one: (owners.is_workload(one.about.interface), str(one.about))):
        at_tc, alive = program.about.direction in _OTHER, program.about.interface in owners.endpoints
        for tier in program.tiers:
            content = owners.content(program, tier)
            ends |= {bool(tier.end_action)} if tier.name else set()
            # Unnamed profiles would share one series, which would decrease whenever one is deleted.
            named = [one for one in content.rules if one[0].policy.name or one[0].policy.kind == TIER]
            explained.update(rule_id for _, rule_id, _ in named)
            for name, rule_id, action in named if at_tc else ():
                if rule_id and action in COUNTED_ACTIONS:
                    name_of.setdefault(rule_id, name)
            for policy in content.policies if alive else ():
                carriers.setdefault(policy, set()).add(program.about.interface)
    ids_of: dict[RuleName, list[int]] = {}
    for rule_id, name in name_of.items():
        ids_of.setdefault(name, []).append(rule_id)
    return RuleTable(
        tuple(sorted(ids_of)),
        tuple(tuple(ids_of[name]) for name in sorted(ids_of)),
        frozenset(explained - {NO_PROFILE_MATCH}),
        {name: frozenset(interfaces) for name, interfaces in carriers.items()},
        True in ends if ends else None,
    )


def policy_problems(
    policies: Policies, owners: RuleOwners, absent: Iterable[tuple[str, str, int]]
) -> list[PolicyProblem]:
    """Endpoints whose program has an error, and those without one: the files that are `absent`."""
    problems = [
        _problem(owners.endpoints[one.about.interface], one.about.direction, one.about.family, one.error)
        for one in policies.files.values()
        if one and one.error and one.about.interface in owners.endpoints
    ]
    return problems + [
        _problem(owners.endpoints[interface], direction, family, "Calico has written no policy file for it")
        for interface, direction, family in absent
    ]


def _absent(
    policies: Policies, owners: RuleOwners, before: Rules | None, now: float
) -> dict[tuple[str, str, int], float]:
    """See `Rules`. What is absent in a first snapshot counts as overdue: a command takes no second one."""
    unread = filter(None, map(parse_file_name, policies.unread))
    programs = (one.about for one in policies.files.values() if one)
    have = {(one.interface, one.direction, one.family) for one in [*programs, *unread]}
    common = {(direction, family) for interface, direction, family in have if interface in owners.endpoints}
    absent = {}
    for endpoint in owners.endpoints.values():
        for direction, family in sorted(common):
            expected = direction in _OTHER and endpoint.kind == WORKLOAD and endpoint.state is not None
            ready = expected and endpoint.state is not None and endpoint.state.ready(family)
            file = endpoint.interface, direction, family
            if ready and file not in have:
                absent[file] = before.absent.get(file, now) if before else now - _WRITTEN
    return absent


def _problem(endpoint: Endpoint, direction: str, family: int, why: str) -> PolicyProblem:
    hook = hook_of(direction, workload=endpoint.kind == WORKLOAD)
    return PolicyProblem(endpoint, hook_name(hook), DIRECTIONS[direction], family, why)


def _direction_by_id(tier: Tier, given: str, profile: str) -> str | None:
    """The direction for which a release's formula yields an id of this tier; None if none does (flow logs on)."""
    for direction in (given, _OTHER[given]):
        if tier.end_id and tier_end_id(tier.end_action or "deny", direction, tier.name) == tier.end_id:
            return direction
        for policy in tier.policies:
            owner = "profile" if policy.kind == PROFILE else "policy"
            for rule in policy.rules:
                ids = rule_ids(rule.action, direction, rule.position, owner, policy.kind, policy.name or profile)
                if rule.id and rule.action in COUNTED_ACTIONS and rule.id in ids:
                    return direction
    return None
