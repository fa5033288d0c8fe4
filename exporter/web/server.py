"""Listeners and the life of the server: opens sockets, admits clients, stops within a second of SIGTERM.

An event loop holds the connections, so that hundreds of silent ones cost memory and no thread. Knows sockets and
signals; what is served comes from `routes.py`.
"""

import asyncio
import errno
import logging
import re
import resource
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING

from exporter.errors import ExporterError
from exporter.web.connection import FOREVER, Connection, Handler, Limits
from exporter.web.stream import ClearStream, Stream
from exporter.web.tls import HandshakeError, Tls, TlsStream

if TYPE_CHECKING:
    from exporter.web.live_config import LiveConfig

log = logging.getLogger("exporter.web")

_MAX_CONNECTIONS = 512
_LARGE_PART = 1 / 4
_OWN_DESCRIPTORS = 64
_MAX_UNSENT = 32 << 20
_GRACE = 0.7
_ACCEPT_AGAIN = 0.5
_ACCEPT_BATCH = 32
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%a-z]+)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})", re.ASCII)


class ListenError(ExporterError):
    """An address cannot be listened on. The message is one sentence."""


def open_listener(address: str) -> socket.socket:
    """A listening socket for `HOST:PORT`; an empty host is every address, IPv4 and IPv6. Raises `ListenError`."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ListenError(f"{address!r} is not HOST:PORT, for example :10042, 127.0.0.1:10042 or [::1]:10042")
    host, port = match["six"] or match["host"], match["port"]
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_MAX_CONNECTIONS
            )
        host.encode("idna")  # or it would fail after the socket is made, and leave it
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=_MAX_CONNECTIONS)
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {address}: its host is no name of a host") from error
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error


class Server:
    """Serves `handler` on `listeners` until SIGTERM or SIGINT, in TLS when the configuration has it.

    `failed_handshake` is called with the address of each client that TLS turned away, and why.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        handler: Handler,
        limits: Limits | None = None,
        live: "LiveConfig | None" = None,
        failed_handshake: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self._listeners = listeners
        self._handler = handler
        self._limits = limits or Limits()
        self._live = live
        self._failed_handshake = failed_handshake
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._unsent: dict[Connection, bytes] = {}
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # An evicted connection closes after the new one is accepted: the maximum must leave descriptors for both.
        self._max_connections = max(8, min(_MAX_CONNECTIONS, (descriptors - _OWN_DESCRIPTORS) // 2))

    async def run(self) -> None:
        """Serves until a signal says stop, then lets requests in progress finish for a moment."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        accepting = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        stopping = asyncio.create_task(stop.wait())
        ended, _ = await asyncio.wait({stopping, *accepting}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended - {stopping}:
            task.result()  # a bug: better an end that somebody restarts than a port that nobody answers
        log.info("stopping")
        for task in accepting:
            task.cancel()
        for listener in self._listeners:
            loop.remove_reader(listener)  # asyncio may have heard of a client already, and would ask a closed listener
            listener.close()
        for connection in self._evictable():
            self._connections[connection].cancel()
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=_GRACE)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.settimeout(0)
        said, admitted = "", count(1)
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    if str(error) != said:
                        log.warning("connections cannot be accepted: %s", error.strerror)
                    said = str(error)
                    await asyncio.sleep(_ACCEPT_AGAIN)
                continue  # else it was that connection's own error, and it is gone
            said = ""
            self._admit(sock, address[0])
            if next(admitted) % _ACCEPT_BATCH == 0:
                await asyncio.sleep(0)  # those who are inside go on while a crowd comes in

    def _admit(self, sock: socket.socket, client: str) -> None:
        if len(self._connections) >= self._max_connections and not self._evict():
            sock.close()
            return
        # The body of a response must not wait for the acknowledgement of its head.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream: Stream = ClearStream(sock)
        tls = self._tls()
        if tls:
            stream = TlsStream(stream, tls)
        # Keeping a connection open must not keep a certificate or an authority in use that has been replaced.
        now = asyncio.get_running_loop().time()
        connection = Connection(stream, self._limits, client, now, lambda: self._tls() is tls, self._sending)
        self._connections[connection] = task = asyncio.create_task(self._serve(connection))
        task.add_done_callback(lambda _: self._leave(connection))  # comes too when it is cancelled before it began

    @contextmanager
    def _sending(self, connection: Connection, body: bytes) -> Iterator[None]:
        self._unsent[connection] = body
        self._evict_unsent()
        try:
            yield
        finally:
            self._unsent.pop(connection, None)

    def _evict_unsent(self) -> None:
        # Each snapshot has its bodies: clients that request one after the other and read nothing would hold them all.
        kept: dict[int, int] = {}
        for connection, body in reversed(list(self._unsent.items())):
            if id(body) not in kept and kept and sum(kept.values()) + len(body) > _MAX_UNSENT:
                if task := self._connections.get(connection):
                    task.cancel()
            else:
                kept[id(body)] = len(body)

    def _tls(self) -> Tls | None:
        if self._live is None:
            return None
        self._live.refresh()
        return self._live.tls

    async def _serve(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self._limits.head):
                await connection.stream.open()
        except HandshakeError as error:
            self._failed_handshake(connection.client, str(error))
        except (OSError, TimeoutError):
            pass  # it left, or never began
        else:
            await connection.serve(self._handler)

    def _leave(self, connection: Connection) -> None:
        connection.stream.close()
        self._connections.pop(connection, None)

    def _evict(self) -> bool:
        # Idle connections are evicted first. Of an address that holds a large part of all connections any may be
        # evicted, else one client's many requests would keep all others out.
        client, number = Counter(one.client for one in self._connections).most_common(1)[0]
        crowd = [
            one for one in self._connections if one.client == client and number > self._max_connections * _LARGE_PART
        ]
        unprotected = self._evictable()
        answered = [one for one in self._connections if one.protected_until < FOREVER]
        may_go = [one for one in unprotected if one in crowd] or crowd or unprotected or answered
        if may_go:
            self._connections.pop(min(may_go, key=lambda one: one.since)).cancel()
        return bool(may_go)

    def _evictable(self) -> list[Connection]:
        now = asyncio.get_running_loop().time()
        return [one for one in self._connections if one.protected_until < now]
