"""Prints counters as tables with rich: one per endpoint, a total line, and what was left out."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from exporter.calico.counters import ACCEPTED, DROPPED, NAT_COLLISION, REDIRECTED, TOTAL, UNKNOWN, Layout, Slot
from exporter.calico.hooks import TC_EGRESS, TC_INGRESS, XDP, hook_name
from exporter.node.endpoints import WORKLOAD
from exporter.printable import printable
from exporter.snapshot.by_endpoint import EndpointCounters, dropped_in_all

# Calico's own words for the categories, in the order of its table.
_CATEGORIES = {
    ACCEPTED: "Accepted",
    DROPPED: "Dropped",
    NAT_COLLISION: "Other",
    REDIRECTED: "Redirect",
    TOTAL: "Total",
    UNKNOWN: "Unknown",
}
_PIPED_WIDTH = 120
_WORKLOAD_COLUMNS = {TC_INGRESS: "FROM POD (tc ingress)", TC_EGRESS: "TO POD (tc egress)", XDP: "XDP"}
_HOST_COLUMNS = {TC_INGRESS: "IN (tc ingress)", TC_EGRESS: "OUT (tc egress)", XDP: "XDP"}


def print_counters(
    shown: Sequence[EndpointCounters], layout: Layout, *, nonzero: bool, all_endpoints: bool, left_out: int = 0
) -> None:
    """Prints these endpoints in their order. `nonzero` leaves out zero rows and endpoints that have nothing else;
    `left_out` is how many endpoints dropped too little to be among the shown.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    hidden_endpoints = hidden_rows = 0
    slots = sorted(layout.slots, key=_order)
    for one in shown:
        rows = [slot for slot in slots if _is_shown(slot, one, nonzero=nonzero)]
        hidden_rows += sum(slot.category != UNKNOWN for slot in slots) - sum(slot.category != UNKNOWN for slot in rows)
        if not rows or (all_endpoints and not one.hooks):
            hidden_endpoints += 1
            continue
        console.print(_title(one), style="bold", soft_wrap=True)
        table = _table(one, rows)
        # A number is never shortened: a table too wide for the terminal wraps there.
        least = Measurement.get(console, console.options, table).minimum
        console.print(table, width=max(console.width, least), crop=False)
    console.print(_total_line(shown, layout), soft_wrap=True)
    hidden = _hidden_line(hidden_endpoints, hidden_rows if nonzero else 0, left_out)
    if hidden:
        console.print(hidden, soft_wrap=True)


def _order(slot: Slot) -> tuple[int, str]:
    return list(_CATEGORIES).index(slot.category), slot.caption


def _is_shown(slot: Slot, one: EndpointCounters, *, nonzero: bool) -> bool:
    if nonzero or slot.category == UNKNOWN:
        return any(row[slot.number] for row in one.hooks.values())
    return True


def _table(one: EndpointCounters, slots: Sequence[Slot]) -> Table:
    columns = dict(_WORKLOAD_COLUMNS if one.endpoint.kind == WORKLOAD else _HOST_COLUMNS)
    columns |= {hook: hook_name(hook) for hook in one.hooks if hook not in columns}
    table = Table()
    table.add_column("CATEGORY")
    table.add_column("TYPE")
    for column in columns.values():
        table.add_column(column, justify="right", overflow="fold", min_width=_longest_number(one))
    previous = ""
    for slot in slots:
        category = _CATEGORIES[slot.category]
        cells = list(_cells(one, slot, columns))
        table.add_row("" if category == previous else category, slot.caption, *cells)
        previous = category
    return table


def _longest_number(one: EndpointCounters) -> int:
    return max((len(str(value)) for row in one.hooks.values() for value in row), default=0)


def _title(one: EndpointCounters) -> Text:
    endpoint = one.endpoint
    about = [f"ifindex {endpoint.ifindex}", endpoint.kind, *endpoint.addresses]
    names = f"{endpoint.title}  {endpoint.interface}" if endpoint.pod else endpoint.interface
    return Text(printable(f"{names}  ({', '.join(about)})"))


def _cells(one: EndpointCounters, slot: Slot, columns: dict[int, str]) -> Iterator[Text]:
    for hook in columns:
        row = one.hooks.get(hook)
        if row is None:
            yield Text("N/A", style="dim")
        else:
            value = row[slot.number]
            yield Text(str(value), style="bold red" if value and slot.category == DROPPED else "")


def _total_line(shown: Sequence[EndpointCounters], layout: Layout) -> Text:
    dropped = dropped_in_all(shown, layout)
    reasons = ", ".join(f"{reason} {packets}" for reason, packets in dropped.items())
    line = f"{_count(len(shown), 'endpoint')}, {_count(sum(dropped.values()), 'packet')} dropped"
    return Text(f"{line}: {reasons}" if reasons else line)


def _hidden_line(endpoints: int, rows: int, left_out: int) -> Text | None:
    parts = [f"{_count(left_out, 'endpoint')} that dropped less"] if left_out else []
    if endpoints:
        parts.append(f"{_count(endpoints, 'endpoint')} without a counter to show")
    if rows:
        parts.append(_count(rows, "zero row"))
    return Text(f"not shown: {', '.join(parts)}", style="dim") if parts else None


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
