"""Draws the drops of the last ten minutes: a small trend for a row, a graph with axes and values for an endpoint.

An interval between two snapshots is a level line: its average, as nothing more is known. Where nothing was recorded
there is no line. Everything is in units of the picture, which the page stretches.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from math import ceil, log10

from exporter.node.endpoints import Endpoint
from exporter.page.history import SECONDS, History, Interval
from exporter.page.traffic import DirectionKey
from exporter.quantities import format_duration

WIDTH = SECONDS  # a unit is a second
HEIGHT = 1000
MAX_LINES = 6
_MINUTES = (8, 6, 4, 2)
# Snapshots follow each other without a break; the rest is rounding.
_GAP = 0.5
# The last interval is "now" if it is no older than the pause between two intervals while somebody sees the page.
_NOW = 15.0
_ROUND = 6.0


@dataclass(frozen=True, slots=True)
class Trend:
    """What an endpoint dropped a second in one direction; `most` is its peak, the height of the picture."""

    path: str
    most: float


@dataclass(frozen=True, slots=True)
class Line:
    """The drops of one direction and reason; an empty reason is all that have no line of their own.

    `now` and `most` are packets a second, `now` None if not known; `packets` are those of all recorded intervals.
    """

    direction: str
    reason: str
    path: str
    now: float | None
    most: float
    packets: float

    @property
    def title(self) -> str:
        """Its name in the values of a moment."""
        return f"{self.reason} {self.direction}".rstrip() or "all others"


@dataclass(frozen=True, slots=True)
class Column:
    """An interval: where it is, when it was, and packets a second of each line."""

    x: float
    width: float
    start: str
    end: str
    rates: Sequence[float]


@dataclass(frozen=True, slots=True)
class Graph:
    """An endpoint's drops in the last ten minutes. `top` is the upper end of the axis, in packets a second.

    `times` are the marks of the lower axis, `marks` further moments: place and text. `notes` are sentences.
    """

    lines: Sequence[Line]
    columns: Sequence[Column]
    top: float
    times: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str]]
    notes: Sequence[str]
    recorded: float


def trends(history: History, at: float, reason: str) -> dict[DirectionKey, Trend]:
    """The trend of every endpoint and direction that dropped for this reason (for any, if empty) until `at`."""
    intervals = list(history.intervals)
    spans = _spans(intervals, at)
    found = {}
    for key, counts in history.dropped(reason).items():
        rates = _rates(intervals, counts)
        found[key] = Trend(_outline(spans, rates, max(rates), is_area=True), max(rates))
    return found


def graph(history: History, endpoint: Endpoint, at: float) -> Graph:
    """The endpoint's graph until `at`."""
    intervals = list(history.intervals)
    rates = {key: _rates(intervals, counts) for key, counts in _shown(history.series(endpoint)).items()}
    spans, top = _spans(intervals, at), _nice(max((max(one, default=0.0) for one in rates.values()), default=0.0))
    lines = [
        Line(
            direction,
            reason,
            _outline(spans, one, top),
            one[-1] if at - intervals[-1].end < _NOW else None,
            max(one),
            sum(rate * interval.seconds for rate, interval in zip(one, intervals, strict=True)),
        )
        for (direction, reason), one in rates.items()
    ]
    marks = list(_marks(history, endpoint, at))
    return Graph(
        lines=lines,
        columns=list(_columns(history, at, list(rates.values()))),
        top=top,
        times=[(WIDTH - 60 * minutes, f"-{minutes} min") for minutes in _MINUTES],
        marks=[(_x(moment, at), text) for moment, text in marks],
        notes=[*(text for _, text in marks), *_notes(history)],
        recorded=_ROUND * round(sum(_x(one.end, at) - _x(one.start, at) for one in intervals) / _ROUND),
    )


def _rates(intervals: Sequence[Interval], counts: Sequence[float]) -> list[float]:
    return [count / interval.seconds for count, interval in zip(counts, intervals, strict=True)]


def _shown(series: Mapping[tuple[str, str], Sequence[float]]) -> dict[tuple[str, str], Sequence[float]]:
    """The series with most drops, the others as one."""
    if len(series) <= MAX_LINES:
        return dict(series)
    every = list(series.items())
    others = [counts for _, counts in every[MAX_LINES - 1 :]]
    return {**dict(every[: MAX_LINES - 1]), ("", ""): [sum(one) for one in zip(*others, strict=True)]}


def _x(moment: float, at: float) -> float:
    return round(min(max(WIDTH + moment - at, 0.0), WIDTH), 1)


def _spans(intervals: Sequence[Interval], at: float) -> list[tuple[str, str, bool]]:
    """Where each interval begins and ends, and whether it follows the one before."""
    ends = [-SECONDS, *(one.end for one in intervals)]
    return [
        (f"{_x(one.start, at):g}", f"{_x(one.end, at):g}", one.start - end <= _GAP)
        for one, end in zip(intervals, ends, strict=False)
    ]


def _outline(
    spans: Sequence[tuple[str, str, bool]], rates: Sequence[float], top: float, *, is_area: bool = False
) -> str:
    """The path of a line: level in each interval, and broken where there is none. An area begins and ends at zero."""
    ground = f"V{HEIGHT}" if is_area else ""
    pieces: list[str] = []
    level = None
    for (start, end, follows), rate in zip(spans, rates, strict=True):
        y = int(HEIGHT * (1 - rate / top) + 0.5) if top else HEIGHT
        if not pieces or not follows:
            pieces += [ground if pieces else "", f"M{start} {HEIGHT}V{y}" if is_area else f"M{start} {y}", ""]
        elif y != level:
            pieces += [f"V{y}", ""]
        # A level line goes on: its end moves.
        pieces[-1] = f"H{end}"
        level = y
    return "".join([*pieces, ground])


def _nice(most: float) -> float:
    """The upper end of an axis for values up to `most`: 1, 2, 4, 6, 8 or 10 times a power of ten."""
    if not most:
        return 1.0
    power = 10.0 ** (ceil(log10(most)) - 1)
    return next((step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= most), 20 * power)


def _columns(history: History, at: float, rates: Sequence[Sequence[float]]) -> Iterator[Column]:
    for number, one in enumerate(history.intervals):
        x = _x(one.start, at)
        yield Column(
            x,
            round(_x(one.end, at) - x, 1),
            _clock(history, one.start),
            _clock(history, one.end),
            [line[number] for line in rates],
        )


def _marks(history: History, endpoint: Endpoint, at: float) -> Iterator[tuple[float, str]]:
    if at - history.started < SECONDS:
        when = _clock(history, history.started)
        yield history.started, f"This exporter started at {when} UTC: what was dropped before is in the totals alone."
    reset = history.reset_at(endpoint)
    if reset is not None:
        yield reset, f"Counters of this endpoint were reset before {_clock(history, reset)} UTC."


def _notes(history: History) -> Iterator[str]:
    intervals = list(history.intervals)
    gaps = [later.start - earlier.end for earlier, later in pairwise(intervals)]
    missing = [seconds for seconds in gaps if seconds > _GAP]
    if missing:
        seconds = format_duration(sum(missing))
        yield f"Where a line is broken, nothing was recorded: nobody had the page open for {seconds}."
    if history.left_out_at is not None:
        yield "More endpoints and reasons dropped packets than are recorded: lines may be missing here."


def _clock(history: History, moment: float) -> str:
    return datetime.fromtimestamp(history.epoch + moment, UTC).strftime("%H:%M:%S")
