"""The IP-set maps `cali_v4_ip_sets` and `cali_v6_ip_sets`: the addresses behind a rule's selectors.

A key is `{u32 prefix length, big-endian u64 set number, address of 4 or 16 bytes, u16 port, u8 protocol, u8 padding}`
(felix/bpf/ipsets): the prefix length counts the 64 bits of the number too. A member with a protocol is a named port or
a service's address and port; the value says nothing.
"""

import ipaddress

import numpy as np
from numpy.typing import NDArray

from exporter.calico import LayoutError

KEY_SIZES = {20: 4, 32: 16}  # of the key to that of the address
_NUMBER_BITS = 64
_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


def decode_ip_sets(keys: NDArray[np.uint8]) -> dict[int, tuple[str, ...]]:
    """Keys of shape (n, 20|32), uint8, as the members of each set by its number. Raises `LayoutError`."""
    size = KEY_SIZES.get(keys.shape[1])
    if size is None:
        raise LayoutError(f"the IP-set map has keys of {keys.shape[1]} bytes, expected 20 or 32")
    members: dict[int, list[tuple[bytes, str]]] = {}
    for raw in map(bytes, keys):
        number = int.from_bytes(raw[4:12], "big")
        members.setdefault(number, []).append((raw[12:], _member(raw, size)))
    return {number: tuple(member for _, member in sorted(found)) for number, found in members.items()}


def _member(raw: bytes, size: int) -> str:
    address = ipaddress.ip_address(raw[12 : 12 + size])
    port = int.from_bytes(raw[12 + size : 14 + size], "little")
    protocol = raw[14 + size]
    if protocol == 0:
        # A prefix length that the kernel's trie would refuse is shown as it is.
        return f"{address}/{int.from_bytes(raw[:4], 'little') - _NUMBER_BITS}"
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"{shown}:{port}/{_PROTOCOLS.get(protocol, f'protocol {protocol}')}"
