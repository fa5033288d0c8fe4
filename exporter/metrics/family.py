"""Metric families and their samples, from the collectors to the exposition formats.

Values stay integers. The rest of a sample's line is a template built once: rendering dominates the cost of a scrape,
and usually only values change. Templates are bytes, because formatting integers into bytes takes half the time of
formatting and encoding text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

COUNTER, GAUGE = "counter", "gauge"

# The labels of every family that counts per interface, in this order.
ENDPOINT_LABELS = ("interface", "hook", "direction", "namespace", "pod")

# Both text formats escape label values alike; `%` is escaped for the template.
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\"", "%": "%%"})


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its full name (counters end in `_total`), kind, help and label names."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    def line(self, labels: Sequence[str]) -> bytes:
        """The line of the series with these label values, in the family's order, with `%d` for the value."""
        return _line(self.name, self.labels, labels)


def _line(name: str, labels: Sequence[str], values: Sequence[str]) -> bytes:
    text = ",".join([f'{label}="{_escape(value)}"' for label, value in zip(labels, values, strict=True)])
    return (f"{name}{{{text}}} %d\n" if text else f"{name} %d\n").encode()


_kept_line = lru_cache(maxsize=1024)(_line)  # of samples made again at each scrape, such as those about the exporter


def _escape(value: str) -> str:
    # Lone surrogates, which file names may hold and UTF-8 cannot encode, are written as escapes.
    text = value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    # Most names need no escaping, and four searches are far cheaper than a translation.
    special = "\\" in text or '"' in text or "\n" in text or "%" in text
    return text.translate(_ESCAPES) if special else text


class Samples:
    """The samples of one family: template pieces of one or more lines each, and their values."""

    def __init__(self, family: Family, rows: Iterable[tuple[Sequence[str], float]] = ()) -> None:
        self.family = family
        self.pieces: list[bytes] = []
        self.values: list[float] = []
        for labels, value in rows:
            self.add(labels, value)

    @classmethod
    def of(cls, family: Family, lines: bytes, values: Iterable[int]) -> "Samples":
        """Samples from prebuilt lines and their integers."""
        samples = cls(family)
        samples.pieces, samples.values = [lines], list(values)
        return samples

    def add(self, labels: Sequence[str], value: float) -> None:
        """Adds one sample."""
        line = _kept_line(self.family.name, self.family.labels, tuple(labels))
        # `%d` would truncate a fraction; `%a` writes the repr.
        self.pieces.append(line if isinstance(value, int) else line.removesuffix(b"%d\n") + b"%a\n")
        self.values.append(value)

    def merged_with(self, other: "Samples") -> "Samples":
        """These samples followed by those of another instance of the same family."""
        both = Samples(self.family)
        both.pieces, both.values = [*self.pieces, *other.pieces], [*self.values, *other.values]
        return both

    def text(self) -> bytes:
        """All lines with their values."""
        return b"".join(self.pieces) % tuple(self.values)
