"""What a metric family, a series and samples are, between the collectors and the text.

Values stay the integers they were read as. A series carries its labels and, made once, the text that stands before its
value: rendering is what a scrape costs, and only values change from one scrape to the next.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

COUNTER, GAUGE = "counter", "gauge"

# The same five, in the same order, on every family that counts per interface.
ENDPOINT_LABELS = ("interface", "hook", "direction", "namespace", "pod")

# Both text formats escape label values alike.
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Series:
    """One set of label values of a family, and its text up to the value: `name{label="value"} `."""

    labels: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its full name (counters end in `_total`), kind, help and label names."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    def series(self, labels: Sequence[str]) -> Series:
        """The series with these label values, in the family's order."""
        pairs = zip(self.labels, labels, strict=True)
        text = ",".join([f'{name}="{_escape(value)}"' for name, value in pairs])
        return Series(tuple(labels), f"{self.name}{{{text}}} " if text else f"{self.name} ")


def _escape(value: str) -> str:
    # Half a character, which a file name can hold and UTF-8 cannot carry, appears as its escape.
    text = value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    # Nearly every name is plain, and looking for three characters is far cheaper than translating all.
    odd = "\\" in text or '"' in text or "\n" in text
    return text.translate(_ESCAPES) if odd else text


@dataclass(init=False, slots=True)
class Samples:
    """The samples of one family: series and, at the same place, their values."""

    family: Family
    series: list[Series]
    values: list[float]

    def __init__(self, family: Family, rows: Iterable[tuple[Sequence[str], float]] = ()) -> None:
        self.family = family
        self.series = []
        self.values = []
        for labels, value in rows:
            self.add(labels, value)

    def add(self, labels: Sequence[str], value: float) -> None:
        """Adds one sample of a series that is not kept between scrapes."""
        self.series.append(self.family.series(labels))
        self.values.append(value)

    def extend(self, series: Iterable[Series], values: Iterable[float]) -> None:
        """Adds samples of series that are."""
        self.series.extend(series)
        self.values.extend(values)

    @property
    def rows(self) -> list[tuple[tuple[str, ...], float]]:
        """Label values and value of each sample."""
        return [(series.labels, value) for series, value in zip(self.series, self.values, strict=True)]


class KeptSeries(Generic[_Kept]):
    """Keeps what was made for a key while every scrape uses it: what one scrape does not ask for is gone at the next.

    So it is bounded by what the node has now, and an interface's text goes with the interface.
    """

    def __init__(self) -> None:
        self._before: dict[Hashable, _Kept] = {}
        self._now: dict[Hashable, _Kept] = {}

    def get(self, key: Hashable) -> _Kept | None:
        """What is kept for `key`, if it is."""
        kept = self._now.get(key)
        if kept is None:
            kept = self._before.get(key)
            if kept is not None:
                self._now[key] = kept
        return kept

    def keep(self, key: Hashable, made: _Kept) -> _Kept:
        """Keeps and returns what was made for `key`."""
        self._now[key] = made
        return made

    def turn(self) -> None:
        """Ends a scrape."""
        self._before, self._now = self._now, {}
