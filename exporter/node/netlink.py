"""Links and host routes of the network namespace this process runs in, asked from the kernel through pyroute2.

Interface indexes mean something only here, so nothing is ever read from /sys/class/net, which can show another
namespace's links. Knows rtnetlink and nothing of Calico. `live_links.py` follows what changes after such a reading.
"""

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.node import NodeError

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_UNICAST = 1  # RTN_UNICAST: leaves out the node's own addresses and broadcasts
_HOST_PREFIX = {socket.AF_INET: 32, socket.AF_INET6: 128}
_Row = TypeVar("_Row")


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


@dataclass(frozen=True, slots=True)
class RoutePlace:
    """What the kernel takes for one and the same route: another one at the same place replaces it."""

    address: str
    table: int
    priority: int


def read_links() -> tuple[Link, ...]:
    """All links of this namespace. Raises `NodeError`."""
    return tuple(_ask("links", lambda netlink: map(parse_link, netlink.get_links())))


def read_placed_routes() -> dict[RoutePlace, HostRoute]:
    """The /32 and /128 routes that lead straight to an interface, by place. Raises `NodeError`."""
    placed = dict(one for one in _ask("routes", _routes) if one is not None)
    return {place: route for place, route in placed.items() if route is not None}


def read_host_routes() -> tuple[HostRoute, ...]:
    """The same routes without their place. Raises `NodeError`."""
    return tuple(read_placed_routes().values())


def parse_link(message: Any) -> Link:  # pyroute2's messages carry no types
    """The link that a message of kind RTM_NEWLINK or RTM_DELLINK is about."""
    name = message.get_attr("IFLA_IFNAME")
    return Link(message["index"], name if isinstance(name, str) else name.decode("utf-8", "backslashreplace"))


def parse_route(message: Any) -> tuple[RoutePlace, HostRoute | None] | None:
    """The place and the route that a message of kind RTM_NEWROUTE or RTM_DELROUTE is about.

    None if it is not to a single address; the route is None if it does not lead straight to an interface.
    """
    if message["dst_len"] != _HOST_PREFIX.get(message["family"]):
        return None
    interface, address = message.get_attr("RTA_OIF"), message.get_attr("RTA_DST")
    direct = message["type"] == _UNICAST and message.get_attr("RTA_GATEWAY") is None and interface is not None
    table = message.get_attr("RTA_TABLE") or message["table"]
    place = RoutePlace(address, table, message.get_attr("RTA_PRIORITY") or 0)
    return place, HostRoute(address, interface) if direct else None


def _routes(netlink: "IPRoute") -> "Iterable[tuple[RoutePlace, HostRoute | None] | None]":
    families = (netlink.get_routes(family=family) for family in _HOST_PREFIX)
    return map(parse_route, chain.from_iterable(families))


def _ask(what: str, question: "Callable[[IPRoute], Iterable[_Row]]") -> "list[_Row]":
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as netlink:
            return list(question(netlink))
    except (OSError, NetlinkError) as error:
        raise NodeError(f"the node's {what} could not be read through netlink: {error}") from error
