"""What changed between two snapshots, as a table, as one self-contained line per counter, or as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from exporter.calico.counters import DROPPED, Layout, Slot
from exporter.calico.hooks import hook_name
from exporter.cli.as_json import endpoint_json
from exporter.cli.counters_table import DROP_STYLE, display_order, slot_label
from exporter.columns import Cell, Column, Row, lines_of
from exporter.diagnosis.changes import APPEARED, VANISHED, EndpointChange
from exporter.diagnosis.counters import dropped_in_all
from exporter.node import endpoints
from exporter.printable import printable, styled, wrapped
from exporter.quantities import format_duration, plural


@dataclass(frozen=True, slots=True)
class Counted:
    """One counter that changed: what it counts, where, its increase and its rate (None if unknown).

    `direction` is empty if unknown, `hook` is a name.
    """

    endpoint: endpoints.Endpoint
    slot: Slot
    label: str
    direction: str
    hook: str
    count: int
    per_second: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed in `seconds`, None if unknown; of the endpoints the `top` droppers are shown, None for all."""

    changes: Sequence[EndpointChange]
    layout: Layout
    seconds: float | None
    top: int | None

    @property
    def shown(self) -> Sequence[EndpointChange]:
        """The endpoints to show."""
        if self.top is None:
            return self.changes
        return [one for one in self.changes if one.counters.dropped(self.layout)][: self.top]


def counted(found: Difference, last: Difference | None = None) -> Iterator[Counted]:
    """The counters that changed, by endpoint, drops first; the rates are of `last`, the end of that time, if given."""
    interval = last or found
    rates = {one.endpoint.key: one.counters.hooks for one in interval.changes}
    for change in found.shown:
        endpoint = change.endpoint
        for slot in display_order(found.layout):
            for hook, row in sorted(change.counters.hooks.items()):
                count = row[slot.number]
                rate = rates.get(endpoint.key, {}).get(hook)
                per_second = (rate[slot.number] if rate else 0) / interval.seconds if interval.seconds else None
                if count:
                    names = slot_label(slot, [hook]), endpoint.direction(hook), hook_name(hook)
                    yield Counted(endpoint, slot, *names, count, per_second)


def changes_lines(found: Difference, now: datetime) -> Iterator[str]:
    """Timestamped lines: one per counter that changed, then the total."""
    start = f"{now.astimezone(UTC).isoformat(timespec='seconds')} "
    for one in counted(found):
        words = (one.endpoint.title, one.endpoint.interface, one.direction, one.hook, one.label, str(one.count))
        yield start + printable("  ".join(filter(None, (*words, _rate(one.per_second)))))
    yield from (f"{start}{note}" for note in notes(found.changes))
    yield start + total_line(found)


def changes_view(
    found: Difference, width: int | None, last: Difference | None = None, limit: int | None = None
) -> list[str]:
    """The lines of a table and the notes below it; at most `limit` counters and `limit` notes, if given.

    With `last`, counts are since the start and rates are those of the last interval, as the headings say.
    """
    rows = list(counted(found, last))
    sentences = list(notes(found.changes))
    below = [(note, "") for note in sentences[:limit]]
    hidden = 0 if limit is None else max(len(rows) - limit, 0) + max(len(sentences) - limit, 0)
    if hidden:
        below.append((f"{hidden} more lines do not fit this terminal", "dim"))
    dropped = any(change.counters.dropped(found.layout) for change in found.changes)
    below.append((total_line(found), DROP_STYLE if dropped else ""))
    table = (
        lines_of(_columns(found.seconds, last.seconds if last else None), list(_rows(rows[:limit])), width)
        if rows[:limit]
        else ()
    )
    return [*table, *(styled(piece, style) for line, style in below for piece in wrapped(line, width))]


def _columns(seconds: float | None, last_seconds: float | None) -> list[Column]:
    columns = [Column("  WHAT"), Column("DIRECTION"), Column("HOOK")]
    if seconds and last_seconds:
        since = f"SINCE START\n({format_duration(seconds)})"
        rate = f"PER SECOND\n(last {format_duration(last_seconds)})"
        return [*columns, Column(since, right=True), Column(rate, right=True)]
    return [*columns, Column("COUNT", right=True), Column("PER SECOND" if seconds else "", right=True)]


def _rows(rows: Sequence[Counted]) -> Iterator[Row]:
    previous = None
    for one in rows:
        if one.endpoint is not previous:
            names = f"{one.endpoint.title}  {one.endpoint.interface}" if one.endpoint.pod else one.endpoint.interface
            yield [Cell(names, "bold")]
        previous = one.endpoint
        style = DROP_STYLE if one.slot.category == DROPPED else ""
        cells = (f"  {one.label}", one.direction, one.hook, str(one.count), _rate(one.per_second))
        yield [Cell(text, style) for text in cells]


def notes(changes: Sequence[EndpointChange]) -> Iterator[str]:
    """A sentence for each endpoint that appeared, vanished or was reset between the two snapshots."""
    for change in changes:
        name = printable(f"{change.endpoint.title} ({change.endpoint.interface}, ifindex {change.endpoint.ifindex})")
        if change.fate == APPEARED:
            yield f"{name} appeared in between: what it counted is since then"
        elif change.fate == VANISHED:
            yield f"{name} vanished in between: what it counted last is not known"
        if change.reset:
            yield f"{name} was reset at {_hook_titles(change, change.reset)}: what it counted is since then"
        if change.lost:
            yield f"{name} has no counters at {_hook_titles(change, change.lost)} any more"


def _hook_titles(change: EndpointChange, hooks: Sequence[int]) -> str:
    return " and ".join(change.endpoint.hook_title(hook) for hook in hooks)


def total_line(found: Difference) -> str:
    """The number of endpoints that counted, their drops by reason, and the number of endpoints not shown."""
    moved = [change for change in found.changes if change.counted]
    dropped = dropped_in_all((change.counters for change in found.changes), found.layout)
    packets = sum(dropped.values())
    over = f" in {format_duration(found.seconds)}" if found.seconds else ""
    line = (
        f"{plural(len(moved), 'endpoint')} of {len(found.changes)} counted, {plural(packets, 'packet')} dropped{over}"
    )
    line += f": {', '.join(f'{reason} {count}' for reason, count in dropped.items())}" if dropped else ""
    hidden = len(moved) - sum(one.counted for one in found.shown)
    return f"{line}; not shown: {plural(hidden, 'endpoint')} that dropped less" if hidden else line


def changes_json(found: Difference) -> dict[str, object]:
    """The same data as JSON, without endpoints that neither counted nor appeared, vanished or were reset."""
    listed = [one for one in found.shown if one.counted or one.fate or one.reset or one.lost]
    return {
        "seconds": found.seconds,
        "endpoints": [_endpoint_json(one, found.layout, found.seconds) for one in listed],
        "dropped": dropped_in_all((one.counters for one in listed), found.layout),
    }


def _endpoint_json(change: EndpointChange, layout: Layout, seconds: float | None) -> dict[str, object]:
    return {
        **endpoint_json(change.endpoint),
        "fate": change.fate,
        "reset": [hook_name(hook) for hook in change.reset],
        "lost": [hook_name(hook) for hook in change.lost],
        "counted": counted_json(change, layout, seconds),
    }


def counted_json(change: EndpointChange, layout: Layout, seconds: float | None) -> list[dict[str, object]]:
    """The counters of one endpoint that changed."""
    return [
        {
            "hook": one.hook,
            "direction": "" if change.endpoint.kind == endpoints.UNKNOWN else one.direction or one.hook,
            "slot": one.slot.number,
            "category": one.slot.category,
            "reason": one.slot.reason,
            "count": one.count,
            "per_second": one.per_second,
        }
        for one in counted(Difference([change], layout, seconds, top=None))
    ]


def _rate(per_second: float | None) -> str:
    return "" if per_second is None else f"{per_second:.3g}/s" if per_second < 1000 else f"{per_second:.0f}/s"
