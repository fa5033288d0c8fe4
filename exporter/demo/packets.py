"""Sends packets from inside a pod's namespace: counted ones for tests, or a pod's traffic once a second forever.

Run as a program (`python -m exporter.demo.packets`), in the namespace it is to send from. Packets that no socket would
send (cut off, malformed, a lone fragment) are written to the link whole.
"""

import os
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

from exporter.demo.plan import PODS, Pod

_SINK_PORTS = (8080, 5432)
_GATEWAY = bytes.fromhex("eeeeeeeeeeee")


def send(kind: str, address: str, port: int, count: int) -> None:
    """Sends `count` packets of `kind` (`udp`, `flows`, `ping`, `tcp`, `short`, `malformed`, `fragment`).

    `udp` is one flow and `flows` as many flows as packets, to an address and port; `ping` is echo requests of one
    identifier; `tcp` is one SYN for each connection, given up before the kernel would send it again.
    """
    if kind in ("udp", "flows"):
        _send_udp(address, port, count, flows=count if kind == "flows" else 1)
    elif kind == "ping":
        _send_pings(address, count)
    elif kind == "tcp":
        _send_syns(address, port, count)
    else:
        _send_raw(_RAW[kind](address), count)


def send_forever(pod: Pod) -> None:
    """Answers nothing on the sink ports, and sends the pod's bursts once a second until the parent process is gone."""
    parent = os.getppid()
    for family in (socket.AF_INET, socket.AF_INET6):
        for port in _SINK_PORTS:
            threading.Thread(target=_discard, args=(family, port), daemon=True).start()
    time.sleep(1)  # until every pod listens: an ICMP error would count as a packet
    while os.getppid() == parent:
        for burst in pod.sends:
            # A pod that is being created or removed cannot send; try again in the next second.
            with suppress(OSError):
                send(burst.kind, burst.address, burst.port, burst.count)
        time.sleep(1)


def _send_udp(address: str, port: int, count: int, flows: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(flows):
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for _ in range(count // flows):
                sender.sendto(b"demo", (address, port))


def _send_pings(address: str, count: int) -> None:
    family, protocol, request = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128) if ":" in address else (socket.AF_INET, socket.IPPROTO_ICMP, 8)
    )
    with socket.socket(family, socket.SOCK_RAW, protocol) as sender:
        for number in range(count):
            echo = struct.pack(">BBHHH", request, 0, 0, os.getpid() & 0xFFFF, number)
            # The kernel overwrites the checksum of ICMPv6.
            sender.sendto(echo[:2] + struct.pack(">H", _checksum(echo)) + echo[4:], (address, 0))


def _send_syns(address: str, port: int, count: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(count):
        with socket.socket(family) as sender:
            sender.settimeout(0.3)
            with suppress(TimeoutError, ConnectionRefusedError):
                sender.connect((address, port))


def _send_raw(packet: bytes, count: int) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("eth0", 0))
        mac = link.getsockname()[4]
        for _ in range(count):
            link.send(_GATEWAY + mac + b"\x08\x00" + packet)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    return ~(total + (total >> 16)) & 0xFFFF


def _discard(family: int, port: int) -> None:
    # Without a listener the kernel answers with ICMP errors, which would count as packets.
    with socket.socket(family, socket.SOCK_DGRAM) as sink:
        if family == socket.AF_INET6:
            sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sink.bind(("", port))
        while True:
            sink.recv(2048)


def _ipv4(address: str, payload: bytes, *, header_words: int = 5, fragment: int = 0) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        source = socket.inet_aton(probe.getsockname()[0])
    head = struct.pack(">BBHHHBBH", 0x40 | header_words, 0, 20 + len(payload), 1, fragment, 64, socket.IPPROTO_UDP, 0)
    return head + source + socket.inet_aton(address) + payload


_RAW = {
    "short": lambda address: _ipv4(address, b"")[:12],
    "malformed": lambda address: _ipv4(address, bytes(16), header_words=4),
    "fragment": lambda address: _ipv4(address, bytes(16), fragment=100),
}


def main() -> None:
    """`send KIND ADDRESS PORT COUNT` or `forever POD`."""
    verb, *words = sys.argv[1:]
    if verb == "send":
        kind, address, port, count = words
        send(kind, address, int(port), int(count))
    else:
        send_forever(next(pod for pod in PODS if pod.name == words[0]))


if __name__ == "__main__":
    main()
