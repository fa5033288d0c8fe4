"""What a collector is: a class with a name, the parts of a snapshot that it needs, and the samples it makes of them."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from exporter.metrics.family import Samples
from exporter.snapshot.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class CollectorOptions:
    """What a user can say about samples: which zeros of counters are written (`core`, `all` or `none`), whether rule
    ids that no file explains have series, and whether the owners of pods do.
    """

    zeros: str = "core"
    unattributed: bool = False
    workloads: bool = False


class Collector(Protocol):
    """Makes one datum's families from a snapshot.

    `name` is the word for it in flags, `collect[]` and the `collector` label, `about` the help text of its flag.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    on_by_default: ClassVar[bool]
    parts: ClassVar[frozenset[str]]

    def __init__(self, options: CollectorOptions) -> None:
        """Makes one for a server's life: it may keep what saves work at the next scrape."""

    def collect(self, snapshot: Snapshot) -> list[Samples]:
        """All its samples. Raises the error of a part that it cannot do without."""
