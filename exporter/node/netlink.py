"""Links and host routes of the network namespace this process runs in, asked from the kernel through pyroute2.

Interface indexes mean something only here, so nothing is ever read from /sys/class/net, which can show another
namespace's links. Knows rtnetlink and nothing of Calico.
"""

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.node import NodeError

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_UNICAST = 1  # RTN_UNICAST: leaves out the node's own addresses and broadcasts
_Row = TypeVar("_Row")
_HOST_PREFIX = {socket.AF_INET: 32, socket.AF_INET6: 128}


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface of this namespace: its index and its name."""

    ifindex: int
    name: str


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route to one address straight through an interface, without a gateway: what Calico makes for each pod."""

    address: str
    ifindex: int


def read_links() -> tuple[Link, ...]:
    """All links of this namespace. Raises `NodeError`."""
    return tuple(_ask("links", lambda netlink: map(_link, netlink.get_links())))


def read_host_routes() -> tuple[HostRoute, ...]:
    """The /32 and /128 routes of this namespace that lead straight to an interface. Raises `NodeError`."""
    return tuple(_ask("routes", _host_routes))


def _ask(what: str, question: "Callable[[IPRoute], Iterable[_Row]]") -> "list[_Row]":
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            return list(question(netlink))
    except (OSError, NetlinkError) as error:
        raise NodeError(f"the node's {what} could not be read through netlink: {error}") from error


def _link(message: Any) -> Link:  # pyroute2's messages carry no types
    name = message.get_attr("IFLA_IFNAME")
    return Link(message["index"], name if isinstance(name, str) else name.decode("utf-8", "backslashreplace"))


def _host_routes(netlink: "IPRoute") -> Iterator[HostRoute]:
    for family, length in _HOST_PREFIX.items():
        for message in netlink.get_routes(family=family):
            interface = message.get_attr("RTA_OIF")
            direct = message["type"] == _UNICAST and message.get_attr("RTA_GATEWAY") is None
            if message["dst_len"] == length and direct and interface is not None:
                yield HostRoute(message.get_attr("RTA_DST"), interface)
