"""The data of the two pages, the whole node and one endpoint, ready for the templates.

A part that could not be read is replaced by its error message.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exporter.calico.counters import DROPPED, Slot
from exporter.calico.hooks import hook_name
from exporter.calico.reasons import page_of, reason_of
from exporter.diagnosis.changes import compare_counters, compare_rules
from exporter.diagnosis.check import PARTS as CHECK_PARTS
from exporter.diagnosis.counters import EndpointCounters, counters_by_endpoint
from exporter.diagnosis.explain import PARTS as EXPLAIN_PARTS
from exporter.diagnosis.explain import explain
from exporter.diagnosis.rules import CountedProgram, merged, programs_of
from exporter.diagnosis.sentences import sentences
from exporter.diagnosis.trace_packet import host_interfaces
from exporter.node.endpoints import Endpoint
from exporter.page.graph import Graph, Trend, graph, trends
from exporter.page.health import Health, health_of
from exporter.page.history import History
from exporter.page.order import DEFAULT, ordered, sort_of
from exporter.page.trace import Asked, Evaluated
from exporter.page.traffic import Counted, DirectionKey, Traffic, for_reason, total, traffic
from exporter.quantities import plural
from exporter.snapshot.snapshot import Part, Snapshot
from exporter.snapshot.source import is_policy_file_of

PARTS = CHECK_PARTS | EXPLAIN_PARTS
# Browsers render this many rows quickly; a map full of stale entries has 20000.
MAX_ROWS = 600


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filter: a namespace, a part of the pod's name, and a drop reason; empty for all. `sort` is the order."""

    namespace: str = ""
    pod: str = ""
    reason: str = ""
    sort: str = DEFAULT

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Wanted":
        """The filter in the parameters of a page."""
        namespace, pod, reason, sort = (query.get(name, "") for name in ("namespace", "pod", "reason", "sort"))
        return cls(namespace, pod, reason, sort_of(sort))

    @property
    def is_filter(self) -> bool:
        """Whether not everything is wanted."""
        return bool(self.namespace or self.pod or self.reason)

    def address(self, **changes: str) -> dict[str, str]:
        """The parameters of the page's address with these changes; the default order needs none."""
        query = {**asdict(self), **changes}
        return {name: value for name, value in query.items() if (name, value) != ("sort", DEFAULT)}


@dataclass(frozen=True, slots=True)
class NodeView:
    """The whole node. `problem` is why there are no `rows`, `left_out` the number of rows beyond the limit.

    `rows` ever dropped something, `quiet` did not; `trends` are by `Traffic.direction_key`. `quiet_endpoints` dropped
    nothing in either direction.
    """

    problem: str
    rows: Sequence[Traffic]
    quiet: Sequence[Traffic]
    quiet_endpoints: int
    left_out: int
    trends: Mapping[DirectionKey, Trend]
    cumulative: Counted
    recent: Counted
    seconds: float | None
    endpoints: int
    namespaces: Sequence[str]
    reasons: Sequence[str]
    health: Health


@dataclass(frozen=True, slots=True)
class CounterRow:
    """A nonzero slot of an endpoint: its values at each hook; those of `recent` are None where unknown."""

    slot: Slot
    cumulative: Sequence[int]
    recent: Sequence[int | None]

    @property
    def drops(self) -> bool:
        """Whether it counts dropped packets."""
        return self.slot.category == DROPPED

    @property
    def meaning(self) -> str:
        """The meaning of its drops."""
        return reason_of(self.slot.reason).meaning

    @property
    def link(self) -> str:
        """The documentation of its reason."""
        return page_of(self.slot.reason)


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint: why it loses packets, its counters, and its policy with the hits of each rule.

    `why` are lines with their kind; `hooks` are the columns of `counters`: name and direction. `hits` are by rule id
    within the last `seconds`, None if unknown. `trace` is the form about a packet, and its answer; `graph` are its
    drops in the last ten minutes, None while nothing is recorded; `hosts` are the interfaces of the host.
    """

    endpoint: Endpoint
    seconds: float | None
    why: Sequence[tuple[str, str]]
    why_problem: str
    hooks: Sequence[tuple[str, str]]
    counters: Sequence[CounterRow]
    programs: Sequence[CountedProgram]
    policy_problem: str
    hits: Mapping[int, int] | None
    trace: Evaluated
    graph: Graph | None
    hosts: Sequence[str]


def node_view(
    before: Snapshot | None,
    now: Snapshot,
    wanted: Wanted,
    history: History | None = None,
    failures: Mapping[str, str | None] | None = None,
) -> NodeView:
    """The node at `now`, the changes since `before`, and the trends of `history`; `failures` are the last scrape's."""
    counted = Part.of(lambda: traffic(before, now))
    rows = counted.or_else([])
    reasons = {reason for row in rows for reason in row.cumulative.dropped}
    chosen = [row for row in rows if _is_wanted(row.endpoint, wanted)]
    chosen = ordered(for_reason(chosen, wanted.reason) if wanted.reason else chosen, wanted.sort)
    dropping = [row for row in chosen if row.cumulative.drops]
    quiet = [row for row in chosen if not row.cumulative.drops]
    return NodeView(
        problem=_sentence(counted),
        rows=dropping[:MAX_ROWS],
        quiet=quiet[: max(0, MAX_ROWS - len(dropping))],
        quiet_endpoints=len(_endpoints(quiet) - _endpoints(dropping)),
        left_out=max(0, len(chosen) - MAX_ROWS),
        trends=trends(history, now.at, wanted.reason) if history and now.at else {},
        cumulative=total(row.cumulative for row in chosen),
        recent=total(row.recent for row in chosen),
        seconds=now.seconds_since(before) if before and not now.counters.error else None,
        endpoints=len(_endpoints(chosen)),
        namespaces=sorted({row.endpoint.namespace for row in rows} - {""}),
        reasons=sorted({*reasons, *filter(None, [wanted.reason])}),
        health=health_of(now, failures or {}),
    )


def endpoint_view(
    before: Snapshot | None,
    now: Snapshot,
    endpoint: Endpoint,
    evaluated: Evaluated | None = None,
    history: History | None = None,
) -> EndpointView:
    """The endpoint at `now`, the changes since `before`, and its drops in `history`.

    `evaluated` is what was asked about a packet.
    """
    seconds = now.seconds_since(before) if before else None
    why = Part.of(lambda: list(sentences(explain(before, now, endpoint), seconds)))
    hits = Part.of(lambda: compare_rules(before.rule_hits.get(), now.rule_hits.get())) if before else None
    programs = Part.of(lambda: merged(programs_of(now, endpoint, now.rule_hits.or_else(None))))
    hooks, counters = _counters(before, now, endpoint)
    return EndpointView(
        endpoint=endpoint,
        seconds=seconds,
        why=why.or_else(()),
        why_problem=_sentence(why),
        hooks=hooks,
        counters=counters,
        programs=programs.or_else(()),
        policy_problem=_sentence(programs) or ("" if programs.value else _why_no_policy(now, endpoint)),
        hits=hits.or_else(None) if hits else None,
        trace=evaluated or Evaluated(Asked()),
        graph=graph(history, endpoint, now.at) if history and now.at else None,
        hosts=host_interfaces(now),
    )


def endpoint_named(snapshot: Snapshot, interface: str) -> Endpoint | None:
    """The endpoint with this interface name, None if there is none."""
    known = (one for one in snapshot.endpoints.get().by_index.values() if one.interface == interface)
    counted = (one.endpoint for one in counters_by_endpoint(snapshot) if one.endpoint.interface == interface)
    return next(known, None) or next(counted, None)


def _sentence(part: Part[Any]) -> str:
    return str(part.error or "")


def _why_no_policy(now: Snapshot, endpoint: Endpoint) -> str:
    """Why none of an endpoint's policy files was read; empty where there is none."""
    unread = now.policies.get().unread
    mine = [name for name in unread if is_policy_file_of(name, {endpoint.interface})]
    return str(now.run_dir.error or (f"none of its {plural(len(mine), 'policy file')} can be read" if mine else ""))


def _endpoints(rows: Iterable[Traffic]) -> set[tuple[int, str]]:
    return {row.endpoint.key for row in rows}


def _is_wanted(endpoint: Endpoint, wanted: Wanted) -> bool:
    return (not wanted.namespace or endpoint.namespace == wanted.namespace) and wanted.pod in endpoint.pod


def _counters(
    before: Snapshot | None, now: Snapshot, endpoint: Endpoint
) -> tuple[list[tuple[str, str]], list[CounterRow]]:
    """The columns, one per hook, and the rows, one per slot."""
    cumulative = _hooks_of(endpoint, counters_by_endpoint(now))
    changes = Part.of(lambda: compare_counters(before, now)).or_else([]) if before else []
    recent = _hooks_of(endpoint, [change.counters for change in changes])
    hooks = sorted(cumulative)
    rows = [
        CounterRow(
            slot,
            [cumulative[hook][slot.number] for hook in hooks],
            [recent[hook][slot.number] if hook in recent else None for hook in hooks],
        )
        for slot in now.counters.get().layout.slots
        if any(cumulative[hook][slot.number] for hook in hooks)
    ]
    return [(hook_name(hook), endpoint.direction(hook)) for hook in hooks], rows


def _hooks_of(endpoint: Endpoint, every: Sequence[EndpointCounters]) -> Mapping[int, tuple[int, ...]]:
    return next((one.hooks for one in every if one.endpoint == endpoint), {})
