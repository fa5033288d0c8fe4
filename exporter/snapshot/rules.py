"""The rules of this node: whose each rule id is, which way it looks, and what is wrong with a policy program.

Joins the policy programs with the endpoints that carry them. Pure over what a look has read. A rule is counted once per
node and stands in many files: here it is one, with all the ids that files give it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporter.calico.hooks import TC_EGRESS, TC_INGRESS, XDP, hook_name
from exporter.calico.names import has_workload_prefix
from exporter.calico.policy_debug import PROFILE, Policy, PolicyProgram, Rule, Tier, parse_file_name
from exporter.calico.rules import EGRESS, INGRESS, NO_PROFILE_MATCH, RuleHits, rule_ids, tier_end_id
from exporter.node.endpoints import WORKLOAD, Endpoint, Endpoints
from exporter.node.policies import Policies

TIER, END_OF_TIER = "Tier", "end_of_tier"
COUNTED_ACTIONS = ("allow", "deny", "pass")
DIRECTIONS = {INGRESS: "inbound", EGRESS: "outbound", "xdp": "inbound"}
_OTHER = {INGRESS: EGRESS, EGRESS: INGRESS}
_PREFIXED_KINDS = ("NetworkPolicy", "GlobalNetworkPolicy")
_KUBERNETES, _KUBERNETES_PREFIX = "KubernetesNetworkPolicy", "knp.default."


@dataclass(frozen=True, slots=True, order=True)
class PolicyName:
    """A policy as its user calls it: kind, namespace, name, tier, and `inbound` or `outbound` as its endpoint sees it.

    A profile has no tier; one that Calico does not name (before v3.32) and nothing else tells has an empty name.
    """

    kind: str
    namespace: str
    name: str
    tier: str
    direction: str


@dataclass(frozen=True, slots=True, order=True)
class RuleName:
    """A rule: its policy, its place there (`end_of_tier` for a tier's end), and `allow`, `deny` or `pass`."""

    policy: PolicyName
    rule: str
    action: str


@dataclass(frozen=True, slots=True)
class RuleTable:
    """The rules that tc programs of this node count, each with the ids of its counters.

    `names` are sorted and each stands once, `ids` are those of each name. `explained` are all ids but 0 that a file
    gives to something with a name; `carriers` says which existing interfaces carry a policy. `ends_have_ids` says
    whether tier ends have ids of their own (v3.30), None where no file tells.
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
    """An endpoint whose policy program of one hook and IP family is not in place, and why."""

    endpoint: Endpoint
    hook: str
    direction: str
    family: int
    why: str


@dataclass(frozen=True, slots=True)
class _Content:
    """What a tier holds for everyone who carries it: its policies, and (rule, id, action in the file) of each rule."""

    policies: frozenset[PolicyName]
    rules: tuple[tuple[RuleName, int, str], ...]


class RuleOwners:
    """Answers for policy programs: the kind of their interface, and the names and directions of what they carry."""

    def __init__(
        self, known: Iterable[Endpoint], prefixes: Sequence[str], programs: Iterable[PolicyProgram] = ()
    ) -> None:
        self.endpoints = {one.interface: one for one in known}
        self._prefixes = prefixes
        self._contents: dict[tuple[int, str, bool], _Content] = {}
        self._profiles = dict(self._nameless_profiles(programs))

    def is_workload(self, interface: str) -> bool:
        """Whether the interface is a pod's; one that is gone by its name."""
        endpoint = self.endpoints.get(interface)
        return endpoint.kind == WORKLOAD if endpoint else has_workload_prefix(interface, self._prefixes)

    def direction_for_owner(self, program: PolicyProgram, tier: Tier) -> str:
        """`ingress` or `egress`: what a rule of this tier is to its own endpoint.

        A pod's program carries the policy of a host endpoint `*` too, which sees the pod's outbound packets come in.
        """
        given = EGRESS if program.about.direction == EGRESS else INGRESS
        if program.about.direction not in _OTHER or not self.is_workload(program.about.interface):
            return given
        by_id = _direction_by_id(tier, given, self._profile(program))
        return by_id or (_OTHER[given] if tier.before_workload else given)

    def content(self, program: PolicyProgram, tier: Tier) -> _Content:
        """The policies and rules of a tier that `program` carries, under their users' names."""
        workload = self.is_workload(program.about.interface)
        key = (id(tier), program.about.direction, workload)
        if key not in self._contents:
            self._contents[key] = self._content(program, tier)
        return self._contents[key]

    def policy_name(self, program: PolicyProgram, tier: Tier, policy: Policy, rule: Rule | None) -> PolicyName:
        """The policy as its user calls it; a nameless profile's name is found by the id of its `rule`."""
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
            action = tier.end_action or "deny"  # what Felix does where nothing is said
            rules.append((RuleName(end, END_OF_TIER, action), tier.end_id, action))
        return _Content(frozenset(one for one in policies if one.name), tuple(rules))

    def _policy_name(self, word: str, tier: Tier, policy: Policy, rule: Rule | None) -> PolicyName:
        if policy.kind == PROFILE:
            profile = policy.name or (self._profiles.get(rule.id, "") if rule else "")
            return PolicyName(PROFILE, "", profile, "", DIRECTIONS[word])
        return PolicyName(*users_name(policy, tier.name), tier.name, DIRECTIONS[word])

    def _profile(self, program: PolicyProgram) -> str:
        endpoint = self.endpoints.get(program.about.interface)
        return f"kns.{endpoint.namespace}" if endpoint and endpoint.namespace else ""

    def _nameless_profiles(self, programs: Iterable[PolicyProgram]) -> Iterator[tuple[int, str]]:
        """The ids of rules of profiles that no file names (before v3.32), and the profile whose pod gives that id."""
        for program in programs:
            profile, direction = self._profile(program), program.about.direction
            nameless = (policy for tier in program.tiers for policy in tier.policies if policy.kind == PROFILE)
            for rule in (rule for policy in nameless if profile and not policy.name for rule in policy.rules):
                counted = rule.action in COUNTED_ACTIONS and direction in _OTHER
                if counted and rule.id in rule_ids(rule.action, direction, rule.position, "profile", "", profile):
                    yield rule.id, profile


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a node, whose they are, whose are not in place, and what that was made from."""

    files: Mapping[str, PolicyProgram | None]
    unread: tuple[str, ...]
    endpoints: Endpoints
    whose: RuleOwners
    table: RuleTable
    problems: list[PolicyProblem]


def hook_of(direction: str, *, workload: bool) -> int:
    """The hook that enforces `ingress`, `egress` or `xdp` policy: what goes into a pod leaves the host."""
    if direction == "xdp":
        return XDP
    return TC_EGRESS if (direction == INGRESS) == workload else TC_INGRESS


def users_name(policy: Policy, tier: str) -> tuple[str, str, str]:
    """Kind, namespace and name as the user gave them, the same in every release."""
    namespace, slash, name = policy.name.rpartition("/")
    kind = policy.kind or ("NetworkPolicy" if slash else "GlobalNetworkPolicy")
    if slash and policy.kind in ("", _KUBERNETES) and name.startswith(_KUBERNETES_PREFIX):
        return _KUBERNETES, namespace, name.removeprefix(_KUBERNETES_PREFIX)
    if tier == "default" and kind in _PREFIXED_KINDS:
        # v3.31 and older write the tier before the name, and a policy made there keeps that in v3.32.
        name = name.removeprefix("default.")
    return kind, namespace, name


def join_rules(policies: Policies, endpoints: Endpoints, prefixes: Sequence[str], before: "Rules | None") -> "Rules":
    """The rules of a node; what was made `before` from the very same files and endpoints is used again."""
    programs = [program for program in policies.files.values() if program]
    same = before is not None and before.files is policies.files and before.endpoints is endpoints
    if before and same and before.unread == policies.unread:
        return before
    whose = before.whose if before and same else RuleOwners(endpoints.by_index.values(), prefixes, programs)
    table = before.table if before and same else rule_table(programs, whose)
    return Rules(policies.files, policies.unread, endpoints, whose, table, policy_problems(policies, whose))


def rule_table(programs: Iterable[PolicyProgram], whose: RuleOwners) -> RuleTable:
    """The rules of these programs. An id has one name, that of a host's file before that of a pod's, which may carry
    rules of a host.
    """
    name_of: dict[int, RuleName] = {}
    explained: set[int] = set()
    carriers: dict[PolicyName, set[str]] = {}
    ends: set[bool] = set()
    for program in sorted(programs, key=lambda one: (whose.is_workload(one.about.interface), str(one.about))):
        at_tc, alive = program.about.direction in _OTHER, program.about.interface in whose.endpoints
        for tier in program.tiers:
            content = whose.content(program, tier)
            ends |= {bool(tier.end_action)} if tier.name else set()
            # Nameless profiles would share one series, which falls whenever one of them goes.
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


def policy_problems(policies: Policies, whose: RuleOwners) -> list[PolicyProblem]:
    """Endpoints whose program carries an error, or that are ready and have none while others have."""
    programs = [one for one in policies.files.values() if one]
    problems = [
        _problem(whose.endpoints[one.about.interface], one.about.direction, one.about.family, one.error)
        for one in programs
        if one.error and one.about.interface in whose.endpoints
    ]
    unread = filter(None, map(parse_file_name, policies.unread))
    have = {(one.interface, one.direction, one.family) for one in [*(one.about for one in programs), *unread]}
    common = {(direction, family) for interface, direction, family in have if interface in whose.endpoints}
    for endpoint in whose.endpoints.values():
        for direction, family in sorted(common):
            expected = direction in _OTHER and endpoint.kind == WORKLOAD and endpoint.state is not None
            ready = expected and endpoint.state is not None and endpoint.state.ready(family)
            if ready and (endpoint.interface, direction, family) not in have:
                problems.append(_problem(endpoint, direction, family, "Calico has written no policy file for it"))
    return problems


def _problem(endpoint: Endpoint, direction: str, family: int, why: str) -> PolicyProblem:
    hook = hook_of(direction, workload=endpoint.kind == WORKLOAD)
    return PolicyProblem(endpoint, hook_name(hook), DIRECTIONS[direction], family, why)


def _direction_by_id(tier: Tier, given: str, profile: str) -> str | None:
    """The direction for which some release's formula gives an id of this tier; None where none does (flow logs on)."""
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
