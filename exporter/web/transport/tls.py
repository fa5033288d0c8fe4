"""TLS: contexts from a configuration and its PEM, and the stream of a TLS connection.

OpenSSL works on two memory buffers, and this module moves their bytes. Knows streams and PEM text; `live_config.py`
reads the files.
"""

import asyncio
import ipaddress
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from exporter.web.access.config import TlsSettings, WebConfigError
from exporter.web.transport.stream import HandshakeError, Stream

# Go's default: key exchanges that do not cost the server much more than the client.
_CIPHERS_12 = "ECDHE+AESGCM:ECDHE+CHACHA20"
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


@dataclass(slots=True, eq=False)
class Tls:
    """A certificate and the requirements for clients of one configuration."""

    make_context: Callable[[], ssl.SSLContext]
    allowed_sans: frozenset[str] | None
    context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = self.make_context()

    def new_session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """The server's side of a new connection over these buffers."""
        # A context caches 20480 sessions of TLS 1.2, which Python cannot disable.
        if self.context.session_stats()["number"] >= _MAX_SESSIONS:
            self.context = self.make_context()
        return self.context.wrap_bio(incoming, outgoing, server_side=True)

    def allows(self, certificate: Mapping[str, Any] | None) -> bool:
        """Whether a verified client certificate (as `ssl` decodes it), or none, has an allowed subject name."""
        return self.allowed_sans is None or not self.allowed_sans.isdisjoint(_subject_names(certificate or {}))


def make_tls(settings: TlsSettings, cert: str, key: str, client_ca: str | None) -> Tls:
    """TLS with these PEM texts. Raises `WebConfigError` if OpenSSL rejects them."""
    return Tls(partial(_make_context, settings, cert, key, client_ca), settings.allowed_sans)


def _make_context(settings: TlsSettings, cert: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = settings.min_version, settings.max_version
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0  # a resumed session would outlive its certificate
    if not settings.server_order:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(":".join(settings.ciphers) or _CIPHERS_12)
    if settings.curve:
        context.set_ecdh_curve(settings.curve)
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, cert, key)
    context.verify_mode = settings.client_certificate
    if client_ca is not None:
        _load_authority(context, client_ca)
    return context


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    def no_password() -> NoReturn:
        raise WebConfigError("the key is encrypted; remove its password with `openssl pkey`")

    with _as_file(cert) as cert_file, _as_file(key) as key_file:
        try:
            context.load_cert_chain(cert_file, key_file, password=no_password)
        except ssl.SSLError as error:
            raise WebConfigError(f"certificate and key cannot be used together: {_reason(error)}") from error


def _load_authority(context: ssl.SSLContext, client_ca: str) -> None:
    try:
        context.load_verify_locations(cadata=client_ca)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise WebConfigError(f"the CA of the clients cannot be used: {_reason(error)}") from error
    # An intermediate CA is trusted without its root, as in Go.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


@contextmanager
def _as_file(pem: str) -> Iterator[str]:
    # OpenSSL needs paths, and a key must not be written to disk.
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
            file.write(pem)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else "no certificate or key in PEM is there"


def _subject_names(certificate: Mapping[str, Any]) -> Iterator[str]:
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "email", "URI"):
            yield value
        elif kind == "IP Address":
            with suppress(ValueError):  # OpenSSL writes IPv6 in full, in upper case
                yield str(ipaddress.ip_address(value.strip()))


class TlsStream:
    """A TLS stream over an unencrypted one, which it owns."""

    def __init__(self, clear: Stream, tls: Tls) -> None:
        self._clear = clear
        self._tls = tls
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = tls.new_session(self._in, self._out)

    async def open(self) -> None:
        """Performs the handshake. Raises `HandshakeError`."""
        await self._clear.open()
        heard = False
        while True:
            try:
                self._session.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError as error:
                await self._refuse(error)
            if not await self._feed():
                if not heard:
                    raise ConnectionError("the client closed without a handshake")
                raise HandshakeError("the client disconnected during the handshake")
            heard = True
        await self._flush()
        try:
            allowed = self._tls.allows(self._session.getpeercert())
        except (ValueError, ssl.SSLError) as error:
            raise HandshakeError("its certificate has a name that cannot be read") from error
        if not allowed:
            raise HandshakeError("its certificate has none of the client_allowed_sans")

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
                raise ConnectionError(_reason(error)) from error
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
        with suppress(OSError):
            async with asyncio.timeout(1):
                await self._flush()
        await self._clear.end(still_sending=still_sending)

    def close(self) -> None:
        """See `Stream`."""
        self._clear.close()

    async def _refuse(self, error: ssl.SSLError) -> NoReturn:
        if error.reason == "HTTP_REQUEST":
            await self._clear.write(_HTTP_RESPONSE)
        else:
            await self._flush()  # sends the alert
        await self._clear.end(still_sending=True)
        raise HandshakeError(_reason(error)) from error

    async def _feed(self) -> int:
        data = await self._clear.read(_PIECE)
        self._in.write(data)
        return len(data)

    async def _flush(self) -> None:
        if data := self._out.read():
            await self._clear.write(data)
