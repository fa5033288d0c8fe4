"""The failsafe maps `cali_v4_fsafes2` and `cali_v6_fsafes2`: ports of the node itself that policy cannot close.

A key is `{u32 prefix length, u16 port, u8 protocol, u8 flags, address}` in a longest-prefix map, flag 1 for outbound
(felix/bpf-gpl/failsafe.h, felix/bpf/failsafes); the value says nothing. `is_failsafe_in` and `is_failsafe_out` there
look up the destination's port and the address of the other end.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from exporter.calico import LayoutError
from exporter.calico.ip_sets import PrefixTrie, trie_of
from exporter.calico.protocols import TCP, UDP

KEY_SIZES = (12, 24)
_OUTBOUND = 1
# The default FailsafeInboundHostPorts and FailsafeOutboundHostPorts of a FelixConfiguration: TCP but for DHCP and DNS.
DEFAULT_INBOUND = frozenset({(TCP, port) for port in (22, 179, 2379, 2380, 5473, 6443, 6666, 6667)} | {(UDP, 68)})
DEFAULT_OUTBOUND = frozenset(
    {(TCP, port) for port in (179, 2379, 2380, 5473, 6443, 6666, 6667)} | {(UDP, 53), (UDP, 67)}
)


@dataclass(frozen=True, slots=True)
class Failsafes:
    """The failsafe ports of one IP family."""

    trie: PrefixTrie

    def inbound(self, protocol: int, port: int, peer: str) -> bool:
        """Whether packets from `peer` to this port of the node are accepted whatever policy says."""
        return self._key(protocol, port, 0, peer) in self.trie

    def outbound(self, protocol: int, port: int, peer: str) -> bool:
        """Whether packets of the node to this port of `peer` are accepted whatever policy says."""
        return self._key(protocol, port, _OUTBOUND, peer) in self.trie

    @staticmethod
    def _key(protocol: int, port: int, flags: int, peer: str) -> bytes:
        content = port.to_bytes(2, "little") + bytes((protocol, flags)) + ipaddress.ip_address(peer).packed
        return (8 * len(content)).to_bytes(4, "little") + content


def decode_failsafes(keys: Iterable[bytes]) -> Failsafes:
    """The failsafe map with these keys. Raises `LayoutError`."""
    rows = list(keys)
    if any(len(key) not in KEY_SIZES for key in rows):
        raise LayoutError(f"the failsafe map has keys of another size than {KEY_SIZES[0]} or {KEY_SIZES[1]} bytes")
    return Failsafes(trie_of(rows))
