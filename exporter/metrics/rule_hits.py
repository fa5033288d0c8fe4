"""The hits of policy rules as samples: which zeros are exposed, and whether rules or whole policies have series.

With detail `policy` a series sums the increments of its rules since the exporter's start: a rule that is deleted, or
counters that Felix resets, do not make it fall.
"""

from collections.abc import Sequence
from itertools import compress

from exporter.calico.rules import RuleHits
from exporter.diagnosis.changes import increase
from exporter.metrics.family import COUNTER, Family, Samples
from exporter.snapshot.rules import END_OF_TIER, PolicyName, RuleName, RuleTable

DETAILS = ("rule", "policy")
POLICY_LABELS = ("kind", "policy_namespace", "policy", "tier", "direction")
HITS = Family(
    "calico_bpf_policy_rule_hits_total",
    COUNTER,
    "Hits of a policy rule or a tier's end on this node, summed over interfaces: packets where the action is deny, "
    "new flows where it is allow, either where it is pass; XDP and Log rules are not counted.",
    (*POLICY_LABELS, "rule", "action"),
)


class RuleHitSamples:
    """Makes the samples of `HITS`; caches lines while the same rules are exposed."""

    def __init__(self, zeros: str, detail: str) -> None:
        self._zeros = zeros
        self._policies = PolicyHits() if detail == "policy" else None
        self._shown: list[RuleName] = []
        self._lines = b""

    def of(self, table: RuleTable, hits: RuleHits) -> Samples:
        """The samples of the rules of `table`."""
        names, values = self._policies.of(table, hits) if self._policies else (table.names, table.hits(hits))
        exposed = [value > 0 or self._exposes_zero(name) for name, value in zip(names, values, strict=True)]
        shown = list(compress(names, exposed))
        if shown != self._shown:
            self._shown, self._lines = shown, b"".join([HITS.line(_labels(name)) for name in shown])
        return Samples.of(HITS, self._lines, list(compress(values, exposed)))

    def _exposes_zero(self, name: RuleName) -> bool:
        core = name.action == "deny" or name.rule == END_OF_TIER
        return self._zeros == "all" or (self._zeros == "core" and core)


class PolicyHits:
    """Sums the increments of the rules of each policy and action between snapshots; a tier's end is its own policy."""

    def __init__(self) -> None:
        self._last: RuleHits | None = None
        self._totals: dict[RuleName, int] = {}

    def of(self, table: RuleTable, hits: RuleHits) -> tuple[Sequence[RuleName], list[int]]:
        """The policies of `table` with their actions, and what their rules counted since the first call."""
        # The first snapshot is where counting starts; later, an id without an earlier value has counted from 0.
        last = hits if self._last is None else self._last
        increments = {one: increase(count, last.get(one, 0)) for one, count in hits.items()}
        self._last = dict(hits)
        names = [_whole(name) for name in table.names]
        for name, ids in zip(names, table.ids, strict=True):
            self._totals[name] = self._totals.get(name, 0) + sum(increments.get(one, 0) for one in ids)
        known = sorted(set(names))
        return known, [self._totals[name] for name in known]


def _whole(name: RuleName) -> RuleName:
    return name if name.rule == END_OF_TIER else RuleName(name.policy, "", name.action)


def policy_labels(name: PolicyName) -> tuple[str, ...]:
    """The values of `POLICY_LABELS`."""
    return (name.kind, name.namespace, name.name, name.tier, name.direction)


def _labels(name: RuleName) -> tuple[str, ...]:
    return (*policy_labels(name.policy), name.rule, name.action)
