"""Whether a process's resources stay flat, and the tables of a soak test. Pure except for `measure`.

After the warm-up the samples are split into quarters. The median of the last quarter may exceed that of the second by
at most `MAX_GROWTH`. The first quarter is ignored: caches fill there.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median

import psutil

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """The resources of a process; `children` includes all descendants."""

    resident: int
    descriptors: int
    threads: int
    children: int


# One descriptor is the API server's connection, which is down now and then, and one a scrape's; resident memory grows
# in the allocator's steps.
MAX_GROWTH = Sample(resident=3 * _MIB, descriptors=2, threads=0, children=0)
MIN_SAMPLES = 20


def measure(process: psutil.Process) -> Sample:
    """Its current resources."""
    with process.oneshot():
        memory, threads = process.memory_info().rss, process.num_threads()
    return Sample(memory, process.num_fds(), threads, len(process.children(recursive=True)))


def quarters(samples: Sequence[Sample]) -> list[Sample]:
    """The medians of the four quarters, or none for too few samples."""
    if len(samples) < MIN_SAMPLES:
        return []
    cuts = [len(samples) * part // 4 for part in range(5)]
    parts = [samples[start:end] for start, end in pairwise(cuts)]
    return [Sample(*(int(median(column)) for column in zip(*map(_row, part), strict=True))) for part in parts]


def growth(samples: Sequence[Sample]) -> list[str]:
    """A sentence about each measure that is not flat."""
    if len(samples) < MIN_SAMPLES:
        return [f"only {len(samples)} samples were taken: a soak needs {MIN_SAMPLES} after its warm-up"]
    _, second, _, last = quarters(samples)
    found = []
    for name, before in asdict(second).items():
        after = getattr(last, name)
        most = before + getattr(MAX_GROWTH, name)
        if after > most:
            found.append(f"{name} grew from {before} in the second quarter to {after} in the last; {most} is the most")
    return found


def table(samples: dict[str, Sequence[Sample]]) -> list[str]:
    """The rows of a Markdown table: the medians of each server's quarters."""
    rows = ["| server | quarter | resident | descriptors | threads | children |", "|---|---|---|---|---|---|"]
    for server, taken in samples.items():
        for when, one in zip(("first", "second", "third", "last"), quarters(taken), strict=False):
            memory = f"{one.resident / _MIB:.1f} MiB"
            rows.append(f"| {server} | {when} | {memory} | {one.descriptors} | {one.threads} | {one.children} |")
    return rows


def _row(sample: Sample) -> tuple[int, ...]:
    return (sample.resident, sample.descriptors, sample.threads, sample.children)
