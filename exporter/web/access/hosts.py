"""Which names a request may call this server by.

A page of another site can make a browser send requests here under a name of that site, by changing its address in DNS,
and read the responses. It cannot choose the `Host` header: that has the site's name.
"""

import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names of this server besides its addresses: only the page requires one, or every path (`everywhere`)."""

    names: frozenset[str]
    everywhere: bool = False

    @classmethod
    def of(cls, own: Iterable[str], allowed: Iterable[str]) -> "Hosts":
        """The node's own names and those that the user allows; with any of the latter every path requires a name."""
        more = [_name(one) for one in allowed]
        return cls(frozenset({"localhost", *map(_name, own), *more}), everywhere=bool(more))

    def allow(self, host: str) -> bool:
        """Whether a request may have this `Host` header; empty is a client of HTTP/1.0, which no browser is."""
        name = _name(host)
        if not host.strip() or name in self.names:
            return True
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name.strip("[]")))
        return False


def _name(host: str) -> str:
    """The host without its port and the dot of a full name, in lower case."""
    host = host.strip().lower()
    name, colon, port = host.rpartition(":")
    if not colon or not (port.isdecimal() or not port) or (":" in name and not name.endswith("]")):
        name = host
    return name.removesuffix(".")
