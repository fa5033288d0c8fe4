"""Links and host routes of the network namespace this process runs in: dumped by the kernel, parsed by pyroute2.

Interface indexes are valid only in this namespace, so nothing is read from /sys/class/net, which can show another
namespace's links. Knows rtnetlink but not Calico. `live_links.py` follows the changes after such a dump.
"""

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from exporter.node import NodeError

_UNICAST = 1  # RTN_UNICAST: leaves out the node's addresses and broadcasts
_HOST_PREFIX = {socket.AF_INET: 32, socket.AF_INET6: 128}
_Row = TypeVar("_Row")

# include/uapi/linux/netlink.h and rtnetlink.h. struct nlmsghdr: length, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
_REQUEST_ALL = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_RTM_GETLINK, _RTM_GETROUTE = 18, 26
# struct ifinfomsg of any link, and the attribute IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS.
_ALL_LINKS = bytes(16) + struct.pack("=HHI", 8, 29, 1 << 3)
_ROUTES = struct.Struct("=B11x")  # struct rtmsg of a family
_MAX_MESSAGE = 1 << 17
_MAX_DUMPS = 5


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface of this namespace: its index and its name."""

    ifindex: int
    name: str


@dataclass(frozen=True, slots=True)
class HostRoute:
    """A route to one address through an interface, without a gateway, as Calico creates for each pod."""

    address: str
    ifindex: int


@dataclass(frozen=True, slots=True)
class RouteKey:
    """The kernel's identity of a route: a new route with the same key replaces it."""

    address: str
    table: int
    priority: int


def read_links() -> tuple[Link, ...]:
    """All links of this namespace. Raises `NodeError`."""
    links = _dump("links", _RTM_GETLINK, _ALL_LINKS, parse_link)
    return tuple({link.ifindex: link for link in links}.values())


def read_keyed_routes() -> dict[RouteKey, HostRoute]:
    """The /32 and /128 routes without a gateway, by key. Raises `NodeError`."""
    rows = (_dump("routes", _RTM_GETROUTE, _ROUTES.pack(family), parse_route) for family in _HOST_PREFIX)
    keyed = dict(one for one in chain.from_iterable(rows) if one is not None)
    return {key: route for key, route in keyed.items() if route is not None}


def read_host_routes() -> tuple[HostRoute, ...]:
    """The same routes without their keys. Raises `NodeError`."""
    return tuple(read_keyed_routes().values())


def parse_link(message: Any) -> Link:  # pyroute2's messages carry no types
    """The link of a message of kind RTM_NEWLINK or RTM_DELLINK."""
    name = message.get_attr("IFLA_IFNAME")
    return Link(message["index"], name if isinstance(name, str) else name.decode("utf-8", "backslashreplace"))


def parse_route(message: Any) -> tuple[RouteKey, HostRoute | None] | None:
    """The key and the route of a message of kind RTM_NEWROUTE or RTM_DELROUTE.

    None if it is not to a single address; the route is None if it has a gateway or no interface.
    """
    if message["dst_len"] != _HOST_PREFIX.get(message["family"]):
        return None
    interface, address = message.get_attr("RTA_OIF"), message.get_attr("RTA_DST")
    direct = message["type"] == _UNICAST and message.get_attr("RTA_GATEWAY") is None and interface is not None
    table = message.get_attr("RTA_TABLE") or message["table"]
    key = RouteKey(address, table, message.get_attr("RTA_PRIORITY") or 0)
    return key, HostRoute(address, interface) if direct else None


def _dump(what: str, kind: int, body: bytes, parse: Callable[[Any], _Row]) -> list[_Row]:
    """Dumps all objects of a kind, each parsed by `parse`.

    The kernel marks a dump during which objects changed, because others can then be missing from it. Such a dump is
    repeated. On a node that changes all the time the result is what any of the dumps had, oldest first: nothing that
    existed all along is missing, and an object deleted a moment ago may be in it.
    """
    seen: list[_Row] = []
    try:
        for _ in range(_MAX_DUMPS):
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
                netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_ALL, 0, 0) + body)
                rows, consistent = _receive(netlink, parse)
            if consistent:
                return rows
            seen += rows
    except OSError as error:
        raise NodeError(f"the node's {what} could not be read through netlink: {error.strerror}") from error
    except (struct.error, LookupError) as error:
        raise NodeError(f"the kernel's answer about the node's {what} could not be parsed") from error
    return seen


def _receive(netlink: socket.socket, parse: Callable[[Any], _Row]) -> tuple[list[_Row], bool]:
    """The rows up to the end of a dump, and whether the dump is consistent.

    Each buffer is parsed before the next is received: pyroute2's messages have a hundred times their size, and its dump
    of 1000 links leaves 30 MiB allocated.
    """
    from pyroute2.netlink.rtnl.marshal import MarshalRtnl

    rows: list[_Row] = []
    marshal, consistent = MarshalRtnl(), True
    while True:
        data, offset = netlink.recv(_MAX_MESSAGE), 0
        if _HEADER.unpack_from(data)[1] == _ERROR:  # a message on its own
            _raise_error(data, 0)
        for message in marshal.parse(data):
            header = message["header"]
            consistent = consistent and not header["flags"] & _INTERRUPTED
            if header["type"] == _DONE:
                _raise_error(data, offset)
                return rows, consistent
            rows.append(parse(message))
            offset += header["length"]


def _raise_error(data: bytes, offset: int) -> None:
    """Raises the error in the message at `offset`, NLMSG_ERROR or NLMSG_DONE, if it has one."""
    (number,) = struct.unpack_from("=i", data, offset + _HEADER.size)
    if number:
        raise OSError(-number, os.strerror(-number))
