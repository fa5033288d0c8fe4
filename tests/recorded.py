"""The recordings of real nodes, and the laws that hold of each of them.

A law is a function beside the tests of what it is about, `law_of_recordings` or `law_of_pairs`: it takes a recording,
or the two of a pair, and asserts. `tests/test_recordings.py` is the one test of each recording: it asks all laws, and
names every one that is broken. So a recording is read and decoded once, however many laws there are.
"""

import functools
import tarfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from exporter.metrics.scrape import COLLECTORS
from exporter.snapshot.bundle import Bundle, read_bundle
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.snapshot import Snapshot
from tests.parts import EVERY_PART

RECORDINGS = Path(__file__).parent / "recordings"
NAMES = sorted(str(path.relative_to(RECORDINGS)).removesuffix(".tar.xz") for path in RECORDINGS.rglob("*.tar.xz"))
# The recordings of an upgrade are no pairs: their two moments are two releases, or a map that was replaced.
PAIRS = [name.removesuffix(".after") for name in NAMES if name.endswith(".after") and not name.startswith("upgrade")]

_PARTS = EVERY_PART.union(*(one.parts for one in COLLECTORS))


class Recording:
    """One recording, each part of which is read on first use. Its values are not modified."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.release = name.partition("/")[0]
        self.path = RECORDINGS / f"{name}.tar.xz"

    @functools.cached_property
    def members(self) -> dict[str, bytes]:
        """Its regular files by name."""
        with tarfile.open(self.path) as archive:
            return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}

    @functools.cached_property
    def oracle(self) -> dict[str, str]:
        """The output of Calico's tools at the same moment, by file name."""
        oracles = (name for name in self.members if name.startswith("oracle/"))
        return {name.removeprefix("oracle/"): self.members[name].decode() for name in oracles}

    @functools.cached_property
    def bundle(self) -> Bundle:
        return read_bundle(self.path)

    @functools.cached_property
    def snapshot(self) -> Snapshot:
        """A snapshot of it that knows of no other: where several counter maps are pinned, the live one is unknown."""
        return self.with_parts(_PARTS)

    @functools.cached_property
    def proven(self) -> Snapshot:
        """A snapshot that knows what the exporter had proven when the bundle was written."""
        return self.with_parts(_PARTS, proven=True)

    def with_parts(self, parts: Collection[str], *, proven: bool = False) -> Snapshot:
        """A snapshot with these parts only, which knows as much as `snapshot`, or as `proven`."""
        memory = Memory()
        memory.counters.proven = self.bundle.proven_live() if proven else None
        return self.fresh(memory, parts)

    def fresh(self, memory: Memory, parts: Collection[str] = EVERY_PART) -> Snapshot:
        return take_snapshot(self.bundle, Settings(), memory, parts)


class Pair:
    """The recordings before and after packets were sent, and what was seen to move in between."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.release = name.partition("/")[0]
        self.before, self.after = (recording(f"{name}.{when}") for when in ("before", "after"))
        self.diff = self.after.oracle["diff.txt"]


@functools.lru_cache(maxsize=4)
def recording(name: str) -> Recording:
    return Recording(name)


@dataclass
class Laws:
    """Laws by the module that defines them, and the recordings that each applies to."""

    asked_of: dict = field(default_factory=dict)

    def __call__(self, names):
        """A decorator for a law of these recordings, or pairs."""

        def register(law):
            self.asked_of[law.__module__, law.__name__] = law, frozenset(names)
            return law

        return register

    def of(self, name):
        """The laws that apply to this name."""
        return [law for law, names in self.asked_of.values() if name in names]


law_of_recordings, law_of_pairs = Laws(), Laws()


def ask(laws, subject):
    """Checks all of these laws; failures are raised together, each with its name."""
    broken = []
    for law in laws:
        try:
            law(subject)
        except Exception as error:  # noqa: BLE001  whatever a law ends with, the others are asked too
            error.add_note(f"law: {law.__module__}.{law.__name__}")
            broken.append((law.__name__, error))
    if broken:
        raise ExceptionGroup(
            f"{subject.name} breaks {', '.join(name for name, _ in broken)}", [one for _, one in broken]
        )
