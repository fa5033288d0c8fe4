"""The server: admits and evicts connections, stops within a second of SIGTERM.

An event loop holds the connections, so that hundreds of silent clients need no threads.
"""

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from exporter.web.transport.connection import Connection
from exporter.web.transport.eviction import Admitted
from exporter.web.transport.messages import Handler
from exporter.web.transport.phases import Limits, Phase
from exporter.web.transport.signals import handle_signals
from exporter.web.transport.stream import ClearStream, Stream

if TYPE_CHECKING:
    from exporter.web.transport.tls import Tls

log = logging.getLogger("exporter.web")

_MAX_CONNECTIONS = 512
_OWN_DESCRIPTORS = 64
_MAX_UNSENT_BYTES = 32 << 20
_STOP_SECONDS = 0.7
_ACCEPT_AGAIN_SECONDS = 0.5
_ACCEPT_BATCH = 32


class Server:
    """Serves `handler` on `listeners` until a signal; `tls` is how a new connection is encrypted, None if it is not.

    `failed_handshake` is called with the client's address and the reason of each failed TLS handshake, `reread` on
    SIGHUP. `prepare` is awaited before the first client is answered.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        handler: Handler,
        limits: Limits | None = None,
        tls: "Callable[[], Tls | None]" = lambda: None,
        failed_handshake: Callable[[str, str], None] = lambda *_: None,
        reread: Callable[[], None] = lambda: None,
        prepare: Callable[[], Coroutine[None, None, None]] = lambda: asyncio.sleep(0),
    ) -> None:
        self._listeners = listeners
        self._handler = handler
        self._limits = limits or Limits()
        self._tls = tls
        self._failed_handshake = failed_handshake
        self._reread = reread
        self._prepare = prepare
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # An evicted connection closes after the new one is accepted: the maximum must leave descriptors for both.
        maximum = max(8, min(_MAX_CONNECTIONS, (descriptors - _OWN_DESCRIPTORS) // 2))
        self._admitted = Admitted(maximum, self._limits.protected)

    async def run(self) -> None:
        """Serves until a signal, then lets requests in progress finish for a moment."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        handle_signals(stop, self._reread)
        stopping, preparing = asyncio.create_task(stop.wait()), asyncio.ensure_future(self._prepare())
        await asyncio.wait({stopping, preparing}, return_when=asyncio.FIRST_COMPLETED)
        preparing.cancel()
        accepting = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        ended, _ = await asyncio.wait({stopping, *accepting}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended - {stopping}:
            task.result()  # a bug: exit, to be restarted, rather than ignore clients
        log.info("stopping")
        for task in accepting:
            task.cancel()
        for listener in self._listeners:
            loop.remove_reader(listener)  # asyncio may have a pending accept on the closed listener
            listener.close()
        for connection in self._admitted.unprotected(time.monotonic()):
            self._connections[connection].cancel()
        if self._connections:
            await asyncio.wait(self._connections.values(), timeout=_STOP_SECONDS)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.settimeout(0)
        reported, admitted = "", count(1)
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                # Of any error: without a wait, one that stays would keep the event loop from everything else.
                if str(error) != reported:
                    log.warning("connections cannot be accepted: %s", error.strerror)
                reported = str(error)
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            reported = ""
            self._admit(sock, address[0])
            if next(admitted) % _ACCEPT_BATCH == 0:
                await asyncio.sleep(0)  # existing connections progress while many clients connect

    def _admit(self, sock: socket.socket, client: str) -> None:
        if len(self._admitted) >= self._admitted.maximum and not self._evict():
            sock.close()
            return
        # The body of a response must not wait for the acknowledgement of its head.
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream: Stream = ClearStream(sock)
        tls = self._tls()
        if tls:
            from exporter.web.transport.tls import TlsStream

            stream = TlsStream(stream, tls)
        # An open connection must not keep a replaced certificate or CA in use.
        reusable = partial(self._is_current, tls)
        connection = Connection(stream, self._limits, client, reusable, self._entering, self._failed_handshake)
        self._admitted.add(connection)
        self._connections[connection] = task = asyncio.create_task(connection.serve(self._handler))
        task.add_done_callback(lambda _: self._leave(connection))  # called even if it is cancelled before it starts

    def _entering(self, connection: Connection, phase: Phase) -> None:
        self._admitted.move(connection, phase)
        if phase is Phase.SENDING:
            for one in self._admitted.beyond(_MAX_UNSENT_BYTES):
                self._connections[one].cancel()

    def _is_current(self, tls: "Tls | None") -> bool:
        return self._tls() is tls

    def _leave(self, connection: Connection) -> None:
        connection.stream.close()
        self._connections.pop(connection, None)
        self._admitted.remove(connection)

    def _evict(self) -> bool:
        chosen = self._admitted.choose(time.monotonic())
        if chosen:
            self._admitted.remove(chosen)
            self._connections.pop(chosen).cancel()
        return chosen is not None
