"""What changed between two looks, as a table for a terminal, as lines for a pipe, or as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from exporter.calico.counters import ACCEPTED, DROPPED, NAT_COLLISION, REDIRECTED, TOTAL, UNKNOWN, Layout, Slot
from exporter.calico.hooks import TC_HOOKS, direction, hook_name
from exporter.durations import shown
from exporter.node import endpoints
from exporter.printable import printable
from exporter.snapshot.by_endpoint import dropped_in_all
from exporter.snapshot.changes import APPEARED, VANISHED, EndpointChange

_WORDS = {
    DROPPED: "dropped",
    ACCEPTED: "accepted",
    REDIRECTED: "redirected",
    NAT_COLLISION: "NAT collision",
    UNKNOWN: "unknown",
    TOTAL: "entered",
}
_PER_FLOW = ("policy", "failsafe")


@dataclass(frozen=True, slots=True)
class Counted:
    """One counter that moved: whose, at which hook, what it counts, by how much and how fast (None: not known)."""

    endpoint: endpoints.Endpoint
    hook: int
    slot: Slot
    count: int
    per_second: float | None

    @property
    def way(self) -> str:
        """`inbound` or `outbound` as the endpoint sees it; the hook where nobody knows the endpoint."""
        if self.endpoint.kind == endpoints.UNKNOWN:
            return hook_name(self.hook)
        return direction(self.hook, workload=self.endpoint.kind == endpoints.WORKLOAD) or hook_name(self.hook)

    @property
    def what(self) -> str:
        """What it counts, in words: packets, or flows where it says so."""
        flows = self.slot.category == ACCEPTED and self.slot.reason in _PER_FLOW and self.hook in TC_HOOKS
        word = "accepted flows" if flows else _WORDS[self.slot.category]
        return f"{word}: {self.slot.reason}" if self.slot.reason else word


@dataclass(frozen=True, slots=True)
class Lately:
    """The changes of the last interval, and its seconds: what rates are made of where a view goes on."""

    changes: Sequence[EndpointChange]
    seconds: float | None


def counted(changes: Sequence[EndpointChange], layout: Layout, lately: Lately) -> Iterator[Counted]:
    """The counters that moved, in the order of the endpoints, drops of each first, with the rates of `lately`."""
    order = list(_WORDS)
    slots = sorted(layout.slots, key=lambda slot: order.index(slot.category))
    rates = {(one.endpoint.ifindex, one.endpoint.interface): one.counters.hooks for one in lately.changes}
    for change in changes:
        for slot in slots:
            for hook, row in sorted(change.counters.hooks.items()):
                count = row[slot.number]
                rate = rates.get((change.endpoint.ifindex, change.endpoint.interface), {}).get(hook)
                per_second = (rate[slot.number] if rate else 0) / lately.seconds if lately.seconds else None
                if count:
                    yield Counted(change.endpoint, hook, slot, count, per_second)


def print_changes(changes: Sequence[EndpointChange], layout: Layout, seconds: float | None, top: int | None) -> None:
    """Prints them once: a table in a terminal, lines in a pipe."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(changes_view(changes, layout, seconds, top))
    else:
        click.echo("\n".join(changes_lines(changes, layout, seconds, top)))


def changes_lines(
    changes: Sequence[EndpointChange],
    layout: Layout,
    seconds: float | None,
    top: int | None,
    now: datetime | None = None,
) -> Iterator[str]:
    """Lines for a pipe: one for each counter that moved, and one for all; each begins with the time, where given."""
    start = f"{now.astimezone(UTC).isoformat(timespec='seconds')} " if now else ""
    for one in counted(_top(changes, layout, top), layout, Lately(changes, seconds)):
        words = (one.endpoint.title, one.endpoint.interface, one.way, one.what, str(one.count), _rate(one.per_second))
        yield start + printable("  ".join(filter(None, words)))
    yield from (f"{start}{note}" for note in notes(changes))
    yield start + total_line(changes, layout, seconds, top)


def changes_view(
    changes: Sequence[EndpointChange],
    layout: Layout,
    seconds: float | None,
    top: int | None,
    lately: Lately | None = None,
    most: int | None = None,
) -> Group:
    """A table for a terminal and what is to say below it; of rows and of notes at most `most` each, if given."""
    rows = list(counted(_top(changes, layout, top), layout, lately or Lately(changes, seconds)))
    table = Table()
    for name in ("ENDPOINT", "DIRECTION", "WHAT"):
        table.add_column(name, overflow="fold")
    longest = max((len(str(one.count)) for one in rows), default=0)
    table.add_column("COUNT", justify="right", min_width=longest, no_wrap=True)
    table.add_column("PER SECOND", justify="right", no_wrap=True)
    previous = None
    for one in rows[:most]:
        title = "" if one.endpoint is previous else printable(one.endpoint.title)
        style = "bold red" if one.slot.category == DROPPED else ""
        table.add_row(Text(title), one.way, Text(one.what, style=style), Text(str(one.count)), _rate(one.per_second))
        previous = one.endpoint
    said = list(notes(changes))
    below = [Text(note) for note in said[:most]]
    if most is not None:
        hidden = max(len(rows) - most, 0) + max(len(said) - most, 0)
        below += [Text(f"{hidden} more lines do not fit this terminal", style="dim")] if hidden else []
    shown_table = [table] if rows[:most] else []
    return Group(*shown_table, *below, Text(total_line(changes, layout, seconds, top)))


def fitting_view(
    console: Console,
    changes: Sequence[EndpointChange],
    layout: Layout,
    seconds: float | None,
    top: int | None,
    lately: Lately,
) -> Group:
    """A view that is no higher than the terminal, whose rows may be folded."""
    most = console.height
    while True:
        view = changes_view(changes, layout, seconds, top, lately, most)
        if most == 0 or len(console.render_lines(view)) < console.height:
            return view
        most = most * 3 // 4


def notes(changes: Sequence[EndpointChange]) -> Iterator[str]:
    """A sentence for each endpoint that came, went or began to count anew between the two looks."""
    for change in changes:
        name = printable(f"{change.endpoint.title} ({change.endpoint.interface}, ifindex {change.endpoint.ifindex})")
        if change.fate == APPEARED:
            yield f"{name} appeared in between: what it counted is since then"
        elif change.fate == VANISHED:
            yield f"{name} vanished in between: what it counted last is not known"
        if change.reset:
            hooks = " and ".join(map(hook_name, change.reset))
            yield f"{name} began to count anew at {hooks}: what it counted is since then"
        if change.lost:
            yield f"{name} has no counters at {' and '.join(map(hook_name, change.lost))} any more"


def total_line(changes: Sequence[EndpointChange], layout: Layout, seconds: float | None, top: int | None) -> str:
    """How many endpoints counted, all drops by reason, and how many that counted are not shown."""
    moved = [change for change in changes if change.counted]
    dropped = dropped_in_all((change.counters for change in changes), layout)
    packets = sum(dropped.values())
    over = f" in {shown(seconds)}" if seconds else ""
    line = f"{_number(len(moved), 'endpoint')} of {len(changes)} counted, {_number(packets, 'packet')} dropped{over}"
    line += f": {', '.join(f'{reason} {count}' for reason, count in dropped.items())}" if dropped else ""
    hidden = len(moved) - sum(one.counted for one in _top(changes, layout, top))
    return f"{line}; not shown: {_number(hidden, 'endpoint')} that dropped less" if hidden else line


def _top(changes: Sequence[EndpointChange], layout: Layout, top: int | None) -> Sequence[EndpointChange]:
    return changes if top is None else [one for one in changes if one.counters.dropped(layout)][:top]


def changes_json(
    changes: Sequence[EndpointChange], layout: Layout, seconds: float | None, top: int | None
) -> dict[str, object]:
    """The same facts for a program; endpoints that neither counted nor came, went or were reset are left out."""
    listed = [one for one in _top(changes, layout, top) if one.counted or one.fate or one.reset or one.lost]
    return {
        "seconds": seconds,
        "endpoints": [_endpoint_json(one, layout, seconds) for one in listed],
        "dropped": dropped_in_all((one.counters for one in listed), layout),
    }


def _endpoint_json(change: EndpointChange, layout: Layout, seconds: float | None) -> dict[str, object]:
    endpoint = change.endpoint
    return {
        "interface": endpoint.interface,
        "ifindex": endpoint.ifindex,
        "kind": endpoint.kind,
        "namespace": endpoint.namespace,
        "pod": endpoint.pod,
        "fate": change.fate,
        "reset": [hook_name(hook) for hook in change.reset],
        "lost": [hook_name(hook) for hook in change.lost],
        "counted": counted_json(change, layout, seconds),
    }


def counted_json(change: EndpointChange, layout: Layout, seconds: float | None) -> list[dict[str, object]]:
    """The counters of one endpoint that moved."""
    return [
        {
            "hook": hook_name(one.hook),
            "direction": "" if change.endpoint.kind == endpoints.UNKNOWN else one.way,
            "slot": one.slot.number,
            "category": one.slot.category,
            "reason": one.slot.reason,
            "count": one.count,
            "per_second": one.per_second,
        }
        for one in counted([change], layout, Lately([change], seconds))
    ]


def _rate(per_second: float | None) -> str:
    return "" if per_second is None else f"{per_second:.3g}/s" if per_second < 1000 else f"{per_second:.0f}/s"


def _number(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
