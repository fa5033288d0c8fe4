"""What a metric family and its samples are, between the collectors and the text.

Values stay the integers they were read as. Everything else of a sample's line is a template made once: rendering is
what a scrape costs, and only values change from one scrape to the next. Templates are bytes, because Python writes
integers into bytes in half the time that it takes to write them into text and encode that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

COUNTER, GAUGE = "counter", "gauge"

# The same five, in the same order, on every family that counts per interface.
ENDPOINT_LABELS = ("interface", "hook", "direction", "namespace", "pod")

# Both text formats escape label values alike; the percent sign is the template's own.
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\"", "%": "%%"})


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its full name (counters end in `_total`), kind, help and label names."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    def line(self, labels: Sequence[str]) -> bytes:
        """The line of the series with these label values, in the family's order, with `%d` where its integer goes."""
        pairs = zip(self.labels, labels, strict=True)
        text = ",".join([f'{name}="{_escape(value)}"' for name, value in pairs])
        return (f"{self.name}{{{text}}} %d\n" if text else f"{self.name} %d\n").encode()


def _escape(value: str) -> str:
    # Half a character, which a file name can hold and UTF-8 cannot carry, appears as its escape.
    text = value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    # Nearly every name is plain, and looking for four characters is far cheaper than translating all.
    odd = "\\" in text or '"' in text or "\n" in text or "%" in text
    return text.translate(_ESCAPES) if odd else text


@dataclass(init=False, slots=True)
class Samples:
    """The samples of one family: pieces of template, one or more lines each, and the values that go into them."""

    family: Family
    pieces: list[bytes]
    values: list[float]

    def __init__(self, family: Family, rows: Iterable[tuple[Sequence[str], float]] = ()) -> None:
        self.family = family
        self.pieces = []
        self.values = []
        for labels, value in rows:
            self.add(labels, value)

    @classmethod
    def of(cls, family: Family, lines: bytes, values: Iterable[int]) -> "Samples":
        """Samples whose lines were made before, with the integers that go into them."""
        samples = cls(family)
        samples.pieces, samples.values = [lines], list(values)
        return samples

    def add(self, labels: Sequence[str], value: float) -> None:
        """Adds one sample."""
        line = self.family.line(labels)
        # `%d` would cut a fraction off; `%a` writes what Python calls the number.
        self.pieces.append(line if isinstance(value, int) else line.removesuffix(b"%d\n") + b"%a\n")
        self.values.append(value)

    def with_those_of(self, other: "Samples") -> "Samples":
        """These samples and then those of another of the same family."""
        both = Samples(self.family)
        both.pieces, both.values = [*self.pieces, *other.pieces], [*self.values, *other.values]
        return both

    def text(self) -> bytes:
        """All lines with their values."""
        return b"".join(self.pieces) % tuple(self.values)
