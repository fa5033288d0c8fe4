"""Collector `rules`: how often each policy rule and each tier's end was hit, once per node and rule.

One number holds the hits of all interfaces and both IP families: which pod it was is in no map. Deny hits are packets,
allow hits are new flows, and a packet adds one to every rule it passes on its way.
"""

from collections.abc import Iterator

import numpy as np

from exporter.calico.rules import NO_PROFILE_MATCH
from exporter.metrics.endpoints import PROBLEMS
from exporter.metrics.family import COUNTER, GAUGE, Family, Samples
from exporter.snapshot.rules import PolicyName, RuleName, RuleTable
from exporter.snapshot.take import Snapshot

_POLICY_LABELS = ("kind", "policy_namespace", "policy", "tier", "direction")
HITS = Family(
    "calico_bpf_policy_rule_hits_total",
    COUNTER,
    "Hits of a policy rule or a tier's end on this node, all interfaces together: packets where the action is deny, "
    "new flows where it is allow, either where it is pass; XDP and Log rules are not counted.",
    (*_POLICY_LABELS, "rule", "action"),
)
NO_PROFILE_MATCH_HITS = Family(
    "calico_bpf_no_profile_match_hits_total",
    COUNTER,
    "Packets denied because no profile of an endpoint matched, both directions together; also each packet of a pod "
    "whose workload endpoint Calico does not know yet.",
)
UNATTRIBUTED_IDS = Family(
    "calico_bpf_unattributed_rule_ids",
    GAUGE,
    "Rule ids with a counter to which no policy file gives a name, such as those of deleted policies.",
)
UNATTRIBUTED_HITS = Family(
    "calico_bpf_unattributed_rule_hits_total",
    COUNTER,
    "Hits of a rule id to which no policy file gives a name; id 0 before Calico v3.30 holds tier ends and accepted "
    "packets together and is no count of drops.",
    ("rule_id",),
)
POLICY_INTERFACES = Family(
    "calico_bpf_policy_interfaces",
    GAUGE,
    "Interfaces of this node that carry the policy in this direction.",
    _POLICY_LABELS,
)
DEBUG_FILES = Family(
    "calico_bpf_policy_debug_files",
    GAUGE,
    "Policy debug files that were read; 0 while Calico's bpfPolicyDebugEnabled is off, and then no rule has a sample.",
)
POLICY_ERROR = Family(
    "calico_bpf_endpoint_policy_error",
    GAUGE,
    "1 while Calico could not load the policy program of an endpoint, or has none for a ready pod while others have "
    "one; absent otherwise.",
    ("interface", "hook", "direction", "namespace", "pod", "ip_family"),
)
FAMILIES = (
    HITS,
    NO_PROFILE_MATCH_HITS,
    UNATTRIBUTED_IDS,
    UNATTRIBUTED_HITS,
    POLICY_INTERFACES,
    DEBUG_FILES,
    POLICY_ERROR,
)


class RulesCollector:
    """`unattributed` adds a series for each id that no file explains. What stands before the values is kept while the
    rules are the same.
    """

    name = "rules"

    def __init__(self, *, unattributed: bool = False) -> None:
        self._unattributed = unattributed
        self._table: RuleTable | None = None
        self._lines = b""
        self._interfaces = Samples(POLICY_INTERFACES)

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this file, from the live rule counter map and the policy files."""
        found, table, files = snapshot.rule_hits, snapshot.rules.table, snapshot.policies
        if self._table is not table:
            self._table, self._lines = table, b"".join([HITS.line(_rule_labels(name)) for name in table.names])
            rows = ((_policy_labels(name), len(interfaces)) for name, interfaces in sorted(table.carriers.items()))
            self._interfaces = Samples(POLICY_INTERFACES, rows)
        hits = Samples(HITS)
        hits.pieces, hits.values = [self._lines], table.hits(found.of(table.ids)).tolist()
        problems = Samples(POLICY_ERROR, ((labels, 1) for labels in sorted(_errors(snapshot))))
        read = sum(one is not None for one in files.files.values())
        return [
            hits,
            *self._of_no_name(snapshot, has_files=read > 0),
            self._interfaces,
            Samples(DEBUG_FILES, [((), read)]),
            problems,
            Samples(PROBLEMS, [(("policy_error",), len(problems.values))]),
        ]

    def _of_no_name(self, snapshot: Snapshot, *, has_files: bool) -> Iterator[Samples]:
        found, ends_have_ids = snapshot.rule_hits, snapshot.ends_have_ids if has_files else None
        of_zero = int(found.of(np.array([NO_PROFILE_MATCH], np.uint64))[0])
        strange = ~np.isin(found.ids, snapshot.rules.table.explained)
        if ends_have_ids:
            yield Samples(NO_PROFILE_MATCH_HITS, [((), of_zero)])
            strange &= found.ids != NO_PROFILE_MATCH
        yield Samples(UNATTRIBUTED_IDS, [((), int(strange.sum()))])
        unattributed = Samples(UNATTRIBUTED_HITS)
        if ends_have_ids is False:
            unattributed.add((str(NO_PROFILE_MATCH),), of_zero)
            strange &= found.ids != NO_PROFILE_MATCH
        if self._unattributed:
            for rule_id, hits in zip(found.ids[strange].tolist(), found.hits[strange].tolist(), strict=True):
                unattributed.add((str(rule_id),), hits)
        yield unattributed


def _policy_labels(name: PolicyName) -> tuple[str, ...]:
    return (name.kind, name.namespace, name.name, name.tier, name.direction)


def _rule_labels(name: RuleName) -> tuple[str, ...]:
    return (*_policy_labels(name.policy), name.rule, name.action)


def _errors(snapshot: Snapshot) -> set[tuple[str, ...]]:
    return {
        (one.endpoint.interface, one.hook, one.direction, one.endpoint.namespace, one.endpoint.pod, str(one.family))
        for one in snapshot.rules.problems
    }
