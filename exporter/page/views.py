"""What the two pages show: the whole node, and one endpoint. Facts only, ready to be written into a template.

A part that could not be read is a sentence in its place; the other parts are there all the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.calico.counters import DROPPED, Slot
from exporter.calico.hooks import hook_name
from exporter.calico.reasons import page_of, reason_of
from exporter.diagnosis.changes import compare_counters, compare_rules
from exporter.diagnosis.check import OK, Finding, findings
from exporter.diagnosis.check import PARTS as CHECK_PARTS
from exporter.diagnosis.counters import EndpointCounters, counters_by_endpoint
from exporter.diagnosis.explain import PARTS as EXPLAIN_PARTS
from exporter.diagnosis.explain import explain
from exporter.diagnosis.rules import CountedProgram, merged, programs_of
from exporter.diagnosis.sentences import sentences
from exporter.node.endpoints import Endpoint
from exporter.page.traffic import Counted, Traffic, for_reason, total, traffic
from exporter.snapshot.snapshot import MapVersions, Part, Snapshot

PARTS = CHECK_PARTS | EXPLAIN_PARTS
# A browser shows so many rows without effort, and a map full of leftovers has twenty thousand.
MAX_ROWS = 600


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


def node_view(before: Snapshot | None, now: Snapshot, wanted: Wanted) -> NodeView:
    """The node as `now` has it, and what happened since `before`."""
    counted = Part.of(lambda: traffic(before, now))
    rows = counted.or_else([])
    namespaces = sorted({row.endpoint.namespace for row in rows} - {""})
    reasons = {reason for row in rows for reason in row.ever.dropped}
    chosen = [row for row in rows if _is_wanted(row.endpoint, wanted)]
    chosen = for_reason(chosen, wanted.reason) if wanted.reason else chosen
    return NodeView(
        problem=_sentence(counted),
        rows=chosen[:MAX_ROWS],
        left_out=len(chosen[MAX_ROWS:]),
        ever=total(row.ever for row in chosen),
        lately=total(row.lately for row in chosen),
        seconds=now.seconds_since(before) if before and not now.counters.error else None,
        endpoints=len({(row.endpoint.ifindex, row.endpoint.interface) for row in chosen}),
        namespaces=namespaces,
        reasons=sorted({*reasons, *filter(None, [wanted.reason])}),
        findings=list(findings(now)),
        maps=[_fill(datum, part.get()) for datum, part in now.maps.items() if not part.error],
    )


def endpoint_view(before: Snapshot | None, now: Snapshot, endpoint: Endpoint) -> EndpointView:
    """The endpoint as `now` has it, and what happened to it since `before`."""
    seconds = now.seconds_since(before) if before else None
    why = Part.of(lambda: list(sentences(explain(before, now, endpoint), seconds)))
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
        policy_problem=_sentence(programs),
        hits=Part.of(lambda: compare_rules(before.rule_hits.get(), now.rule_hits.get())).or_else(None)
        if before
        else None,
    )


def endpoint_named(snapshot: Snapshot, interface: str) -> Endpoint | None:
    """The endpoint of this interface name, None where there is none now."""
    known = (one for one in snapshot.endpoints.get().by_index.values() if one.interface == interface)
    counted = (one.endpoint for one in counters_by_endpoint(snapshot) if one.endpoint.interface == interface)
    return next(known, None) or next(counted, None)


def _sentence(part: Part[Any]) -> str:
    return str(part.error or "")


def _is_wanted(endpoint: Endpoint, wanted: Wanted) -> bool:
    return (not wanted.namespace or endpoint.namespace == wanted.namespace) and wanted.pod in endpoint.pod


def _fill(datum: str, versions: MapVersions) -> MapFill:
    live, chosen_by = versions.choice.live, versions.choice.chosen_by
    if live is None:
        return MapFill(datum, ", ".join(one.name for one in versions.candidates), chosen_by)
    return MapFill(datum, live.name, chosen_by, versions.entries, live.info.max_entries)


def _counters(
    before: Snapshot | None, now: Snapshot, endpoint: Endpoint
) -> tuple[list[tuple[str, str]], list[CounterRow]]:
    """The columns, a hook each, and the rows, a slot each."""
    ever = _hooks_of(endpoint, counters_by_endpoint(now))
    changes = Part.of(lambda: compare_counters(before, now)).or_else([]) if before else []
    lately = _hooks_of(endpoint, [change.counters for change in changes])
    hooks = sorted(ever)
    rows = [
        CounterRow(
            slot,
            [ever[hook][slot.number] for hook in hooks],
            [lately[hook][slot.number] if hook in lately else None for hook in hooks],
        )
        for slot in now.counters.get().layout.slots
        if any(ever[hook][slot.number] for hook in hooks)
    ]
    return [(hook_name(hook), endpoint.direction(hook)) for hook in hooks], rows


def _hooks_of(endpoint: Endpoint, every: Sequence[EndpointCounters]) -> Mapping[int, tuple[int, ...]]:
    return next((one.hooks for one in every if one.endpoint == endpoint), {})
