"""A look that another is compared with: read whole at one moment, whatever is asked of it later."""

import time
from contextlib import suppress
from dataclasses import dataclass

from exporter.bpf.maps import MapError
from exporter.calico import LayoutError
from exporter.node import NodeError
from exporter.snapshot.take import Snapshot


@dataclass(frozen=True, slots=True)
class TimedLook:
    """A look whose counters have been read, and when: seconds on some clock, None where a bundle does not say.

    `node` is the name of the node that a bundle was made on, where it says.
    """

    snapshot: Snapshot
    at: float | None
    node: str = ""

    def seconds_since(self, earlier: "TimedLook") -> float | None:
        """Seconds between two looks; None where they are not known or do not pass."""
        if self.at is None or earlier.at is None or self.at <= earlier.at:
            return None
        return self.at - earlier.at


def read_now(look: Snapshot) -> TimedLook:
    """What two looks compare, read now. Raises `MapError`, `LayoutError` or `NodeError` without counters."""
    # A look reads when it is asked: what is compared must be read now.
    at = time.monotonic()
    _ = look.counters
    with suppress(MapError, LayoutError, NodeError):
        _ = look.rule_hits
    with suppress(MapError, LayoutError, NodeError):
        _ = look.endpoints
    with suppress(MapError, LayoutError, NodeError):
        _ = look.rules
    return TimedLook(look, at)
