"""The service maps: NAT frontends, their backends, and session affinity.

A frontend is `{u32 prefix length, address, u16 port, u8 protocol, source address, u8 padding}` -> `{u32 id, u32 count,
u32 local, u32 affinity timeout, u32 flags}` in a longest-prefix map: the prefix length counts address, port and
protocol (56 bits in IPv4, 152 in IPv6) and then those of the source range. A backend is `{u32 id, u32 ordinal}` ->
`{address, u16 port, u8 padding[2]}`, those on this node first. Ports are little-endian, addresses in network order.
Sources: felix/bpf-gpl/nat_types.h and felix/bpf/nat (`maps.go`, `maps6.go`), which have these sizes from v3.26 (IPv4)
and v3.27 (IPv6) to v3.33. `services.py` finds the service of an address in them.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from exporter.calico.tables import Columns, address_text, layout_of, remembered

# felix/bpf/nat/maps.go: `BlackHoleCount`, the entry that drops what comes from outside the source ranges.
_DROP_COUNT = 0xFFFFFFFF
# `NATFlgExternalLocal`, `NATFlgInternalLocal`, `NATFlgExclude` (v3.27).
_EXTERNAL_LOCAL, _INTERNAL_LOCAL, _EXCLUDE = 0x1, 0x2, 0x4


@dataclass(frozen=True, slots=True)
class Frontend:
    """An address and port that Calico's programs translate, for packets whose source is in `source_range`.

    `id` is shared by all frontends of a service's port; `count` is the number of backends, of which the first `local`
    are on this node; `affinity` is the timeout of session affinity in seconds, 0 without.
    """

    address: str
    port: int
    protocol: int
    source_range: str
    source_bits: int
    id: int
    count: int
    local: int
    affinity: int
    flags: int

    @property
    def drops(self) -> bool:
        """Whether packets are dropped: their source is in none of the service's load-balancer source ranges."""
        return self.count == _DROP_COUNT

    @property
    def external_local(self) -> bool:
        """Whether clients outside the cluster reach only backends on this node (externalTrafficPolicy: Local)."""
        return bool(self.flags & _EXTERNAL_LOCAL)

    @property
    def internal_local(self) -> bool:
        """Whether pods and nodes reach only backends on this node (internalTrafficPolicy: Local)."""
        return bool(self.flags & _INTERNAL_LOCAL)

    @property
    def excluded(self) -> bool:
        """Whether Calico leaves this service to another load balancer (an excluded service)."""
        return bool(self.flags & _EXCLUDE)


@dataclass(frozen=True, slots=True)
class Backend:
    """An endpoint of a service."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Affinity:
    """The backend that `client` gets at a frontend."""

    address: str
    port: int
    protocol: int
    client: str
    backend: Backend


_FRONTENDS = {
    (16, 20): (struct.Struct("<I4sHB4sx"), struct.Struct("<5I")),
    (40, 20): (struct.Struct("<I16sHB16sx"), struct.Struct("<5I")),
}
_BACKENDS = {
    (8, 8): (struct.Struct("<II"), struct.Struct("<4sHxx")),
    (8, 20): (struct.Struct("<II"), struct.Struct("<16sHxx")),
}
_AFFINITY = {
    (16, 16): (struct.Struct("<4sHBx4s4x"), struct.Struct("<4sHxx8x")),
    (40, 32): (struct.Struct("<16sHBx16s4x"), struct.Struct("<16sHxx4x8x")),
}


def decode_frontends(columns: Columns) -> tuple[Frontend, ...]:
    """The frontends, by address, port, protocol and source range, the narrowest range first. Raises `LayoutError`."""
    key, value = layout_of("NAT frontend", columns, _FRONTENDS)
    text = remembered(address_text)
    found = []
    for (length, address, port, protocol, source), numbers in columns.rows(key, value):
        bits = length - 8 * (len(address) + 3)
        row = Frontend(text(address), port, protocol, f"{text(source)}/{bits}", bits, *numbers)
        found.append(((address, port, protocol, -bits, source), row))
    return tuple(row for _, row in sorted(found, key=lambda one: one[0]))


def decode_backends(columns: Columns) -> Mapping[int, tuple[Backend, ...]]:
    """The backends of each service's port by its id, in the order of their ordinals. Raises `LayoutError`."""
    key, value = layout_of("NAT backend", columns, _BACKENDS)
    text = remembered(address_text)
    found: dict[int, dict[int, Backend]] = {}
    for (number, ordinal), (address, port) in columns.rows(key, value):
        found.setdefault(number, {})[ordinal] = Backend(text(address), port)
    return {number: tuple(one for _, one in sorted(found[number].items())) for number in sorted(found)}


def decode_affinity(columns: Columns) -> tuple[Affinity, ...]:
    """The clients that are bound to a backend, by frontend and client. Raises `LayoutError`."""
    key, value = layout_of("NAT affinity", columns, _AFFINITY)
    text = remembered(address_text)
    found = []
    for (address, port, protocol, client), (backend, backend_port) in columns.rows(key, value):
        row = Affinity(text(address), port, protocol, text(client), Backend(text(backend), backend_port))
        found.append(((address, port, protocol, client), row))
    return tuple(row for _, row in sorted(found, key=lambda one: one[0]))
