"""TLS over an unencrypted stream: OpenSSL works on two memory buffers, and this module moves their bytes.

Knows streams and OpenSSL; whoever configures TLS makes its contexts.
"""

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from exporter.web.transport.stream import HandshakeError, Stream

_PIECE = 4 << 10
_MAX_SESSIONS = 100
# Half of the maximum: the buffers keep the size of the largest record, so an idle connection takes 18 KiB less, for
# 0.4 ms of CPU per MiB.
_RECORD = 8 << 10
# Limits key updates and other records without data, which cost CPU.
_MAX_WITHOUT_DATA = 256 << 10
_HTTP_RESPONSE = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"this port serves HTTPS: use https://\n"
)


Certificate = Mapping[str, Any]
"""A verified client certificate as `ssl` decodes it."""


@dataclass(slots=True, eq=False)
class Tls:
    """How connections are encrypted: contexts from `make_context`; `refusal` is why a client with this certificate, or
    with none, is rejected, None if it is not.
    """

    make_context: Callable[[], ssl.SSLContext]
    refusal: Callable[[Certificate | None], str | None] = lambda _: None
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = self.make_context()

    def new_session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """The server's side of a new connection over these buffers."""
        # A context caches 20480 sessions of TLS 1.2, which Python cannot disable.
        if self.context.session_stats()["number"] >= _MAX_SESSIONS:
            self.context = self.make_context()
        return self.context.wrap_bio(incoming, outgoing, server_side=True)


def reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words."""
    return str(error.reason or "TLS failed").replace("_", " ").lower()


class TlsStream:
    """A TLS stream over an unencrypted one, which it owns."""

    def __init__(self, clear: Stream, tls: Tls) -> None:
        self._clear = clear
        self._tls = tls
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = tls.new_session(self._in, self._out)

    async def open(self) -> None:
        """See `Stream`."""
        await self._clear.open()
        heard = False
        while True:
            try:
                self._session.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError as error:
                self._refuse(error)
            if not await self._feed():
                if not heard:
                    raise ConnectionError("the client closed without a handshake")
                raise HandshakeError("the client disconnected during the handshake")
            heard = True
        await self._flush()
        try:
            refusal = self._tls.refusal(self._session.getpeercert())
        except (ValueError, ssl.SSLError) as error:
            raise HandshakeError("its certificate has a name that cannot be read") from error
        if refusal:
            raise HandshakeError(refusal)

    async def read(self, size: int) -> bytes:
        """See `Stream`."""
        received = 0
        while received < _MAX_WITHOUT_DATA:
            try:
                return self._session.read(size)
            except ssl.SSLWantReadError:
                await self._flush()
                fed = await self._feed()
                received += fed
                if not fed:
                    return b""
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise ConnectionError(reason(error)) from error
        raise ConnectionError("too many TLS records without data")

    async def write(self, data: bytes) -> None:
        """See `Stream`."""
        # One record at a time: the buffer never shrinks.
        for start in range(0, len(data), _RECORD):
            self._session.write(data[start : start + _RECORD])
            await self._flush()

    async def end(self, *, still_sending: bool) -> None:
        """See `Stream`."""
        with suppress(OSError):
            self._session.unwrap()
        await self._flush()
        await self._clear.end(still_sending=still_sending)

    def close(self) -> None:
        """See `Stream`."""
        self._clear.close()

    def _refuse(self, error: ssl.SSLError) -> NoReturn:
        if error.reason == "HTTP_REQUEST":
            self._out.read()  # an alert, which such a client does not understand
            self._out.write(_HTTP_RESPONSE)
        raise HandshakeError(reason(error)) from error

    async def _feed(self) -> int:
        data = await self._clear.read(_PIECE)
        self._in.write(data)
        return len(data)

    async def _flush(self) -> None:
        if data := self._out.read():
            await self._clear.write(data)
