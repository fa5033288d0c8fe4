"""Redacts the entries of Calico's maps: the addresses and interface names in their keys and values.

Where they are follows from the layouts that the decoders in `exporter/calico` describe. Counters and arrays of programs
have neither, and the keys of rule hits are ids. A map of another layout is left out: what is in it is not known.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exporter.calico.conntrack_rows import BODY, KINDS, NAT_FORWARD
from exporter.calico.ifstate import KEY_SIZE, MIN_VALUE_SIZE
from exporter.calico.names import decode_name
from exporter.calico.pins import (
    CONNTRACK,
    COUNTERS,
    FAILSAFES,
    IFACE,
    IP_SETS,
    NAT_AFFINITY,
    NAT_BACKENDS,
    NAT_FRONTENDS,
    POLICY_PROGRAMS,
    PROGRAMS,
    ROUTES,
    RULES,
)
from exporter.calico.routes import LOCAL_WORKLOAD
from exporter.calico.rules import KEY_SIZE as RULE_KEY_SIZE
from exporter.snapshot.redacted_names import Names
from exporter.snapshot.redacted_rules import RuleIds

_PLAIN = frozenset({COUNTERS, PROGRAMS, *POLICY_PROGRAMS.values()})
_NAME_SIZE = 16
_ANY = 0  # for the size of a value that says nothing
_KIND = 16  # the offset of an entry's type in a value of connection tracking


@dataclass(frozen=True, slots=True)
class AddressField:
    """An address of `size` bytes at `offset`; its prefix has as many bits as the key's first number says less `shift`,
    or all.
    """

    offset: int
    size: int
    shift: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The addresses in a map's keys and in its values."""

    keys: tuple[AddressField, ...] = ()
    values: tuple[AddressField, ...] = ()


def _layouts() -> Iterator[tuple[tuple[str, int, int], Layout]]:
    """The layouts by datum and the sizes of key and value."""
    for family, size, backend in ((4, 4, 8), (6, 16, 20)):
        yield (IP_SETS[family], 16 + size, _ANY), Layout((AddressField(12, size, 64),))
        yield (FAILSAFES[family], 8 + size, _ANY), Layout((AddressField(8, size, 32),))
        frontend = (AddressField(4, size), AddressField(7 + size, size, 8 * (size + 3)))
        yield (NAT_FRONTENDS[family], 8 + 2 * size, 20), Layout(frontend)
        yield (NAT_BACKENDS[family], 8, backend), Layout(values=(AddressField(0, size),))
        affinity = (AddressField(0, size), AddressField(size + 4, size))
        yield (NAT_AFFINITY[family], 8 + 2 * size, 16 if size == 4 else 32), Layout(affinity, (AddressField(0, size),))
        yield (ROUTES[family], 4 + size, 4 + size), Layout((AddressField(4, size, 0),), (AddressField(4, size),))
    # Behind the legs: the address of the tunnel, of the service, and of the source before translation.
    for family, size, value, offsets in ((4, 4, 64, (48, 56)), (4, 4, 88, (72, 76, 84)), (6, 16, 128, (72, 88, 108))):
        key = (AddressField(4, size), AddressField(4 + size, size))
        yield (CONNTRACK[family], 8 + 2 * size, value), Layout(key, tuple(AddressField(one, size) for one in offsets))


_LAYOUTS = dict(_layouts())


class MapRows:
    """Redacts maps; `None` of one whose layout is not known."""

    def __init__(self, names: Names, rule_ids: RuleIds) -> None:
        self._names = names
        self._rule_ids = rule_ids

    def redact(self, datum: str, sizes: tuple[int, int], keys: bytes, values: bytes) -> tuple[bytes, bytes] | None:
        """The keys and values of the map of this datum, with these sizes of a key and a value."""
        if datum in _PLAIN:
            return keys, values
        if datum == RULES and sizes[0] == RULE_KEY_SIZE:
            return self._rule_ids.redact_keys(keys), values
        change = self._change(datum, sizes)
        if change is None or len(keys) % sizes[0] or len(values) % sizes[1]:
            return None
        rows = zip(_split(keys, sizes[0]), _split(values, sizes[1]), strict=False)
        changed = [change(bytearray(key), bytearray(value)) for key, value in rows]
        return b"".join(key for key, _ in changed), b"".join(value for _, value in changed)

    def _change(
        self, datum: str, sizes: tuple[int, int]
    ) -> Callable[[bytearray, bytearray], tuple[bytearray, bytearray]] | None:
        if datum == IFACE:
            return self._interface if sizes[0] == KEY_SIZE and sizes[1] >= MIN_VALUE_SIZE else None
        layout = _LAYOUTS.get((datum, *sizes)) or _LAYOUTS.get((datum, sizes[0], _ANY))
        if layout is None:
            return None
        return lambda key, value: self._row(datum, layout, key, value)

    def _interface(self, key: bytearray, value: bytearray) -> tuple[bytearray, bytearray]:
        name = slice(KEY_SIZE, KEY_SIZE + _NAME_SIZE)
        replaced = self._names.interface(decode_name(bytes(value[name])))
        value[name] = replaced.encode().ljust(_NAME_SIZE, b"\0")
        return key, value

    def _row(self, datum: str, layout: Layout, key: bytearray, value: bytearray) -> tuple[bytearray, bytearray]:
        length = int.from_bytes(key[:4], "little")
        for field in layout.keys:
            self._replace(key, field, length)
        if datum in CONNTRACK.values():
            self._flow(len(key), layout, value)
        elif datum not in ROUTES.values() or not _leads_to_interface(value):
            for field in layout.values:
                self._replace(value, field, 0)
        return key, value

    def _flow(self, key_size: int, layout: Layout, value: bytearray) -> None:
        kind = KINDS.get(value[_KIND])
        if kind != NAT_FORWARD:
            for field in layout.values if kind else ():
                self._replace(value, field, 0)
            value[BODY:] = value[BODY:] if kind else bytes(len(value) - BODY)
            return
        for field in layout.keys:  # its body is the key of the reverse entry and a port
            self._replace(value, AddressField(BODY + field.offset, field.size), 0)
        end = BODY + key_size + 2
        value[end:] = bytes(len(value) - end)

    def _replace(self, row: bytearray, field: AddressField, length: int) -> None:
        part = slice(field.offset, field.offset + field.size)
        bits = 8 * field.size if field.shift is None else min(max(length - field.shift, 0), 8 * field.size)
        row[part] = self._names.addresses.network(bytes(row[part]), bits)


def _split(column: bytes, size: int) -> Iterator[bytes]:
    return (column[start : start + size] for start in range(0, len(column), size))


def _leads_to_interface(value: bytearray) -> bool:
    """Whether the next hop of a route is the index of an interface."""
    return int.from_bytes(value[:4], "little") & LOCAL_WORKLOAD == LOCAL_WORKLOAD
