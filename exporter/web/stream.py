"""The bytes of one connection in the clear: read in small pieces, written whole, nothing kept in between.

Not asyncio's own streams: they take 256 KiB at once from a flooding client, and five hundred clients can flood.
Knows one socket and nothing of HTTP. `tls.py` has the same stream in TLS.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1 << 20
_PIECE = 16 << 10


class Stream(Protocol):
    """What a connection needs of its bytes. Every wait can be cancelled; only one may read at a time."""

    async def open(self) -> None:
        """Agrees with the client on what the bytes mean. Raises `OSError` when that fails."""

    async def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end of what the client sends."""

    async def write(self, data: bytes) -> None:
        """Returns when the kernel has taken all of `data`."""

    async def end(self, *, still_talking: bool) -> None:
        """Says goodbye; drops for a moment what a client still says, or a reset would take our last words with it."""

    def close(self) -> None:
        """Ends both sides at once."""


class ClearStream:
    """A stream over a non-blocking socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def open(self) -> None:
        """Nothing to agree on."""

    async def read(self, size: int) -> bytes:
        """See `Stream`."""
        await asyncio.sleep(0)  # a client that always has more to say must not keep the others waiting
        while True:
            try:
                return self._sock.recv(size)
            except BlockingIOError:
                await self._readable()

    async def write(self, data: bytes) -> None:
        """See `Stream`."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def end(self, *, still_talking: bool) -> None:
        """See `Stream`."""
        if not still_talking:
            return  # closing says it
        space = _LINGER_BYTES
        with suppress(OSError):
            async with asyncio.timeout(_LINGER_SECONDS):
                self._sock.shutdown(socket.SHUT_WR)
                while space > 0 and (dropped := await self.read(_PIECE)):
                    space -= len(dropped)

    def close(self) -> None:
        """See `Stream`."""
        self._sock.close()

    async def _readable(self) -> None:
        # Not the loop's own sock_recv: cancelled at the wrong moment it has taken bytes that nobody gets.
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._sock)
