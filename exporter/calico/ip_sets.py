"""The IP-set maps `cali_v4_ip_sets` and `cali_v6_ip_sets`: the addresses behind a rule's selectors.

A key is `{u32 prefix length, big-endian u64 set number, address of 4 or 16 bytes, u16 port, u8 protocol, u8 padding}`
(felix/bpf/ipsets): the prefix length counts the 64 bits of the number too. A member with a protocol is a named port or
a service's address and port; the value says nothing.
"""

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from exporter.calico import LayoutError
from exporter.calico.protocols import protocol_name

KEY_SIZES = {20: 4, 32: 16}  # of the key to that of the address
_LENGTH_SIZE = 4
_NUMBER_BITS = 64


@dataclass(frozen=True, slots=True)
class PrefixTrie:
    """A longest-prefix map as the kernel searches it: the prefixes of its keys, as numbers, by their length in bits."""

    prefixes: dict[int, set[int]]

    def __contains__(self, key: bytes) -> bool:
        """Whether a lookup of this key finds an entry: one whose prefix is the start of it."""
        bits, content = int.from_bytes(key[:_LENGTH_SIZE], "little"), key[_LENGTH_SIZE:]
        number = int.from_bytes(content, "big") >> 8 * len(content) - bits
        return any(number >> bits - length in found for length, found in self.prefixes.items() if length <= bits)


def ip_set_trie(keys: Iterable[bytes]) -> PrefixTrie:
    """The IP-set map with these keys. Raises `LayoutError`."""
    rows = list(keys)
    if any(len(key) not in KEY_SIZES for key in rows):
        raise LayoutError("the IP-set map has keys of another size than 20 or 32 bytes")
    return trie_of(rows)


def trie_of(keys: Iterable[bytes]) -> PrefixTrie:
    """The longest-prefix map with these keys. Raises `LayoutError`."""
    prefixes: dict[int, set[int]] = {}
    for key in keys:
        length, bits = int.from_bytes(key[:_LENGTH_SIZE], "little"), 8 * (len(key) - _LENGTH_SIZE)
        if not 0 <= length <= bits:
            raise LayoutError(f"a longest-prefix map has a key of {bits} bits with a prefix of {length}")
        prefixes.setdefault(length, set()).add(int.from_bytes(key[_LENGTH_SIZE:], "big") >> bits - length)
    return PrefixTrie(prefixes)


def decode_ip_sets(keys: bytes, key_size: int) -> dict[int, tuple[str, ...]]:
    """Keys, one after the other, as the members of each set by its number. Raises `LayoutError`."""
    size = KEY_SIZES.get(key_size)
    if size is None:
        raise LayoutError(f"the IP-set map has keys of {key_size} bytes, expected 20 or 32")
    members: dict[int, list[tuple[bytes, str]]] = {}
    for (raw,) in struct.iter_unpack(f"{key_size}s", keys):
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
    return f"{shown}:{port}/{protocol_name(protocol)}"
