"""How many entries a map has by the memory that the kernel accounts for it, which needs no reading of the map.

Since Linux 6.4 the accounted memory of a map without preallocation is a base and a size for each entry, by the formulas
`htab_map_mem_usage` (kernel/bpf/hashtab.c) and `trie_mem_usage` (kernel/bpf/lpm_trie.c). Two sizes in them are the
kernel build's own: of `struct bpf_htab` and of `struct lpm_trie_node`. They are learned from a count, and each shape of
map is checked against a count once; what does not agree exactly is not used, and the map is counted instead.
"""

import os
from dataclasses import dataclass, field

from exporter.bpf.maps import MapInfo, NotAMap, map_type

_NO_PREALLOC = 1
_FIRST_RELEASE = (6, 4)
_BUCKET, _HASH_ELEMENT, _LIST_NODE = 16, 48, 8
_MAX_HASH_HEAD = 4096
_TRIE_NODES = (24, 40)  # without and with the head for freeing after a grace period
# A map that changes while it is counted may differ from its memory by this part of its entries; an entry's size that is
# wrong by one word differs by more.
_TOLERANCE = 64

Shape = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class MapUsage:
    """A map's shape and the bytes that the kernel accounts for it, None where that does not tell its entries."""

    info: MapInfo
    memory: int | None


def tells_entries(info: MapInfo, release: str) -> bool:
    """Whether the kernel of this release accounts memory entry by entry for such a map."""
    major, minor = (int(part) if part.isdecimal() else 0 for part in (*release.split("."), "0")[:2])
    return (major, minor) >= _FIRST_RELEASE and info.type in ("hash", "lpm_trie") and bool(info.flags & _NO_PREALLOC)


def usage_of(pin: str, text: bytes) -> MapUsage:
    """The map behind a descriptor by its text in `/proc/self/fdinfo`. Raises `NotAMap` for anything else."""
    fields = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    names = (b"map_id", b"map_type", b"key_size", b"value_size", b"max_entries", b"map_flags", b"memlock")
    try:
        number, kind, key_size, value_size, max_entries, flags, memory = (int(fields[name], 0) for name in names)
    except (KeyError, ValueError) as error:
        raise NotAMap(f"{pin} is not a pinned BPF map") from error
    info = MapInfo(pin, number, "", map_type(kind), key_size, value_size, max_entries, flags)
    return MapUsage(info, memory if tells_entries(info, os.uname().release) else None)


@dataclass(slots=True)
class Accounting:
    """What is known of this kernel's sizes: `head` is a hash map's own, `node` a trie's node's, None until counted."""

    head: int | None = None
    node: int | None = None
    checked: set[Shape] = field(default_factory=set)

    def entries(self, usage: MapUsage) -> int | None:
        """The map's entries; None if its memory does not tell them (yet)."""
        sizes = self._sizes(usage.info)
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

    def may_tell(self, info: MapInfo) -> bool:
        """Whether the memory of such a map may tell its entries."""
        return tells_entries(info, os.uname().release)

    def check(self, counted: int, before: MapUsage, after: MapUsage) -> None:
        """Compares a count with the memory before and after it; from then on maps of this shape need none."""
        if before.memory is None or after.memory is None or before.info != after.info:
            return
        self._learn(counted, before, after)
        sizes = self._sizes(before.info)
        if sizes is None or not counted:
            return
        base, element = sizes
        least, most = sorted(((before.memory - base) / element, (after.memory - base) / element))
        margin = counted / _TOLERANCE if before.memory != after.memory else 0
        if least - margin <= counted <= most + margin:
            self.checked.add(_shape(before.info))
        else:
            self.checked.discard(_shape(before.info))

    def _learn(self, counted: int, before: MapUsage, after: MapUsage) -> None:
        info, memory = before.info, before.memory
        if memory is None or memory != after.memory:
            return
        if info.type == "lpm_trie":
            fits = [node for node in _TRIE_NODES if counted and counted * _trie_element(info, node) == memory]
            self.node = fits[0] if fits else self.node
        elif self.head is None:
            head = memory - counted * _hash_element(info) - _buckets(info)
            self.head = head if 0 < head <= _MAX_HASH_HEAD and head % 8 == 0 else None

    def _sizes(self, info: MapInfo) -> tuple[int, int] | None:
        if info.type == "lpm_trie":
            return 0, _trie_element(info, self.node or _TRIE_NODES[0])
        return (self.head + _buckets(info), _hash_element(info)) if self.head else None


def _shape(info: MapInfo) -> Shape:
    return info.type, info.key_size, info.value_size, info.max_entries


def _buckets(info: MapInfo) -> int:
    return _BUCKET << max(info.max_entries - 1, 0).bit_length()


def _hash_element(info: MapInfo) -> int:
    return _HASH_ELEMENT + (info.key_size + 7) // 8 * 8 + (info.value_size + 7) // 8 * 8 + _LIST_NODE


def _trie_element(info: MapInfo, node: int) -> int:
    return node + info.key_size - 4 + info.value_size
