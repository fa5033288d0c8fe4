"""What a snapshot keeps of the connection-tracking maps: counts of all entries, and few of them.

A map can hold 512,000 entries and more, so nothing here holds all. Kept are the half-approved entries to an endpoint of
this node, which are what its policy denied, and the entries of the addresses that the caller names, each up to
`MAX_ENTRIES`.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from exporter.calico.conntrack import Entry, decode_conntrack
from exporter.calico.conntrack_rows import NAT_FORWARD, UNKNOWN, last_use, pick, scan_conntrack
from exporter.calico.tables import Columns

MAX_ENTRIES = 1 << 15
_NOT_DECODED = (NAT_FORWARD, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Conntrack:
    """What the connection-tracking maps of both IP families held.

    `counts` are all entries by IP family, protocol and state; `of_address` those of each local address by address,
    protocol and state, where an entry between two of them counts for both. `entries` are the kept ones, `left_out` how
    many more there were to keep. `at` is the clock of the entries' times when they were read, None if unknown.
    `partial` says that a bundle holds only the entries of the node's endpoints.
    """

    counts: Mapping[tuple[int, int, str], int]
    of_address: Mapping[tuple[str, int, str], int]
    entries: tuple[Entry, ...]
    left_out: int
    at: int | None
    partial: bool = False

    def age(self, entry: Entry) -> float | None:
        """Seconds since the entry's last packet when it was read."""
        return None if self.at is None else max(self.at - entry.last_seen, 0) / 1e9


@dataclass(frozen=True, slots=True)
class Wanted:
    """Packed addresses: the node's endpoints have the `local` ones, all entries of the `named` ones are kept."""

    local: frozenset[bytes]
    named: frozenset[bytes]

    @classmethod
    def of(cls, local: Iterable[str], named: Iterable[str]) -> "Wanted":
        """The same of addresses as text."""
        return cls(packed(local), packed(named))

    def positions(self, columns: Columns, without: Container[str] = ()) -> tuple[list[int], list[int]]:
        """Of the entries to keep, those of flows that a local endpoint denied and the others; none in a state of
        `without`.
        """
        denied, others = [], []
        for number, (_, state, source, destination, half) in enumerate(scan_conntrack(columns)):
            if half and destination in self.local:
                denied.append(number)
            elif state not in without and (source in self.named or destination in self.named):
                others.append(number)
        return denied, others


@dataclass(slots=True)
class Totals:
    """What has been read of one map so far."""

    wanted: Wanted
    counts: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    of_address: Counter[tuple[bytes, int, str]] = field(default_factory=Counter)
    entries: list[Entry] = field(default_factory=list)
    denied: int = 0
    others: int = 0
    newest: int = 0

    def add(self, family: int, columns: Columns) -> None:
        """Counts a batch and keeps what is to be kept of it."""
        for protocol, state, source, destination, _ in scan_conntrack(columns):
            self.counts[family, protocol, state] += 1
            for address in {source, destination} & self.wanted.local:
                self.of_address[address, protocol, state] += 1
        denied, others = self.wanted.positions(columns, without=_NOT_DECODED)
        space = max(MAX_ENTRIES - self.denied, 0), max(MAX_ENTRIES - self.others, 0)
        self.entries += decode_conntrack(pick(columns, sorted([*denied[: space[0]], *others[: space[1]]])))
        self.denied += len(denied)
        self.others += len(others)
        self.newest = max(self.newest, last_use(columns))

    def left_out(self) -> int:
        """How many more entries there were to keep."""
        return max(self.denied - MAX_ENTRIES, 0) + max(self.others - MAX_ENTRIES, 0)


def packed(addresses: Iterable[str]) -> frozenset[bytes]:
    """These addresses in bytes, without any that is none: the API server and files can name anything."""
    found = set()
    for one in addresses:
        with suppress(ValueError):
            found.add(ip_address(one).packed)
    return frozenset(found)
