"""Prints counters as tables: one per endpoint, a total line, and what is hidden."""

from collections.abc import Iterable, Iterator, Sequence

from exporter.calico.counters import ACCEPTED, DROPPED, NAT_COLLISION, REDIRECTED, TOTAL, UNKNOWN, Layout, Slot
from exporter.calico.hooks import HOOKS, TC_HOOKS, TC_INGRESS, hook_name
from exporter.columns import Cell, Column, Row, say_columns
from exporter.diagnosis.counters import EndpointCounters, dropped_in_all
from exporter.node import endpoints
from exporter.printable import say
from exporter.quantities import plural

# In display order.
_WORDS = {
    DROPPED: "dropped",
    ACCEPTED: "accepted",
    REDIRECTED: "redirected",
    NAT_COLLISION: "NAT collision",
    UNKNOWN: "unknown",
    TOTAL: "entered",
}
DROP_STYLE = "red"


def display_order(layout: Layout) -> list[Slot]:
    """The slots in display order: drops first."""
    return sorted(layout.slots, key=lambda slot: list(_WORDS).index(slot.category))


def slot_label(slot: Slot, hooks: Iterable[int]) -> str:
    """What a slot counts at these hooks (packets unless it says flows), with the reason as in the label."""
    flows = slot.counts_flows(TC_INGRESS) and all(hook in TC_HOOKS for hook in hooks)
    word = "accepted flows" if flows else _WORDS[slot.category]
    return f"{word}: {slot.reason}" if slot.reason else word


def print_counters(
    shown: Sequence[EndpointCounters], layout: Layout, *, nonzero: bool, all_endpoints: bool, left_out: int
) -> None:
    """Prints these endpoints in their order. `nonzero` hides zero rows and endpoints without other rows; `left_out` is
    the number of endpoints that --top excluded.
    """
    hidden_endpoints = hidden_rows = 0
    slots = display_order(layout)
    for one in shown:
        rows = [slot for slot in slots if _is_shown(slot, one, nonzero=nonzero)]
        hidden_rows += sum(slot.category != UNKNOWN for slot in slots) - sum(slot.category != UNKNOWN for slot in rows)
        if not rows or (all_endpoints and not one.hooks):
            hidden_endpoints += 1
            continue
        say(title(one.endpoint), "bold")
        say_columns(*_table(one, rows))
    dropped = dropped_in_all(shown, layout)
    say(_total_line(len(shown), dropped), DROP_STYLE if dropped else "")
    hidden = _hidden_line(hidden_endpoints, hidden_rows if nonzero else 0, left_out)
    if hidden:
        say(hidden, "dim")


def title(endpoint: endpoints.Endpoint) -> str:
    """Names, index and addresses of an endpoint on one line."""
    about = [f"ifindex {endpoint.ifindex}", endpoint.kind, *endpoint.addresses]
    names = f"{endpoint.title}  {endpoint.interface}" if endpoint.pod else endpoint.interface
    return f"{names}  ({', '.join(about)})"


def _is_shown(slot: Slot, one: EndpointCounters, *, nonzero: bool) -> bool:
    if nonzero or slot.category == UNKNOWN:
        return any(row[slot.number] for row in one.hooks.values())
    return True


def _table(one: EndpointCounters, slots: Sequence[Slot]) -> tuple[list[Column], list[Row]]:
    # A pod's interface has no XDP program.
    usual = TC_HOOKS if one.endpoint.kind == endpoints.WORKLOAD else HOOKS
    hooks = sorted({*usual, *one.hooks})
    numbers = [Column(_heading(one.endpoint, hook), right=True) for hook in hooks]
    columns = [Column("  WHAT"), *numbers, Column("CALICO'S CAPTION", optional=True)]
    rows: list[Row] = []
    for slot in slots:
        cells = list(_cells(one, slot, hooks))
        style = next((cell.style for cell in cells if cell.style == DROP_STYLE), "")
        rows.append([Cell(f"  {slot_label(slot, one.hooks)}", style), *cells, Cell(slot.caption, "dim")])
    return columns, rows


def _heading(endpoint: endpoints.Endpoint, hook: int) -> str:
    return f"{endpoint.direction(hook).upper()}\n{hook_name(hook)}".strip()


def _cells(one: EndpointCounters, slot: Slot, hooks: Sequence[int]) -> Iterator[Cell]:
    for hook in hooks:
        row = one.hooks.get(hook)
        if row is None:
            yield Cell("N/A", "dim")
        else:
            value = row[slot.number]
            yield Cell(str(value), DROP_STYLE if value and slot.category == DROPPED else "")


def _total_line(shown: int, dropped: dict[str, int]) -> str:
    reasons = ", ".join(f"{reason} {packets}" for reason, packets in dropped.items())
    line = f"{plural(shown, 'endpoint')}, {plural(sum(dropped.values()), 'packet')} dropped"
    return f"{line}: {reasons}" if reasons else line


def _hidden_line(endpoints_hidden: int, rows: int, left_out: int) -> str:
    parts = [f"{plural(left_out, 'endpoint')} that dropped less"] if left_out else []
    if endpoints_hidden:
        parts.append(f"{plural(endpoints_hidden, 'endpoint')} without a counter to show")
    if rows:
        parts.append(plural(rows, "zero row"))
    return f"not shown: {', '.join(parts)}" if parts else ""
