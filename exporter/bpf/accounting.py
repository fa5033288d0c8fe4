"""How many entries a map has by the memory that the kernel accounts for it, which needs no reading of the map.

Since Linux 6.4 the accounted memory of a map without preallocation is a base and a size for each entry, by the formulas
`htab_map_mem_usage` (kernel/bpf/hashtab.c) and `trie_mem_usage` (kernel/bpf/lpm_trie.c). Two sizes in them are the
kernel build's own: of `struct bpf_htab` (with its locks for each CPU) and of `struct lpm_trie_node`. They are learned
from a count, and each shape of map is checked against another one; what does not agree exactly is not used, and the map
is counted instead.
"""

import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from exporter.bpf.maps import MapInfo, NotAMap, map_type

_NO_PREALLOC = 1
_FIRST_RELEASE = (6, 4)
_BUCKET, _HASH_ELEMENT, _LIST_NODE = 16, 48, 8
_TRIE_NODES = (24, 40)  # without and with the head for freeing after a grace period
# A map that changes while it is counted may differ from its memory by this part of its entries; an entry's size that is
# wrong by one word differs by more.
_TOLERANCE = 64

_NAMES = (b"map_type", b"key_size", b"value_size", b"max_entries", b"map_flags", b"map_id")

Shape = tuple[str, int, int, int]


class MapUsage(NamedTuple):  # many at each scrape: four times as fast as a dataclass
    """A map's shape and the bytes that the kernel accounts for it, None where that does not tell its entries."""

    info: MapInfo
    memory: int | None


def tells_entries(info: MapInfo, release: str) -> bool:
    """Whether the kernel of this release accounts memory entry by entry for such a map."""
    major, minor = (int(part) if part.isdecimal() else 0 for part in (*release.split("."), "0")[:2])
    return (major, minor) >= _FIRST_RELEASE and info.type in ("hash", "lpm_trie") and bool(info.flags & _NO_PREALLOC)


def usage_of(pin: str, text: bytes) -> MapUsage:
    """The map behind a descriptor by its text in `/proc/self/fdinfo`. Raises `NotAMap` for anything else."""
    before, _, rest = text.partition(b"\nmemlock:\t")
    memory, _, after = rest.partition(b"\n")
    info, tells = _info_of(pin, before, after)
    return MapUsage(info, int(memory) if tells else None)


@lru_cache(maxsize=128)  # the same maps at each scrape
def _info_of(pin: str, before: bytes, after: bytes) -> tuple[MapInfo, bool]:
    """A map's shape, and whether its memory tells its entries, by what is before and after its memory."""
    fields = dict(line.split(b":\t", 1) for line in (*before.splitlines(), *after.splitlines()) if b":\t" in line)
    try:
        kind, key_size, value_size, max_entries, flags, number = (int(fields[name], 0) for name in _NAMES)
    except (KeyError, ValueError) as error:
        raise NotAMap(f"{pin} is not a pinned BPF map") from error
    info = MapInfo(pin, number, "", map_type(kind), key_size, value_size, max_entries, flags)
    return info, tells_entries(info, os.uname().release)


@dataclass(frozen=True, slots=True)
class _Guess:
    """A hash map's own size as one count of entries told it, which is true if an entry has the size it should."""

    head: int
    shape: Shape
    counted: int


@dataclass(slots=True)
class Accounting:
    """What is known of this kernel's sizes: `head` is a hash map's own, `node` a trie's node's, None until counted.

    An empty map tells `head`; that of one with entries is a guess until another count confirms it.
    """

    head: int | None = None
    node: int | None = None
    guess: _Guess | None = None
    checked: set[Shape] = field(default_factory=set)

    def entries(self, usage: MapUsage) -> int | None:
        """The map's entries; None if its memory does not tell them (yet)."""
        sizes = self._sizes(usage.info, self.head)
        if usage.memory is None or sizes is None:
            return None
        base, element = sizes
        if usage.memory == base:
            return 0  # whatever an entry takes
        number, rest = divmod(usage.memory - base, element)
        if rest or not 0 < number <= usage.info.max_entries:
            self.checked.discard(_shape(usage.info))
            return None
        return number if _shape(usage.info) in self.checked else None

    def check(self, counted: int, before: MapUsage, after: MapUsage) -> None:
        """Compares a count with the memory before and after it; once it agrees, maps of this shape need none."""
        info = before.info
        if before.memory is None or after.memory is None or info != after.info:
            return
        still = before.memory == after.memory
        if still and self._learn(counted, info, before.memory):
            return
        sizes = self._sizes(info, self.head or (self.guess.head if self.guess else None))
        if sizes is None or not counted:
            return
        base, element = sizes
        least, most = sorted(((before.memory - base) / element, (after.memory - base) / element))
        margin = 0 if still else counted / _TOLERANCE
        self._conclude(_shape(info), agrees=least - margin <= counted <= most + margin)

    def _learn(self, counted: int, info: MapInfo, memory: int) -> bool:
        """Whether this count was used to learn a hash map's own size, and so cannot confirm it."""
        if info.type == "lpm_trie":
            fits = [node for node in _TRIE_NODES if counted and counted * _trie_element(info, node) == memory]
            self.node = fits[0] if fits else self.node
            return False
        head = memory - counted * _hash_element(info) - _buckets(info)
        if self.head is not None or head <= 0 or head % 8:
            return False
        if not counted:
            self.head, self.guess = head, None
        elif self.guess is None:
            self.guess = _Guess(head, _shape(info), counted)
        else:
            return (self.guess.shape, self.guess.counted) == (_shape(info), counted)
        return True

    def _conclude(self, shape: Shape, *, agrees: bool) -> None:
        if agrees:
            self.checked.add(shape)
        else:
            self.checked.discard(shape)
        if self.guess and shape[0] == "hash":
            if agrees:
                self.checked.add(self.guess.shape)
                self.head = self.guess.head
            self.guess = None

    def _sizes(self, info: MapInfo, head: int | None) -> tuple[int, int] | None:
        if info.type == "lpm_trie":
            return 0, _trie_element(info, self.node or _TRIE_NODES[0])
        return (head + _buckets(info), _hash_element(info)) if head else None


def _shape(info: MapInfo) -> Shape:
    return info.type, info.key_size, info.value_size, info.max_entries


def _buckets(info: MapInfo) -> int:
    return _BUCKET << max(info.max_entries - 1, 0).bit_length()


def _hash_element(info: MapInfo) -> int:
    return _HASH_ELEMENT + (info.key_size + 7) // 8 * 8 + (info.value_size + 7) // 8 * 8 + _LIST_NODE


def _trie_element(info: MapInfo, node: int) -> int:
    return node + info.key_size - 4 + info.value_size
