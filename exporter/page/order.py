"""The order of the rows: by a column, named in the page's address; numbers start with the largest, text with A.

Without a column, or with one that does not exist, those that drop most now come first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exporter.page.traffic import Traffic

_REVERSED = "-"
_FLOWS = "New flows that policy accepted; later packets of a flow are not counted one by one"


@dataclass(frozen=True, slots=True)
class Column:
    """A column to sort by; `key` is ascending, and a number starts at its other end. `about` explains its title."""

    name: str
    title: str
    key: Callable[[Traffic], float | str]
    is_number: bool = True
    about: str = ""

    def link(self, sort: str) -> str:
        """The order that a click on its header asks for: the reverse if it is the order now."""
        return f"{_REVERSED}{self.name}" if sort == self.name else self.name

    def direction(self, sort: str) -> str:
        """`ascending` or `descending` if `sort` is by this column, else empty (for `aria-sort`)."""
        if sort.removeprefix(_REVERSED) != self.name:
            return ""
        return "descending" if self.is_number == (sort == self.name) else "ascending"


COLUMNS = {
    one.name: one
    for one in (
        Column("endpoint", "Pod or interface", lambda row: row.endpoint.title, is_number=False),
        Column("direction", "Direction", lambda row: row.direction, is_number=False),
        Column("rate", "Dropped/s", lambda row: row.recent.drops),
        Column("flows", "Accepted flows/s", lambda row: row.recent.flows, about=_FLOWS),
        Column("packets", "Packets/s", lambda row: row.recent.packets, about="Packets that entered Calico's programs"),
        Column("dropped", "Dropped", lambda row: row.cumulative.drops),
        Column("reasons", "Reasons", lambda row: next(iter(row.cumulative.dropped), ""), is_number=False),
    )
}
DEFAULT = "rate"


def sort_of(asked: str) -> str:
    """The order that is asked for, the default if there is no such column."""
    return asked if asked.removeprefix(_REVERSED) in COLUMNS else DEFAULT


def ordered(rows: Sequence[Traffic], sort: str) -> list[Traffic]:
    """The rows, by default order, in this order; equal ones stay as they are."""
    if sort == DEFAULT:
        return list(rows)
    column = COLUMNS[sort.removeprefix(_REVERSED)]
    return sorted(rows, key=column.key, reverse=column.direction(sort) == "descending")
