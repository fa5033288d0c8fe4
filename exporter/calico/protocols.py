"""The protocols over IP that Calico's policy knows by name, and their numbers (IANA)."""

ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132
PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMP6, "sctp": SCTP}
PORTLESS = frozenset({ICMP, ICMP6})
_NAMES = {number: name for name, number in PROTOCOLS.items()}


def protocol_name(number: int) -> str:
    """`tcp`, `udp`, …, or `protocol 47`."""
    return _NAMES.get(number, f"protocol {number}")
