"""Rows of a map whose keys and values have fixed sizes: what the decoders of NAT, routes and connection tracking share.

Keys and values come as two byte strings, row after row in both. A decoder names the sizes that it knows and the format
of each; other sizes, or columns that do not match, are a `LayoutError`.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from exporter.calico import LayoutError

_Layout = TypeVar("_Layout")


@dataclass(frozen=True, slots=True)
class Columns:
    """The entries of a map: `keys` of `key_size` bytes each, `values` of `value_size` bytes each, in the same order."""

    keys: bytes
    values: bytes
    key_size: int
    value_size: int

    def rows(self, key: struct.Struct, value: struct.Struct) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """The fields of each entry."""
        return zip(key.iter_unpack(self.keys), value.iter_unpack(self.values), strict=True)

    def part(self, start: int, end: int) -> "Columns":
        """The entries from position `start` to before `end`."""
        key, value = self.key_size, self.value_size
        return Columns(self.keys[start * key : end * key], self.values[start * value : end * value], key, value)


def layout_of(name: str, columns: Columns, layouts: Mapping[tuple[int, int], _Layout]) -> _Layout:
    """The layout for these sizes of key and value. Raises `LayoutError` when there is none or an entry is cut off."""
    sizes = columns.key_size, columns.value_size
    if sizes not in layouts:
        known = " or ".join(f"{key} and {value}" for key, value in layouts)
        raise LayoutError(f"the {name} map has keys of {sizes[0]} and values of {sizes[1]} bytes, expected {known}")
    keys, values = divmod(len(columns.keys), sizes[0]), divmod(len(columns.values), sizes[1])
    if keys != values or keys[1]:
        raise LayoutError(f"the {name} map has {len(columns.keys)} bytes of keys and {len(columns.values)} of values")
    return layouts[sizes]


def address_port(address: str, port: int) -> str:
    """An address and port, as in a URL."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def address_text(packed: bytes) -> str:
    """An address of 4 or 16 bytes as text."""
    return str(IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed))


def remembered(text: Callable[[bytes], str]) -> Callable[[bytes], str]:
    """The same function, which makes each text once: a map names few addresses often."""
    known: dict[bytes, str] = {}

    def call(packed: bytes) -> str:
        found = known.get(packed)
        if found is None:
            found = known[packed] = text(packed)
        return found

    return call
