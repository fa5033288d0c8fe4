"""A stream of bytes to a server: TCP, TLS over it, and a limit for every wait.

Knows sockets and TLS, but not HTTP. TLS runs in memory, so that a handshake that arrives byte by byte is subject to the
same limit as everything else, and TLS can run over TLS: to a server behind a proxy that itself is asked over TLS.
"""

import math
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

_READ_BYTES = 1 << 16
_Result = TypeVar("_Result")


class Limit:
    """How long one wait for the server may take, and all waits together: `pause` and `seconds`."""

    def __init__(self, pause: float, seconds: float = math.inf) -> None:
        self._pause = pause
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def next_wait(self) -> float:
        """The seconds that the next wait may take. Raises TimeoutError when the time is over."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole answer after {self._seconds:g} s")
        return min(self._pause, left)


class Stream(Protocol):
    """Bytes in both directions."""

    def receive(self) -> bytes:
        """The next bytes, empty at the end. Raises OSError."""

    def send(self, data: bytes) -> None:
        """Sends all of `data`. Raises OSError."""


class Tcp:
    """A TCP connection. `limit` holds for every wait, connecting included; a new one may be set for each request."""

    def __init__(self, host: str, port: int, limit: Limit) -> None:
        self.limit = limit
        self._socket = _connect(host, port, limit)

    def receive(self) -> bytes:
        """See `Stream`."""
        self._socket.settimeout(self.limit.next_wait())
        return self._socket.recv(_READ_BYTES)

    def send(self, data: bytes) -> None:
        """See `Stream`."""
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(self.limit.next_wait())
            rest = rest[self._socket.send(rest) :]

    def silent(self) -> bool:
        """Whether nothing has arrived: an idle connection that the server has closed has the end of the stream."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def keep_alive(self) -> None:
        """Detects a dead peer within a minute, and not only after an idle timeout."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()


class Tls:
    """TLS over another stream; the constructor does the handshake. Raises OSError, and with it `ssl.SSLError`."""

    def __init__(self, below: Stream, context: ssl.SSLContext, host: str) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # As bytes: for text, Python loads the tables of IDNA.
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=encoded_host(host))
        self._run(self._tls.do_handshake)

    def receive(self) -> bytes:
        """See `Stream`."""
        with suppress(ssl.SSLZeroReturnError):
            return self._run(lambda: self._tls.read(_READ_BYTES))
        return b""

    def send(self, data: bytes) -> None:
        """See `Stream`."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._run(lambda: self._tls.write(rest)) :]  # noqa: B023  it runs at once

    def _run(self, step: Callable[[], _Result]) -> _Result:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush()  # also the alert that says why a handshake failed
            received = self._below.receive()
            self._incoming.write(received) if received else self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.send(self._outgoing.read())


def encoded_host(host: str) -> bytes:
    """A host's name as bytes: for text, Python loads the tables of IDNA, which a name of ASCII does not need."""
    return host.encode("ascii" if host.isascii() else "idna")


def _connect(host: str, port: int, limit: Limit) -> socket.socket:
    problem = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(encoded_host(host), port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(limit.next_wait())
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connection.close()
            problem = error
        else:
            return connection
    raise problem
