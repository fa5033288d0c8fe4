"""A packet as Calico's programs hand it to policy: the fields of their state (felix/bpf-gpl/types.h, parsing.h).

Addresses are in network order, numbers in the node's. Only TCP and UDP have ports there; for ICMP, type and code stand
where the destination's port would; any other protocol has zeros, SCTP too (`tc_state_fill_from_nexthdr`). In IPv6 they
do not even have their number (`tc_state_fill_from_iphdr_v6` in parsing6.h takes them for extension headers).
"""

import ipaddress
from dataclasses import dataclass, replace

from exporter.calico.protocols import ICMP, ICMP6, TCP, UDP

WITH_PORTS = (TCP, UDP)
DESTINATION_IS_HOST, SOURCE_IS_HOST = 1 << 2, 1 << 3  # bits of the state's flags
WIREGUARD_PORT = 51820  # by Felix's default
NEIGHBOUR_DISCOVERY = (130, 131, 132, 133, 135, 136)  # types of ICMPv6 that policy is not asked about
_ICMP_ERRORS, _ICMP6_QUERIES = (3, 4, 5, 11, 12), 128


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow. Ports are those of TCP, UDP and SCTP, type and code those of ICMP and ICMPv6.

    `family` is 4 or 6. An address is empty if it is not known. `translated` are the address and the port after service
    translation, where they differ from the destination's.
    """

    family: int
    source: str
    destination: str
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    translated: tuple[str, int] | None = None

    @property
    def port(self) -> int:
        """The destination's port after service translation."""
        return self.translated[1] if self.translated else self.destination_port

    @property
    def is_icmp(self) -> bool:
        """Whether it has a type and a code: ICMP in IPv4, ICMPv6 in IPv6."""
        return self.protocol == (ICMP if self.family == 4 else ICMP6)

    @property
    def is_icmp_error(self) -> bool:
        """Whether it is about another packet, which it carries: `icmp_type_is_err` (felix/bpf-gpl/icmp4.h, icmp6.h).

        Older releases do not tell errors of ICMPv6 from its other types.
        """
        return self.is_icmp and (
            self.icmp_type in _ICMP_ERRORS if self.family == 4 else self.icmp_type < _ICMP6_QUERIES
        )

    @property
    def seen(self) -> "tuple[Packet, ...]":
        """The packets that policy can take it for: itself, or one without a protocol in releases that do not read its
        own from an IPv6 header.
        """
        is_read = self.family == 4 or self.protocol in (*WITH_PORTS, ICMP6)
        return (self,) if is_read else (replace(self, protocol=0), self)

    def state(self, flags: int) -> dict[str, bytes]:
        """The fields of the state by name, as far as they are known; `flags` tell whether an end is the node itself."""
        address, port = self.translated or (self.destination, self.destination_port)
        source_port, before, after = bytes(2), bytes(2), bytes(2)
        typed = before
        if self.is_icmp:
            typed = after = bytes((self.icmp_type, self.icmp_code))
        elif self.protocol in WITH_PORTS:
            source_port, before, after = (_number(one, 2) for one in (self.source_port, self.destination_port, port))
            typed = before
        fields = {
            "ip_src": _address(self.source),
            "pre_nat_ip_dst": _address(self.destination),
            "post_nat_ip_dst": _address(address),
            "sport": source_port,
            "pre_nat_dport": before,
            "post_nat_dport": after,
            "icmp_type": typed,
            "ip_proto": _number(self.protocol, 1),
            "flags": _number(flags, 8),
            "rules_hit": bytes(1),
            "pol_rc": bytes(4),
        }
        return {name: value for name, value in fields.items() if value}


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def _address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed if text else b""
