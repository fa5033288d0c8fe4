"""The shape of each of Calico's maps: its type and sizes, which are checked before a map is read.

Another map under one of Calico's names would decode into numbers that nobody counted, or could not be walked at all.
Sizes that differ by release are checked by the decoders.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporter.calico import LayoutError
from exporter.calico.pins import COUNTERS, IFACE, IP_SETS, PROGRAMS, RULES

_PER_CPU = ("percpu_hash", "lru_percpu_hash")
_MIN_STATE = 20  # flags and the interface's name


@dataclass(frozen=True, slots=True)
class _Shape:
    types: tuple[str, ...]
    key_size: int
    has_value: Callable[[int], bool]


_SHAPES: Mapping[str, _Shape] = {
    COUNTERS: _Shape(_PER_CPU, 8, lambda size: size > 0 and size % 8 == 0),
    RULES: _Shape(_PER_CPU, 8, lambda size: size == 8),
    IFACE: _Shape(("hash", "lru_hash"), 4, lambda size: size >= _MIN_STATE),
    PROGRAMS: _Shape(("prog_array",), 4, lambda size: size == 4),
    IP_SETS[4]: _Shape(("lpm_trie",), 20, lambda size: size == 4),
    IP_SETS[6]: _Shape(("lpm_trie",), 32, lambda size: size == 4),
}


def check_shape(datum: str, pin: str, map_type: str, key_size: int, value_size: int) -> None:
    """Raises `LayoutError` unless the map pinned as `pin` can be the one that holds `datum`; sizes are bytes."""
    shape = _SHAPES[datum]
    if map_type not in shape.types or key_size != shape.key_size or not shape.has_value(value_size):
        raise LayoutError(
            f"{pin} is a {map_type} map with keys of {key_size} and values of {value_size} bytes, "
            f"which cannot be Calico's {datum} map: another program has pinned it there"
        )
