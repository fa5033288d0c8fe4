"""Changes between two snapshots of a node: packets and hits, counter resets, added and removed interfaces.

Pure functions of two snapshots. A counter that decreased was reset, so its value is the increase since then, as in
Prometheus' `increase()`; no change is negative.
"""

from dataclasses import dataclass, replace

from exporter.bpf.maps import MapError
from exporter.calico.counters import Layout
from exporter.calico.rules import RuleHits
from exporter.diagnosis.counters import EndpointCounters, counters_by_endpoint
from exporter.node.endpoints import Endpoint
from exporter.snapshot.snapshot import Snapshot

APPEARED, VANISHED = "appeared", "vanished"


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """The increase of an endpoint's counters between two snapshots, by hook and slot.

    `reset` are the hooks whose counters were reset in between: these count since the reset. `lost` are the hooks whose
    entry was deleted. `fate` is `appeared`, `vanished` (no counters then) or empty.
    """

    counters: EndpointCounters
    reset: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    fate: str = ""

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint."""
        return self.counters.endpoint

    @property
    def counted(self) -> bool:
        """Whether any counter increased."""
        return any(map(any, self.counters.hooks.values()))


def compare_counters(before: Snapshot, after: Snapshot) -> list[EndpointChange]:
    """Every endpoint of either snapshot, those with the most drops first.

    Raises `MapError` if their counter layouts differ.
    """
    layout = after.counters.get().layout
    if before.counters.get().layout != layout:
        raise MapError("Calico replaced its counter map by one of another layout between the two snapshots: try again")
    earlier = {one.endpoint.key: one for one in counters_by_endpoint(before)}
    now = {one.endpoint.key: one for one in counters_by_endpoint(after)}
    changes = [_change(earlier.get(key), one) for key, one in now.items()]
    changes += [EndpointChange(replace(one, hooks={}), fate=VANISHED) for key, one in earlier.items() if key not in now]
    return sorted(changes, key=lambda change: _rank(change, layout))


def compare_rules(before: RuleHits, after: RuleHits) -> dict[int, int]:
    """The increase of hits by rule id between two snapshots, without zeros; since the reset for reset counters."""
    changes = {rule_id: increase(hits, before.get(rule_id, 0)) for rule_id, hits in after.items()}
    return {rule_id: hits for rule_id, hits in changes.items() if hits}


def increase(value: int, earlier: int) -> int:
    """What a counter counted since it had the earlier value; since the reset, if it was reset."""
    return value - earlier if value >= earlier else value


def _change(before: EndpointCounters | None, after: EndpointCounters) -> EndpointChange:
    if before is None:
        return EndpointChange(after, fate=APPEARED)
    hooks: dict[int, tuple[int, ...]] = {}
    reset = []
    for hook, row in after.hooks.items():
        earlier = before.hooks.get(hook, (0,) * len(row))
        fell = any(now < then for now, then in zip(row, earlier, strict=True))
        hooks[hook] = row if fell else tuple(now - then for now, then in zip(row, earlier, strict=True))
        reset += [hook] if fell else []
    lost = tuple(hook for hook in before.hooks if hook not in after.hooks)
    return EndpointChange(EndpointCounters(after.endpoint, hooks), tuple(reset), lost)


def _rank(change: EndpointChange, layout: Layout) -> tuple[int, int, str]:
    packets = sum(change.counters.dropped(layout).values())
    return -packets, -sum(sum(row) for row in change.counters.hooks.values()), change.endpoint.title
