"""What the two pages show: the whole node, and one endpoint. Facts only, ready to be written into a template.

A part that could not be read is a sentence in its place; the other parts are there all the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from exporter.bpf.maps import MapError
from exporter.calico import LayoutError
from exporter.calico.counters import DROPPED, Slot
from exporter.calico.hooks import direction, hook_name
from exporter.calico.pins import COUNTERS, IFACE, RULES
from exporter.calico.reasons import page_of, reason_of
from exporter.node import NodeError
from exporter.node.endpoints import UNKNOWN, WORKLOAD, Endpoint
from exporter.page.traffic import Counted, Traffic, added_up, for_reason, traffic
from exporter.snapshot.by_endpoint import EndpointCounters, counters_by_endpoint
from exporter.snapshot.changes import compare_counters, compare_rules
from exporter.snapshot.check import OK, Finding, findings
from exporter.snapshot.explain import explain
from exporter.snapshot.rules_by_endpoint import CountedProgram, merged, programs_of
from exporter.snapshot.sentences import sentences
from exporter.snapshot.take import Snapshot
from exporter.snapshot.timed import TimedLook

# A browser shows so many rows without effort, and a map full of leftovers has twenty thousand.
MOST_ROWS = 600

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows a person wants to see: of one namespace, of pods whose name has this in it, with drops of a reason."""

    namespace: str = ""
    pod: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MapFill:
    """A map of Calico's: what is in it and what fits in; None where the live one of several is not known."""

    datum: str
    pin: str
    chosen_by: str
    entries: int | None = None
    max_entries: int | None = None


@dataclass(frozen=True, slots=True)
class NodeView:
    """The whole node. `problem` says why there are no `rows`; `left_out` is how many more there would be."""

    problem: str
    rows: Sequence[Traffic]
    left_out: int
    ever: Counted
    lately: Counted
    seconds: float | None
    endpoints: int
    namespaces: Sequence[str]
    reasons: Sequence[str]
    findings: Sequence[Finding]
    maps: Sequence[MapFill]

    @property
    def wrong(self) -> int:
        """How many findings are not as they should be."""
        return sum(one.state != OK for one in self.findings)


@dataclass(frozen=True, slots=True)
class CounterRow:
    """One slot of an endpoint that ever counted: its values at each hook, those of `lately` None where not known."""

    slot: Slot
    ever: Sequence[int]
    lately: Sequence[int | None]

    @property
    def drops(self) -> bool:
        """Whether it counts dropped packets."""
        return self.slot.category == DROPPED

    @property
    def meaning(self) -> str:
        """What its drops mean, in a sentence."""
        return reason_of(self.slot.reason).meaning

    @property
    def link(self) -> str:
        """Where to read more about its reason."""
        return page_of(self.slot.reason)


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint: why it loses packets, what its programs counted, and its policy with the hits of each rule.

    `lines` are sentences with their style; `hooks` are the columns of `counters`: a hook's name and direction. `hits`
    are by rule id within the last `seconds`, None where they are not known.
    """

    endpoint: Endpoint
    seconds: float | None
    why: Sequence[tuple[str, str]] = ()
    why_problem: str = ""
    hooks: Sequence[tuple[str, str]] = ()
    counters: Sequence[CounterRow] = ()
    programs: Sequence[CountedProgram] = ()
    policy_problem: str = ""
    hits: Mapping[int, int] | None = None


def node_view(before: TimedLook | None, now: TimedLook | None, look: Snapshot, wanted: Wanted) -> NodeView:
    """The node as `look` has it: `now` is the same look with its counters read, None if they could not be."""
    rows, problem = _part(lambda: _rows(before, now, look))
    namespaces = sorted({row.endpoint.namespace for row in rows or ()} - {""})
    reasons = {reason for row in rows or () for reason in row.ever.dropped}
    chosen = [row for row in rows or () if _is_wanted(row.endpoint, wanted)]
    chosen = for_reason(chosen, wanted.reason) if wanted.reason else chosen
    return NodeView(
        problem=problem,
        rows=chosen[:MOST_ROWS],
        left_out=len(chosen[MOST_ROWS:]),
        ever=added_up(row.ever for row in chosen),
        lately=added_up(row.lately for row in chosen),
        seconds=now.seconds_since(before) if before and now else None,
        endpoints=len({(row.endpoint.ifindex, row.endpoint.interface) for row in chosen}),
        namespaces=namespaces,
        reasons=sorted({*reasons, *filter(None, [wanted.reason])}),
        findings=list(findings(look)),
        maps=[fill for datum in (COUNTERS, RULES, IFACE) if (fill := _part(partial(_fill, look, datum))[0])],
    )


def endpoint_view(before: TimedLook | None, now: TimedLook, endpoint: Endpoint) -> EndpointView:
    """The endpoint as `now` has it, and what happened to it since `before`."""
    look, earlier = now.snapshot, before.snapshot if before else None
    seconds = now.seconds_since(before) if before else None
    why, why_problem = _part(lambda: list(sentences(explain(earlier, look, endpoint), seconds)))
    programs, policy_problem = _part(lambda: _programs(look, endpoint))
    hooks, counters = _counters(earlier, look, endpoint)
    return EndpointView(
        endpoint=endpoint,
        seconds=seconds,
        why=why or (),
        why_problem=why_problem,
        hooks=hooks,
        counters=counters,
        programs=programs or (),
        policy_problem=policy_problem,
        hits=_part(lambda: compare_rules(earlier.rule_hits, look.rule_hits))[0] if earlier else None,
    )


def endpoint_named(look: Snapshot, interface: str) -> Endpoint | None:
    """The endpoint of this interface name, None where there is none now."""
    return next((one for one in look.endpoints.by_index.values() if one.interface == interface), None) or next(
        (one.endpoint for one in counters_by_endpoint(look) if one.endpoint.interface == interface), None
    )


def _part(make: Callable[[], _T]) -> tuple[_T | None, str]:
    """What it makes, or why it could not."""
    try:
        return make(), ""
    except (MapError, LayoutError, NodeError) as error:
        return None, str(error)


def _rows(before: TimedLook | None, now: TimedLook | None, look: Snapshot) -> list[Traffic]:
    if now is None:
        _ = look.counters  # raises again what it raised before
        return []
    return traffic(before, now)


def _is_wanted(endpoint: Endpoint, wanted: Wanted) -> bool:
    return (not wanted.namespace or endpoint.namespace == wanted.namespace) and wanted.pod in endpoint.pod


def _fill(look: Snapshot, datum: str) -> MapFill:
    versions = {COUNTERS: lambda: look.counter_versions, RULES: lambda: look.rule_versions}.get(
        datum, lambda: look.ifstate_versions
    )()
    live, chosen_by = versions.choice.live, versions.choice.chosen_by
    if live is None:
        return MapFill(datum, ", ".join(one.name for one in versions.candidates), chosen_by)
    dump = look.dump(live)
    return MapFill(datum, live.name, chosen_by, len(dump.keys), dump.info.max_entries)


def _counters(
    earlier: Snapshot | None, look: Snapshot, endpoint: Endpoint
) -> tuple[list[tuple[str, str]], list[CounterRow]]:
    """The columns, a hook each, and the rows, a slot each."""
    ever = _hooks_of(endpoint, counters_by_endpoint(look))
    changes, _ = _part(lambda: compare_counters(earlier, look)) if earlier else ([], "")
    lately = _hooks_of(endpoint, [change.counters for change in changes or ()])
    hooks = sorted(ever)
    workload, known = endpoint.kind == WORKLOAD, endpoint.kind != UNKNOWN
    rows = [
        CounterRow(
            slot,
            [ever[hook][slot.number] for hook in hooks],
            [lately[hook][slot.number] if hook in lately else None for hook in hooks],
        )
        for slot in look.counter_layout.slots
        if any(ever[hook][slot.number] for hook in hooks)
    ]
    return [(hook_name(hook), direction(hook, workload=workload) if known else "") for hook in hooks], rows


def _hooks_of(endpoint: Endpoint, every: Sequence[EndpointCounters]) -> Mapping[int, tuple[int, ...]]:
    return next((one.hooks for one in every if one.endpoint == endpoint), {})


def _programs(look: Snapshot, endpoint: Endpoint) -> list[CountedProgram]:
    hits, _ = _part(lambda: look.rule_hits)
    return merged(programs_of(look, endpoint, hits.by_id() if hits else None))
