"""The demo's services and routes as entries of Calico's maps.

The layouts are those that Felix writes (felix/bpf/nat and felix/bpf/routes at v3.32.1), checked against a real node's
maps. Pure: what is written is decided here, and written elsewhere. The demo's program translates by them; packets to a
service without backends it leaves to the kernel's routes.
"""

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exporter.demo.policy_rules import PROTOCOLS

# A map's name and an entry of it.
Entry = tuple[str, bytes, bytes]
# Calico's wildcard for the addresses of other nodes (`NP_SPECIAL_IP`).
_ANY_NODE = {4: "255.255.255.255", 6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
# `enum cali_rt_flags`.
IN_POOL, NAT_OUT, WORKLOAD, LOCAL, HOST, BLACKHOLE_DROP = 0x1, 0x2, 0x4, 0x8, 0x10, 0x100


@dataclass(frozen=True, slots=True)
class Service:
    """A port of a service: its number in the maps, its addresses, and its pods' addresses (of either family) and port.

    With a `node_port` it also answers on the node's own addresses; with `affinity` a client stays with a backend for
    that many seconds.
    """

    number: int
    addresses: tuple[str, ...]
    port: int
    protocol: str
    backends: tuple[str, ...] = ()
    backend_port: int = 0
    node_port: int = 0
    affinity: int = 0


def service_entries(service: Service, node_addresses: Iterable[str]) -> Iterator[Entry]:
    """Its frontends and backends in both families."""
    for address in service.addresses:
        version = ipaddress.ip_address(address).version
        backends = [one for one in service.backends if ipaddress.ip_address(one).version == version]
        ends = [(address, service.port)]
        if service.node_port:
            nodes = [one for one in node_addresses if ipaddress.ip_address(one).version == version]
            ends += [(one, service.node_port) for one in (*nodes, _ANY_NODE[version])]
        # All backends of the demo are on its only node.
        value = struct.pack("<5I", service.number, len(backends), len(backends), service.affinity, 0)
        for end, port in ends:
            yield f"cali_v{version}_nat_fe3", _frontend_key(end, port, PROTOCOLS[service.protocol]), value
        for ordinal, backend in enumerate(backends):
            to = ipaddress.ip_address(backend).packed + struct.pack("<Hxx", service.backend_port)
            yield f"cali_v{version}_nat_be", struct.pack("<II", service.number, ordinal), to


def _frontend_key(address: str, port: int, protocol: int) -> bytes:
    raw = ipaddress.ip_address(address).packed
    # The prefix ends before the source, of which every one is served.
    return struct.pack("<I", 8 * (len(raw) + 3)) + raw + struct.pack("<HB", port, protocol) + bytes(len(raw) + 1)


def route_entry(net: str, flags: int, ifindex: int = 0) -> Entry:
    """What Calico's programs know about the addresses of a network."""
    parsed = ipaddress.ip_network(net)
    raw = parsed.network_address.packed
    value = struct.pack("<I", flags) + struct.pack("<I", ifindex).ljust(len(raw), b"\0")
    return f"cali_v{parsed.version}_routes", struct.pack("<I", parsed.prefixlen) + raw, value
