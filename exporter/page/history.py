"""The drops of the last ten minutes by endpoint, direction and reason, for the graphs: numbers only, no snapshots.

They are what was counted between two snapshots that the page took. A time without snapshots is a gap, and a reset of
counters is remembered with its time.
"""

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.diagnosis.changes import compare_counters
from exporter.errors import ExporterError
from exporter.node.endpoints import Endpoint
from exporter.page.traffic import DirectionKey, by_direction
from exporter.snapshot.snapshot import Snapshot

SECONDS = 600.0
# With five seconds between two snapshots, 121 intervals of four bytes each; a series takes 0.8 kB with its name.
MAX_SERIES = 1000

_Key = tuple[tuple[int, str], str, str]


@dataclass(frozen=True, slots=True)
class Interval:
    """The time between two snapshots, in seconds on the snapshots' clock."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


class History:
    """At most `MAX_SERIES` series; one that dropped nothing in ten minutes is none. Used by one thread.

    `started` is when the exporter started, on the snapshots' clock, whose zero is `epoch` in Unix time.
    """

    def __init__(self, started: float, epoch: float) -> None:
        self.started, self.epoch = started, epoch
        self.intervals: deque[Interval] = deque()
        self.left_out_at: float | None = None
        self._series: dict[_Key, array[float]] = {}
        self._resets: dict[tuple[int, str], float] = {}

    def add(self, before: Snapshot, now: Snapshot) -> None:
        """Records what was dropped between two snapshots; nothing if they cannot be compared."""
        if before.at is None or now.at is None or now.at <= before.at:
            return
        try:
            dropped = self._compare(before, now, now.at)
        except ExporterError:
            return
        self.intervals.append(Interval(before.at, now.at))
        for key, counts in self._series.items():
            counts.append(dropped.pop(key, 0))
        for key, packets in sorted(dropped.items(), key=lambda item: -item[1]):
            if len(self._series) >= MAX_SERIES:
                self.left_out_at = now.at
                break
            self._series[key] = array("f", [*(0.0,) * (len(self.intervals) - 1), packets])
        self.forget_before(now.at - SECONDS)

    def series(self, endpoint: Endpoint) -> Mapping[tuple[str, str], Sequence[float]]:
        """What this endpoint dropped in each interval, by direction and reason; most drops first."""
        mine = {key[1:]: counts for key, counts in self._series.items() if key[0] == endpoint.key}
        return dict(sorted(mine.items(), key=lambda item: (-sum(item[1]), item[0])))

    def dropped(self, reason: str) -> Mapping[DirectionKey, Sequence[float]]:
        """What was dropped in each interval by endpoint and direction, for `reason` or, if it is empty, for any."""
        sums: dict[DirectionKey, Sequence[float]] = {}
        for (endpoint, direction, why), counts in self._series.items():
            if reason in ("", why):
                earlier = sums.get((endpoint, direction))
                both = counts if earlier is None else [one + other for one, other in zip(earlier, counts, strict=True)]
                sums[endpoint, direction] = both
        return sums

    def reset_at(self, endpoint: Endpoint) -> float | None:
        """When this endpoint's counters were last seen to be reset, None if they were not."""
        return self._resets.get(endpoint.key)

    def forget_before(self, oldest: float) -> None:
        """Forgets the intervals and resets before this moment, and series without drops after it."""
        while self.intervals and self.intervals[0].end <= oldest:
            self.intervals.popleft()
            for counts in self._series.values():
                del counts[0]
        self._series = {key: counts for key, counts in self._series.items() if any(counts)}
        self._resets = {key: at for key, at in self._resets.items() if at > oldest}
        if self.left_out_at is not None and self.left_out_at <= oldest:
            self.left_out_at = None

    def _compare(self, before: Snapshot, now: Snapshot, at: float) -> dict[_Key, int]:
        layout = now.counters.get().layout
        dropped: dict[_Key, int] = {}
        for change in compare_counters(before, now):
            if change.reset and len(self._resets) < MAX_SERIES:
                self._resets[change.endpoint.key] = at
            for direction, counted in by_direction(change.counters, layout).items():
                dropped |= {
                    (change.endpoint.key, direction, reason): packets for reason, packets in counted.dropped.items()
                }
        return dropped
