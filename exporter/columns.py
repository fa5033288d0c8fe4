"""Rows in aligned columns for a person: what does not fit the terminal wraps between words, the last columns first.

Texts from outside are made safe here. No names are cut and no numbers: a table that cannot be narrower is wider than
the terminal.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from exporter.printable import printable, styled, width_of, wrapped

_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, of one line or several, and how it behaves.

    `right` is for numbers, which stand at its right edge and never wrap. An `optional` one is left out of a terminal
    that is too narrow for it.
    """

    heading: str
    right: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and its style, as `styled` takes it."""

    text: str
    style: str = ""


# A cell for each column, or a single one, which stands across all of them.
Row = Sequence[Cell]


def say_columns(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Prints the headings and the rows; in a terminal they fit its width."""
    for line in lines_of(columns, rows, width_of(sys.stdout)):
        click.echo(line)


def lines_of(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> Iterator[str]:
    """The headings and the rows, with escape sequences for their styles; `width` is the terminal's, if it is one."""
    rows = [[Cell(printable(cell.text), cell.style) for cell in row] for row in rows]
    yield from _lines([*_headings(columns), *rows], columns, width)


def _headings(columns: Sequence[Column]) -> list[Row]:
    parts = [one.heading.splitlines() for one in columns]
    high = max(map(len, parts))  # 0 where no column has a heading
    return [[Cell(part[number] if number < len(part) else "") for part in parts] for number in range(high)]


def _lines(rows: Sequence[Row], columns: Sequence[Column], width: int | None) -> Iterator[str]:
    widths = _widths(rows, columns, width)
    if width is not None and sum(widths) + _GAP * (len(widths) - 1) > width and any(one.optional for one in columns):
        kept = [number for number, one in enumerate(columns) if not one.optional]
        rows = [[row[number] for number in kept] if len(row) == len(columns) else row for row in rows]
        columns = [columns[number] for number in kept]
        widths = _widths(rows, columns, width)
    for row in rows:
        if len(row) == len(columns):
            yield from _row(row, columns, widths)
        else:
            (cell,) = row
            yield from (styled(piece, cell.style) for piece in wrapped(cell.text, width))


def _widths(rows: Sequence[Row], columns: Sequence[Column], width: int | None) -> list[int]:
    cells = list(zip(*(row for row in rows if len(row) == len(columns)), strict=True))
    widths = [max(len(cell.text) for cell in column) for column in cells]
    excess = 0 if width is None else sum(widths) + _GAP * (len(widths) - 1) - width
    for number in reversed(range(len(columns))):
        if not columns[number].right and excess > 0:
            less = min(excess, widths[number] - max(_narrowest(cell.text, _hang(number)) for cell in cells[number]))
            widths[number] -= less
            excess -= less
    return widths


def _hang(number: int) -> int:
    return 0 if number else 2  # in the first column an indent says what belongs to what


def _narrowest(text: str, hang: int) -> int:
    """The least width at which no word of it is cut."""
    first, *others = text.split() or [""]
    indent = len(text) - len(text.lstrip())
    return max(indent + len(first), *(indent + hang + len(word) for word in others), 0)


def _row(row: Row, columns: Sequence[Column], widths: Sequence[int]) -> Iterator[str]:
    cells = [wrapped(cell.text, widths[number], hang=_hang(number)) for number, cell in enumerate(row)]
    for number in range(max(map(len, cells))):
        line, blanks = "", 0
        for pieces, cell, column, width in zip(cells, row, columns, widths, strict=True):
            piece = pieces[number] if number < len(pieces) else ""
            before = width - len(piece) if column.right and piece else 0
            if piece:
                line += " " * (blanks + before) + styled(piece, cell.style)
                blanks = 0
            blanks += width - before - len(piece) + _GAP
        yield line
