"""Listeners and the life of the server: opens sockets, admits clients, stops within a second of SIGTERM.

An event loop holds the connections, so that hundreds of silent ones cost memory and no thread. Knows sockets and
signals; what is served comes from `routes.py`.
"""

import asyncio
import logging
import re
import resource
import signal
import socket
from collections.abc import Sequence

from exporter.web.connection import Connection, Handler, Limits

log = logging.getLogger("exporter.web")

_MOST_CONNECTIONS = 512
_OWN_DESCRIPTORS = 64
_GRACE = 0.7


_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%a-z]+)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})", re.ASCII)


class ListenError(Exception):
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
                ("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_MOST_CONNECTIONS
            )
        host.encode("idna")  # or it would fail after the socket is made, and leave it
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=_MOST_CONNECTIONS)
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {address}: its host is no name of a host") from error
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error


class Server:
    """Serves `handler` on `listeners` until SIGTERM or SIGINT."""

    def __init__(self, listeners: Sequence[socket.socket], handler: Handler, limits: Limits | None = None) -> None:
        self._listeners = listeners
        self._handler = handler
        self._limits = limits or Limits()
        # Insertion order is age: the first one without shelter is the one to give up for a newcomer.
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # asyncio accepts a whole queue at once: a full house and a full queue must leave descriptors to scrape with.
        self._most = max(8, min(_MOST_CONNECTIONS, (descriptors - _OWN_DESCRIPTORS) // 2))

    async def run(self) -> None:
        """Serves until a signal says stop, then lets requests in progress finish for a moment."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        servers = [await asyncio.start_server(self._admit, sock=one, backlog=self._most) for one in self._listeners]
        await stop.wait()
        log.info("stopping")
        for server in servers:
            server.close()
        for connection in self._unsheltered():
            connection.close()
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=_GRACE)

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._most:
            self._make_room()
        connection = Connection(reader, writer, self._limits)
        task = asyncio.current_task()
        if len(self._connections) >= self._most or task is None:
            connection.close()
            return
        self._connections[connection] = task
        # The body of a response must not wait for the acknowledgement of its head.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await connection.serve(self._handler)
        except asyncio.CancelledError:
            connection.close()  # the end of the server; asyncio would log it as an error
        finally:
            self._connections.pop(connection, None)

    def _make_room(self) -> None:
        # Whoever holds a place without a request being worked on gives it up: a scraper that comes now goes first.
        for connection in self._unsheltered()[:1]:
            del self._connections[connection]
            connection.close()

    def _unsheltered(self) -> list[Connection]:
        now = asyncio.get_running_loop().time()
        return [one for one in self._connections if one.sheltered_until < now]
