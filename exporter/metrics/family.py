"""What a metric family and its samples are, between the collectors and the text.

Values stay the integers they were read as; labels are tuples in the order that the family names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

COUNTER, GAUGE = "counter", "gauge"

# The same five, in the same order, on every family that counts per interface.
ENDPOINT_LABELS = ("interface", "hook", "direction", "namespace", "pod")


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: its full name (counters end in `_total`), kind, help and label names."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one family: rows of label values, in the family's order, and the value."""

    family: Family
    rows: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def add(self, labels: Sequence[str], value: float) -> None:
        """Adds one sample."""
        self.rows.append((tuple(labels), value))
