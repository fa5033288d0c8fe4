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

# `enum cali_rt_flags` in felix/bpf-gpl/routes.h; a blackhole drops or rejects.
_IN_POOL, _NAT_OUTGOING, _WORKLOAD, _LOCAL, _HOST, _TUNNELED, _BLACKHOLE = 0x1, 0x2, 0x4, 0x8, 0x10, 0x40, 0x300
# With both flags, the next hop is the index of an interface.
LOCAL_WORKLOAD = _WORKLOAD | _LOCAL


@dataclass(frozen=True, slots=True)
class Route:
    """What Calico knows about the addresses of a prefix; `next_hop` is the node that has them, empty for none."""

    address: str
    bits: int
    flags: int
    next_hop: str

    @property
    def local_workload(self) -> bool:
        """Whether it is a pod of this node."""
        return self.flags & LOCAL_WORKLOAD == LOCAL_WORKLOAD

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
    def nat_outgoing(self) -> bool:
        """Whether outgoing NAT replaces the source of packets from it to outside of all IP pools."""
        return bool(self.flags & _NAT_OUTGOING)

    @property
    def tunneled(self) -> bool:
        """Whether packets to it are in a tunnel."""
        return bool(self.flags & _TUNNELED)

    @property
    def blackhole(self) -> bool:
        """Whether what comes in for it is dropped or rejected before policy."""
        return bool(self.flags & _BLACKHOLE)


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
        is_node = flags & LOCAL_WORKLOAD != LOCAL_WORKLOAD and any(hop)
        found.append(((address, -bits), Route(text(address), bits, flags, text(hop) if is_node else "")))
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
