"""Entries of Calico's NAT, route and connection-tracking maps, made as Felix makes them (felix/bpf/nat,
felix/bpf/routes, felix/bpf/conntrack), and the tables of a real node (v3.32.1, Kubernetes, IPv4) with its services.

| service | address | ports | endpoints |
|---|---|---|---|
| default/kubernetes | 10.96.0.1 | 443/TCP | 10.99.0.1:6443 |
| kube-system/kube-dns | 10.96.0.10 | 53/UDP, 53/TCP, 9153/TCP | 10.244.145.192 :53, :53, :9153 |
| ns-b/empty | 10.96.86.233 | 80/TCP | none |
| ns-b/server | 10.96.143.136 | 80/TCP to 8080, 5300/UDP to 5300 | 10.244.145.194 |
| ns-b/web (NodePort 30080) | 10.96.42.230 | 80/TCP to 8080 | 10.244.145.199, 10.244.145.200 |

The node is 10.99.0.2.
"""

import ipaddress
import json
import struct
from pathlib import Path

from exporter.calico.tables import Columns

MAPS = json.loads((Path(__file__).parent / "calico" / "service_maps.json").read_text())
SYN, ACK, FIN, RST, APPROVED, OPENER, WORKLOAD = (1 << bit for bit in range(7))
NORMAL, FORWARD, REVERSE = 0, 1, 2
FROM_B = 0x100


def columns(*entries, sizes=None):
    """Entries (key, value) as columns; `sizes` are those of key and value where there is no entry."""
    key_size, value_size = sizes or map(len, entries[0])
    return Columns(b"".join(key for key, _ in entries), b"".join(value for _, value in entries), key_size, value_size)


def recorded(name):
    """The real node's map of this name."""
    table = MAPS[name]
    entries = [(bytes.fromhex(key), bytes.fromhex(value)) for key, value in table["entries"].items()]
    return columns(*entries, sizes=(table["key_size"], table["value_size"]))


def packed(address):
    return ipaddress.ip_address(address).packed


def frontend(address, port, protocol, number, count, *, local=0, affinity=0, flags=0, source=None):
    """A frontend entry, as `NewNATKeySrc` and `NewNATValueWithFlags` make it."""
    raw = packed(address)
    net = ipaddress.ip_network(source or f"{'::' if len(raw) == 16 else '0.0.0.0'}/0")
    length = 8 * (len(raw) + 3) + net.prefixlen
    key = struct.pack("<I", length) + raw + struct.pack("<HB", port, protocol) + net.network_address.packed + b"\0"
    return key, struct.pack("<5I", number, count, local, affinity, flags)


def backend(number, ordinal, address, port):
    """A backend entry, as `NewNATBackendKey` and `NewNATBackendValue` make it."""
    return struct.pack("<II", number, ordinal), packed(address) + struct.pack("<Hxx", port)


def affinity(address, port, protocol, client, backend_address, backend_port, used_at):
    """An affinity entry, as `calico_nat_lookup` in felix/bpf-gpl/nat_lookup.h makes it."""
    pad = bytes(4) if ":" in address else b""
    key = packed(address) + struct.pack("<HBx", port, protocol) + packed(client) + bytes(4)
    return key, packed(backend_address) + struct.pack("<Hxx", backend_port) + pad + struct.pack("<Q", used_at)


def route(net, flags, next_hop=None, ifindex=0):
    """A route entry, as `NewKey`, `NewValueWithNextHop` and `NewValueWithIfIndex` make it."""
    net = ipaddress.ip_network(net)
    size = len(net.network_address.packed)
    hop = packed(next_hop) if next_hop else struct.pack("<I", ifindex).ljust(size, b"\0")
    return struct.pack("<I", net.prefixlen) + net.network_address.packed, struct.pack("<I", flags) + hop


def conntrack_key(protocol, end, other):
    """The key of a flow between two (address, port), and whether the first is A: `fill_ct_key`, `src_lt_dest`.

    IPv4 addresses are compared as little-endian numbers, IPv6 ones as four of them (`ipv6_addr_t_cmp`).
    """

    def order(one):
        raw = packed(one[0])
        return [int.from_bytes(raw[start : start + 4], "little") for start in range(0, len(raw), 4)], one[1]

    first = order(end) < order(other)
    (a, port_a), (b, port_b) = (end, other) if first else (other, end)
    return struct.pack("<I", protocol) + packed(a) + packed(b) + struct.pack("<HH", port_a, port_b), first


def leg(bits=0, *, ifindex=0, packets=0, size=0, counts=True):
    """A leg, as `Leg.AsBytes` makes it; without counts, that of v2."""
    return (struct.pack("<QI", size, packets) if counts else b"") + struct.pack("<III", 0x01020304, bits, ifindex)


def _head(first, last_seen, kind, flags):
    low, second, third, high = flags & 0xFF, flags >> 8 & 0xFF, flags >> 16 & 0xFF, flags >> 24
    return struct.pack("<QQ4B3xB", first, last_seen, kind, low, third, high, second)


def flow(protocol, source, destination, forth, back, *, last_seen=0, first=0, flags=0, service=None, version=4):
    """An entry with both legs of the flow that `source` opened, each an (address, port); `service` makes it a reverse
    NAT entry. `forth` and `back` are the arguments of `leg`.
    """
    key, first_is_a = conntrack_key(protocol, source, destination)
    legs = [leg(**{"counts": version > 2, **one}) for one in (forth, back)]
    flags |= 0 if first_is_a else FROM_B
    service_address, service_port = service or (destination[0] if version == 2 else source[0], 0)
    zero = bytes(len(packed(source[0])))
    asked = packed(service_address) if service else zero
    ports = struct.pack("<HH", service_port, 0)
    tail = asked + ports + zero + zero if version == 2 else zero + asked + ports + zero
    body = b"".join(legs if first_is_a else reversed(legs)) + tail
    size = {2: 64}.get(version, 128 if len(zero) == 16 else 88)
    return key, (_head(first, last_seen, REVERSE if service else NORMAL, flags) + body).ljust(size, b"\0")


def forward(protocol, source, service, backend_end, *, last_seen=0, given_port=0, version=4):
    """The forward NAT entry of a flow to a service: `calico_ct_create_nat_fwd`."""
    key, _ = conntrack_key(protocol, source, service)
    reverse, _ = conntrack_key(protocol, (source[0], given_port or source[1]), backend_end)
    size = {2: 64}.get(version, 128 if len(key) == 40 else 88)
    body = _head(0, last_seen, FORWARD, 0) + reverse + struct.pack("<H", given_port)
    return key, body.ljust(size, b"\0")
