"""Listening sockets: understands `HOST:PORT`, and says in a sentence why an address cannot be listened on."""

import re
import socket
from contextlib import suppress
from ipaddress import IPv6Address

from exporter.errors import ExporterError

_BACKLOG = 512  # as many as may be open: a burst of them needs no second attempt
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%a-z]+)\]|(?P<host>[^\[\]:]*)):(?P<port>[0-9]{1,5})", re.ASCII)


class ListenError(ExporterError):
    """An address cannot be listened on. The message is one sentence."""


def open_listener(address: str) -> socket.socket:
    """A listening socket for `HOST:PORT`; an empty host is every address, IPv4 and IPv6. Raises `ListenError`."""
    match = _ADDRESS.fullmatch(_bracketed(address))
    if match is None or int(match["port"]) > 65535:
        raise ListenError(f"{address!r} is not HOST:PORT, for example :10042, 127.0.0.1:10042 or [::1]:10042")
    host, port = match["six"] or match["host"], match["port"]
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
        if not host.isascii():  # the tables of IDNA take 1 MiB
            host.encode("idna")  # fails here, before a socket is created and leaked
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except UnicodeError as error:
        raise ListenError(f"cannot listen on {address}: its host is not a valid name") from error
    except OSError as error:
        reason, *_ = str(error.strerror or error).split(" (while attempting to bind")  # which has the address again
        raise ListenError(f"cannot listen on {address}: {reason}") from error


def _bracketed(address: str) -> str:
    """`HOST:PORT` whose host is an IPv6 address without brackets, as Kubernetes gives a node's, with them."""
    host, _, port = address.rpartition(":")
    with suppress(ValueError):
        return f"[{IPv6Address(host)}]:{port}"
    return address
