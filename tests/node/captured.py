"""Packets from their IP header on, as a packet socket hands them over."""

import ipaddress
import struct

SYN, ACK, RST = 0x02, 0x10, 0x04


def packed(address):
    return ipaddress.ip_address(address).packed


def ipv4(source, destination, protocol, rest=b"", *, words=5, fragment=0, identity=1):
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, 20 + len(rest), identity, fragment, 64, protocol, 0)
    return head + packed(source) + packed(destination) + bytes(4 * max(words - 5, 0)) + rest


def ipv6(source, destination, protocol, rest=b""):
    head = struct.pack(">IHBB", 6 << 28, len(rest), protocol, 64)
    return head + packed(source) + packed(destination) + rest


def ip(source, destination, protocol, rest, **more):
    build = ipv6 if ":" in source else ipv4
    return build(source, destination, protocol, rest, **more)


def udp(source, destination, source_port, port, **more):
    return ip(source, destination, 17, struct.pack(">HHHH", source_port, port, 8, 0), **more)


def tcp(source, destination, source_port, port, flags, sequence=7, **more):
    rest = struct.pack(">HHIIBBHHH", source_port, port, sequence, 0, 0x50, flags, 0, 0, 0)
    return ip(source, destination, 6, rest, **more)


def icmp(source, destination, kind, number=9, code=0, **more):
    protocol = 58 if ":" in source else 1
    return ip(source, destination, protocol, struct.pack(">BBHHH", kind, code, 0, number, 1), **more)
