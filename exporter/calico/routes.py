"""The route maps `cali_v4_routes` and `cali_v6_routes`: what Calico's programs know about an address.

An entry is `{u32 prefix length, address}` -> `{u32 flags, next hop}` in a longest-prefix map; the next hop is a node's
address for a workload on another node and an interface index (u32) for one on this node. Sources:
felix/bpf-gpl/routes.h and felix/bpf/routes (`map.go`, `map6.go`), which have these sizes from v3.26 (IPv4) and v3.27
(IPv6) to v3.33; later releases added flags. Not the kernel's routes: those are `HostRoute` in `exporter/node`.
"""

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

from exporter.calico.tables import Columns, address_text, layout_of, remembered

# `enum cali_rt_flags` in felix/bpf-gpl/routes.h, with the names that Calico's own tool prints for them.
FLAGS = {
    0x1: "in-pool",
    0x2: "nat-out",
    0x4: "workload",
    0x8: "local",
    0x10: "host",
    0x20: "same-subnet",
    0x40: "tunneled",
    0x80: "no-dsr",
    0x100: "blackhole-drop",
    0x200: "blackhole-reject",
    0x400: "vxlan",
    0x800: "skip-ingress-redir",
}
_IN_POOL, _WORKLOAD, _LOCAL, _HOST = 0x1, 0x4, 0x8, 0x10
# With both flags, the next hop is the index of an interface.
LOCAL_WORKLOAD = _WORKLOAD | _LOCAL


@dataclass(frozen=True, slots=True)
class Route:
    """What Calico knows about the addresses of a prefix; `next_hop` is empty and `ifindex` 0 where there is none."""

    address: str
    bits: int
    flags: int
    next_hop: str
    ifindex: int

    @property
    def local_workload(self) -> bool:
        """Whether it is a pod of this node."""
        return bool(self.flags & _WORKLOAD and self.flags & _LOCAL)

    @property
    def remote_workload(self) -> bool:
        """Whether it is a pod of another node, or a block of such pods."""
        return bool(self.flags & _WORKLOAD and not self.flags & _LOCAL)

    @property
    def local_host(self) -> bool:
        """Whether it is an address of this node."""
        return bool(self.flags & _HOST and self.flags & _LOCAL)

    @property
    def remote_host(self) -> bool:
        """Whether it is an address of another node."""
        return bool(self.flags & _HOST and not self.flags & _LOCAL)

    @property
    def host(self) -> bool:
        """Whether it is an address of a node: node ports answer there."""
        return bool(self.flags & _HOST)

    @property
    def in_pool(self) -> bool:
        """Whether an IP pool contains it."""
        return bool(self.flags & _IN_POOL)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its flags, lowest bit first; a bit without a name as a hexadecimal number."""
        return tuple(FLAGS.get(1 << bit, hex(1 << bit)) for bit in range(32) if self.flags >> bit & 1)


_LAYOUTS = {
    (8, 8): (struct.Struct("<I4s"), struct.Struct("<I4s")),
    (20, 20): (struct.Struct("<I16s"), struct.Struct("<I16s")),
}


def decode_routes(columns: Columns) -> tuple[Route, ...]:
    """The routes of a family by address, the longest prefix of an address first. Raises `LayoutError`."""
    key, value = layout_of("route", columns, _LAYOUTS)
    text = remembered(address_text)
    found = []
    for (bits, address), (flags, hop) in columns.rows(key, value):
        by_index = flags & LOCAL_WORKLOAD == LOCAL_WORKLOAD
        ifindex = int.from_bytes(hop[:4], "little") if by_index else 0
        next_hop = "" if by_index or not any(hop) else text(hop)
        found.append(((address, -bits), Route(text(address), bits, flags, next_hop, ifindex)))
    return tuple(route for _, route in sorted(found, key=lambda one: one[0]))


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Routes of one IP family that can be asked for the longest prefix of an address, as the kernel's map answers."""

    routes: tuple[Route, ...]
    _by_bits: dict[int, dict[int, Route]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for route in self.routes:
            packed = ip_address(route.address)
            if 0 <= route.bits <= packed.max_prefixlen:
                self._by_bits.setdefault(route.bits, {})[int(packed) >> packed.max_prefixlen - route.bits] = route

    def of(self, address: str) -> Route | None:
        """The route of an address, None where Calico knows nothing about it. Raises ValueError for no address."""
        packed = ip_address(address)
        if not self.routes or ip_address(self.routes[0].address).version != packed.version:
            return None
        for bits in sorted(self._by_bits, reverse=True):
            route = self._by_bits[bits].get(int(packed) >> packed.max_prefixlen - bits)
            if route:
                return route
        return None
