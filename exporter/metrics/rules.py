"""Collector `rules`: hits of each policy rule and each tier's end, per node.

A counter sums over all interfaces and both IP families: no map has hits per pod. Deny hits are packets, allow hits are
new flows, and a packet increments every pass rule on its way.
"""

from collections.abc import Iterator

from exporter.calico.rules import NO_PROFILE_MATCH, RuleHits
from exporter.metrics.collector import DEFAULTS, CollectorOptions
from exporter.metrics.endpoints import PROBLEMS
from exporter.metrics.family import COUNTER, GAUGE, Family, Samples
from exporter.metrics.rule_hits import HITS, POLICY_LABELS, RuleHitSamples, policy_labels
from exporter.snapshot.rules import Rules, RuleTable
from exporter.snapshot.snapshot import Snapshot

NO_PROFILE_MATCH_HITS = Family(
    "calico_bpf_no_profile_match_hits_total",
    COUNTER,
    "Packets denied because no profile of an endpoint matched, in both directions; also each packet of a pod "
    "whose workload endpoint Calico does not know yet.",
)
UNATTRIBUTED_IDS = Family(
    "calico_bpf_unattributed_rule_ids",
    GAUGE,
    "Rule ids with a counter that no policy file names, such as those of deleted policies.",
)
UNATTRIBUTED_HITS = Family(
    "calico_bpf_unattributed_rule_hits_total",
    COUNTER,
    "Hits of a rule id that no policy file names; id 0 before Calico v3.30 counts tier ends and accepted "
    "packets together, not drops.",
    ("rule_id",),
)
POLICY_INTERFACES = Family(
    "calico_bpf_policy_interfaces",
    GAUGE,
    "Interfaces of this node to which the policy applies in this direction; also of policies without rules.",
    POLICY_LABELS,
)
DEBUG_FILES = Family(
    "calico_bpf_policy_debug_files",
    GAUGE,
    "Policy debug files that were read; 0 while Calico's bpfPolicyDebugEnabled is off, then no rule has a series. "
    "Absent where none could be read.",
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
    """`unattributed` adds a series for each id that no file names. Caches what does not change with the rules."""

    name = "rules"
    about = "Hits of policy rules and tier ends."
    on_by_default = True
    parts = frozenset({"rule_hits", "rules", "counters", "run_dir"})

    def __init__(self, options: CollectorOptions = DEFAULTS) -> None:
        self._unattributed = options.unattributed
        self._hits = RuleHitSamples(options.rules_zeros, options.rules_detail)
        self._table: RuleTable | None = None
        self._interfaces = Samples(POLICY_INTERFACES)

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """The families of this module, from the live rule counter map and the policy files."""
        found, rules, files = snapshot.rule_hits.get(), snapshot.rules.get(), snapshot.policies.get()
        table = rules.table
        if self._table is not table:
            self._table = table
            rows = ((policy_labels(name), len(interfaces)) for name, interfaces in sorted(table.carriers.items()))
            self._interfaces = Samples(POLICY_INTERFACES, rows)
        errors = Samples(POLICY_ERROR, ((labels, 1) for labels in sorted(_errors(rules))))
        # Without the kernel's links, the interface state or files that are there it is not known what is missing.
        known = rules.endpoints.links_known and rules.endpoints.states_known
        read = sum(one is not None for one in files.files.values())
        unknown = not read and bool(files.unread or snapshot.run_dir.error)
        return [
            self._hits.of(table, found),
            *self._unattributed_samples(found, table, snapshot.ends_have_ids() if read else None),
            self._interfaces,
            Samples(DEBUG_FILES, () if unknown else [((), read)]),
            errors,
            Samples(PROBLEMS, [(("policy_error",), len(errors.values))] if known and not unknown else ()),
        ]

    def _unattributed_samples(self, found: RuleHits, table: RuleTable, ends_have_ids: bool | None) -> Iterator[Samples]:  # noqa: FBT001  a fact
        of_zero = found.get(NO_PROFILE_MATCH, 0)
        unexplained = found.keys() - table.explained
        if ends_have_ids:
            yield Samples(NO_PROFILE_MATCH_HITS, [((), of_zero)])
            unexplained -= {NO_PROFILE_MATCH}
        yield Samples(UNATTRIBUTED_IDS, [((), len(unexplained))])
        unattributed = Samples(UNATTRIBUTED_HITS)
        if ends_have_ids is False:
            unattributed.add((str(NO_PROFILE_MATCH),), of_zero)
            unexplained -= {NO_PROFILE_MATCH}
        for rule_id in sorted(unexplained) if self._unattributed else ():
            unattributed.add((str(rule_id),), found[rule_id])
        yield unattributed


def _errors(rules: Rules) -> set[tuple[str, ...]]:
    return {
        (one.endpoint.interface, one.hook, one.direction, one.endpoint.namespace, one.endpoint.pod, str(one.family))
        for one in rules.problems
    }
