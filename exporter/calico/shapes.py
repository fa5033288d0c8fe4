"""The shape of each of Calico's maps: its type and sizes, which are checked before a map is read.

Another map under one of Calico's names would decode into numbers that nobody counted, or could not be walked at all.
Sizes that differ by release are checked by the decoders.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporter.calico import LayoutError
from exporter.calico.ifstate import MIN_VALUE_SIZE
from exporter.calico.pins import (
    CONNTRACK,
    COUNTERS,
    FAILSAFES,
    IFACE,
    IP_SETS,
    NAT_AFFINITY,
    NAT_BACKENDS,
    NAT_FRONTENDS,
    PROGRAMS,
    ROUTES,
    RULES,
)

_PER_CPU = ("percpu_hash", "lru_percpu_hash")
_MIN_FLOW = 64  # times, flags and two legs


@dataclass(frozen=True, slots=True)
class _Shape:
    types: tuple[str, ...]
    key_size: int
    has_value: Callable[[int], bool]


def _are_counts(size: int) -> bool:
    return size > 0 and size % 8 == 0


_SHAPES: Mapping[str, _Shape] = {
    COUNTERS: _Shape(_PER_CPU, 8, _are_counts),
    RULES: _Shape(_PER_CPU, 8, _are_counts),
    IFACE: _Shape(("hash", "lru_hash"), 4, lambda size: size >= MIN_VALUE_SIZE),
    PROGRAMS: _Shape(("prog_array",), 4, lambda size: size == 4),
    IP_SETS[4]: _Shape(("lpm_trie",), 20, lambda size: size == 4),
    IP_SETS[6]: _Shape(("lpm_trie",), 32, lambda size: size == 4),
    FAILSAFES[4]: _Shape(("lpm_trie",), 12, lambda size: size == 4),
    FAILSAFES[6]: _Shape(("lpm_trie",), 24, lambda size: size == 4),
    NAT_FRONTENDS[4]: _Shape(("lpm_trie",), 16, lambda size: size == 20),
    NAT_FRONTENDS[6]: _Shape(("lpm_trie",), 40, lambda size: size == 20),
    NAT_BACKENDS[4]: _Shape(("hash",), 8, lambda size: size == 8),
    NAT_BACKENDS[6]: _Shape(("hash",), 8, lambda size: size == 20),
    NAT_AFFINITY[4]: _Shape(("lru_hash",), 16, lambda size: size == 16),
    NAT_AFFINITY[6]: _Shape(("lru_hash",), 40, lambda size: size == 32),
    ROUTES[4]: _Shape(("lpm_trie",), 8, lambda size: size == 8),
    ROUTES[6]: _Shape(("lpm_trie",), 20, lambda size: size == 20),
    CONNTRACK[4]: _Shape(("hash", "lru_hash"), 16, lambda size: size >= _MIN_FLOW),
    CONNTRACK[6]: _Shape(("hash", "lru_hash"), 40, lambda size: size >= _MIN_FLOW),
}


def check_shape(datum: str, pin: str, map_type: str, key_size: int, value_size: int) -> None:
    """Raises `LayoutError` unless the map pinned as `pin` can be the one that holds `datum`; sizes are bytes."""
    shape = _SHAPES[datum]
    if map_type not in shape.types or key_size != shape.key_size or not shape.has_value(value_size):
        raise LayoutError(
            f"{pin} is a map of type {map_type} with keys of {key_size} and values of {value_size} bytes, "
            f"which cannot be Calico's {datum} map",
            "find out which program has pinned it there; if it is Calico, send a bundle to the developers",
        )
