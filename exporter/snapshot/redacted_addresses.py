"""Replaces IP addresses so that two of them share as many leading bits as they did before.

Each bit is inverted or not as a keyed hash of the bits before it says: networks stay networks, and no two addresses
become one. Blocks with a meaning of their own, such as loopback and multicast addresses, stay as they are, and an
address stays in the private range that it is from.

A link-local address of IPv6 holds the MAC address of its interface, in which many CNI plugins write the IPv4 address,
and a solicited-node address the end of another one: these are replaced, but for those that mean the same everywhere.
"""

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address, ip_network

_UNCHANGED = (
    *("0.0.0.0/32", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
    *("::/127", "fe80::/120", "fe80::ecee:eeff:feee:eeee/128", "ff00::/8"),  # the third is Calico's, of any pod
)
_SOLICITED = "ff02::1:ff00:0/104"
_RANGES = (
    *("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"),
    *("2000::/3", "fc00::/7", "64:ff9b::/96", "fe80::/64", _SOLICITED),
)
# What can be an address in a text: `ip_address` decides.
IN_TEXT = re.compile(
    r"(?<![\w.:])[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?:(?:\.\d{1,3}){3})?(?:/\d{1,3})?(?![\w:]|\.\w)"
    r"|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?(?!\w|\.\w)"
)


def _bits(packed: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in packed)


def _blocks(size: int, networks: tuple[str, ...]) -> tuple[str, ...]:
    parsed = [ip_network(one) for one in networks]
    return tuple(_bits(one.network_address.packed)[: one.prefixlen] for one in parsed if one.max_prefixlen == 8 * size)


_UNCHANGED_BITS = {size: _blocks(size, _UNCHANGED) for size in (4, 16)}
_SOLICITED_BITS = _blocks(16, (_SOLICITED,))
# The bits that lead to a block: the next one is kept, so that nothing enters or leaves the block.
_PATHS = {
    size: frozenset(block[:end] for block in _blocks(size, _UNCHANGED + _RANGES) for end in range(len(block)))
    for size in (4, 16)
}


class Addresses:
    """The replacement of each address under a key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.packed: Callable[[bytes], bytes] = lru_cache(maxsize=1 << 16)(self._packed)
        self._inverted = lru_cache(maxsize=1 << 18)(self._inverted_bits)

    def network(self, packed: bytes, bits: int) -> bytes:
        """The replacement of an address with a prefix of so many bits: host bits that are all zero stay zero."""
        host = (1 << max(8 * len(packed) - bits, 0)) - 1
        found = int.from_bytes(self.packed(packed), "big")
        return (found if int.from_bytes(packed, "big") & host else found & ~host).to_bytes(len(packed), "big")

    def one(self, text: str) -> str:
        """The replacement of an address, or of a network as `10.0.0.0/8`; another text stays as it is."""
        address, slash, bits = text.partition("/")
        try:
            packed = ip_address(address).packed
            replaced = self.network(packed, int(bits)) if slash else self.packed(packed)
        except ValueError:
            return text
        return f"{ip_address(replaced)}{slash}{bits}"

    def in_text(self, text: str) -> str:
        """The text with every address and network in it replaced."""
        return IN_TEXT.sub(lambda found: self.one(found[0]), text)

    def _packed(self, packed: bytes) -> bytes:
        size = len(packed)
        bits = _bits(packed)
        if bits.startswith(_UNCHANGED_BITS[size]) and not bits.startswith(_SOLICITED_BITS):
            return packed
        return bytes(byte ^ self._inverted(size, packed[:place], byte) for place, byte in enumerate(packed))

    def _inverted_bits(self, size: int, before: bytes, byte: int) -> int:
        """The bits of the byte to invert; `before` are those in front of it."""
        hashed = hashlib.blake2b(bytes((size,)) + before, key=self._key, digest_size=32).digest()
        inverted = 0
        for bit in range(8):
            node = 1 << bit | byte >> 8 - bit  # in the tree of a byte's leading bits
            if hashed[node >> 3] >> (node & 7) & 1 and _bits(before) + f"{node:b}"[1:] not in _PATHS[size]:
                inverted |= 0x80 >> bit
        return inverted
