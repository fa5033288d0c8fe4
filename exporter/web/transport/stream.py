"""An unencrypted connection without buffers: reads small pieces, writes all data.

asyncio's streams would buffer 256 KiB for each of 500 flooding clients. Knows one socket and nothing of HTTP; `tls.py`
has the same stream over TLS.
"""

import asyncio
import socket
from typing import Protocol

_LINGER_BYTES = 1 << 20
_PIECE = 16 << 10


class HandshakeError(ConnectionError):
    """The TLS handshake failed, or the client's certificate is not allowed."""


class Stream(Protocol):
    """The byte stream of a connection. Every wait can be cancelled; only one task may read at a time."""

    async def open(self) -> None:
        """Performs the TLS handshake, if any. Raises `HandshakeError` if it fails, after which `end` says so."""

    async def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end of the stream."""

    async def write(self, data: bytes) -> None:
        """Writes all of `data` to the kernel."""

    async def end(self, *, still_sending: bool) -> None:
        """Sends what is left and closes the sending side; discards what the client still sends, up to a limit, since a
        reset would lose the response.
        """

    def close(self) -> None:
        """Closes both sides at once."""


class ClearStream:
    """A stream over a non-blocking socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def open(self) -> None:
        """Nothing to do."""

    async def read(self, size: int) -> bytes:
        """See `Stream`."""
        await asyncio.sleep(0)  # a client that sends all the time must not block the others
        while True:
            try:
                return self._sock.recv(size)
            except BlockingIOError:
                await self._readable()

    async def write(self, data: bytes) -> None:
        """See `Stream`."""
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def end(self, *, still_sending: bool) -> None:
        """See `Stream`."""
        if not still_sending:
            return
        self._sock.shutdown(socket.SHUT_WR)
        space = _LINGER_BYTES
        while space > 0 and (dropped := await self.read(_PIECE)):
            space -= len(dropped)

    def close(self) -> None:
        """See `Stream`."""
        self._sock.close()

    async def _readable(self) -> None:
        # The loop's sock_recv can lose bytes when it is cancelled.
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._sock)
