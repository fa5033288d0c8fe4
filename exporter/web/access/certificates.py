"""The certificates of the web configuration: TLS contexts from its settings and PEM, and the names of clients.

Knows PEM text; `live_config.py` reads the files.
"""

import ipaddress
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from exporter.web.access.config import WebConfigError
from exporter.web.transport.tls import Certificate, Tls, reason

# Go's default: key exchanges that do not cost the server much more than the client.
_CIPHERS_12 = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """The settings in `tls_server_config`. PEM is inline text or the path of a file.

    `ciphers` are OpenSSL's names for TLS 1.2, empty for the default; `curve` is OpenSSL's name. `allowed_sans` is None
    if any verified certificate is allowed.
    """

    cert: str | Path
    key: str | Path
    client_ca: str | Path | None = None
    client_certificate: ssl.VerifyMode = ssl.CERT_NONE
    allowed_sans: frozenset[str] | None = None
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ciphers: tuple[str, ...] = ()
    server_order: bool = True
    curve: str | None = None


def make_tls(settings: TlsSettings, cert: str, key: str, client_ca: str | None) -> Tls:
    """TLS with these PEM texts. Raises `WebConfigError` if OpenSSL rejects them."""
    return Tls(partial(_make_context, settings, cert, key, client_ca), partial(_refusal, settings.allowed_sans))


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
    if isinstance(error, ssl.SSLError) and error.reason:
        return reason(error)
    return "no certificate or key in PEM is there"


def _refusal(allowed: frozenset[str] | None, certificate: Certificate | None) -> str | None:
    if allowed is None or not allowed.isdisjoint(_subject_names(certificate or {})):
        return None
    return "its certificate has none of the client_allowed_sans"


def _subject_names(certificate: Certificate) -> Iterator[str]:
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "email", "URI"):
            yield value
        elif kind == "IP Address":
            with suppress(ValueError):  # OpenSSL writes IPv6 in full, in upper case
                yield str(ipaddress.ip_address(value.strip()))
