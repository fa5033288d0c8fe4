"""Captures the packets of one pod, or of all pods of a node, with a packet socket, for a while and within limits.

Nothing is sent and nothing is changed: the kernel copies the first bytes of what the filter passes. It needs
CAP_NET_RAW. Only `why --packets` and `bundle --packets` open it, and never `serve`.
"""

import socket
import struct
import time
from array import array
from collections.abc import Callable
from contextlib import suppress

from exporter.node import NodeError
from exporter.node.packet_filter import DROP_ALL, SNAP_LENGTH, Instruction, Watched, WatchedNode, packed
from exporter.node.packet_flows import Capture, FlowTable
from exporter.node.packet_headers import parse_packet

MAX_PACKETS = 1_000_000
READ_EVERY = 0.05  # seconds
_BUFFER = 4 << 20
_ETH_P_ALL, _ETH_P_IPV6 = 0x0003, 0x86DD
_PACKET_OUTGOING = 4
# include/uapi/asm-generic/socket.h and linux/if_packet.h.
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_STATISTICS = struct.Struct("=II")  # struct tpacket_stats: packets, drops


class PacketSocket:
    """A capture that has begun."""

    def __init__(self, watched: Watched | WatchedNode) -> None:
        """Raises `NodeError`."""
        self._table = FlowTable(watched.keeps)
        self._lost = 0
        self._began = time.monotonic()
        try:
            # A packet socket receives everything until it has a filter: one that drops all, then the real one.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        except PermissionError as error:
            raise NodeError(
                "packets cannot be seen without CAP_NET_RAW: run as root, or with the chart's packets.enabled"
            ) from error
        except OSError as error:
            raise NodeError(f"no packet socket could be opened: {error.strerror}") from error
        try:
            self._start(watched.program(socket.if_nametoindex("lo")))
        except OSError as error:
            self._socket.close()
            raise NodeError(f"the packet socket's filter was refused: {error.strerror}") from error

    def _start(self, program: tuple[Instruction, ...]) -> None:
        self._socket.setblocking(False)  # noqa: FBT003  # the standard library's own signature
        _attach(self._socket, DROP_ALL)
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:  # only CAP_NET_ADMIN may exceed net.core.rmem_max
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        _attach(self._socket, program)
        self._count_lost()
        self._lost = 0

    def run(self, seconds: float, wait: Callable[[float], None] = time.sleep) -> None:
        """Reads for this time, or until the limit of packets; Ctrl-C ends it sooner."""
        end = time.monotonic() + seconds
        with suppress(KeyboardInterrupt):
            while (left := end - time.monotonic()) > 0:
                wait(min(left, left if self._full else READ_EVERY))
                self._drain(end + READ_EVERY)

    def _drain(self, end: float) -> None:
        """Reads what has arrived; where more arrives than can be read, until the end."""
        table, receive, now = self._table, self._socket.recvfrom, time.monotonic
        with suppress(BlockingIOError):
            while not self._full and now() < end:
                data, (interface, protocol, packet_type, *_) = receive(SNAP_LENGTH)
                header = parse_packet(data, ipv6=protocol == _ETH_P_IPV6)
                table.add(header, interface, outgoing=packet_type == _PACKET_OUTGOING)
        self._count_lost()

    def close(self) -> None:
        """Ends the capture, which takes as long as the kernel needs to be done with every packet."""
        self._socket.close()

    def capture(self) -> Capture:
        """What was seen until now."""
        return self._table.capture(time.monotonic() - self._began, self._lost, full=self._full)

    @property
    def _full(self) -> bool:
        return self._table.packets >= MAX_PACKETS

    def _count_lost(self) -> None:
        raw = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        self._lost += _STATISTICS.unpack(raw)[1]  # the kernel starts again at 0 each time


def _attach(target: socket.socket, program: tuple[Instruction, ...]) -> None:
    code = array("B", packed(program))
    # struct sock_fprog: the number of instructions and where they are.
    target.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), code.buffer_info()[0]))
