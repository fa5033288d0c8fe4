"""Links and host routes of the network namespace this process runs in: dumped by the kernel, parsed by pyroute2.

Interface indexes are valid only in this namespace, so nothing is read from /sys/class/net, which can show another
namespace's links. Knows rtnetlink but not Calico. `live_links.py` follows the changes after such a dump.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import chain
from typing import Any, TypeVar

from exporter.node import NodeError
from exporter.node.rtnl_messages import HEADER, parse_messages
from exporter.privileges import remedy_of_limit

_UNICAST = 1  # RTN_UNICAST: leaves out the node's addresses and broadcasts
_HOST_PREFIX = {socket.AF_INET: 32, socket.AF_INET6: 128}
_Row = TypeVar("_Row")

# include/uapi/linux/netlink.h and rtnetlink.h.
_REQUEST_ALL = 0x1 | 0x300  # NLM_F_REQUEST | NLM_F_DUMP
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_RTM_NEWROUTE = 24
_REQUEST_ONE = 0x1  # NLM_F_REQUEST
_RTA_DST = 1
_ONE_ROUTE = struct.Struct("=BB10x")  # struct rtmsg of a family and a prefix length
_ATTRIBUTE = struct.Struct("=HH")
_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE, _RTM_GETQDISC = 18, 22, 26, 38
# struct ifinfomsg of any link, and the attribute IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS.
_ALL_LINKS = bytes(16) + struct.pack("=HHI", 8, 29, 1 << 3)
_ALL_ADDRESSES = bytes(8)  # struct ifaddrmsg of any family
_ROUTES = struct.Struct("=B11x")  # struct rtmsg of a family
_ALL_QUEUES = bytes(20)  # struct tcmsg
_MAX_MESSAGE = 1 << 17
_MAX_DUMPS = 5
_ALLOW_NETLINK = (
    "allow this process sockets of the family AF_NETLINK: seccomp, SELinux or RestrictAddressFamilies of its systemd "
    "unit refuses them"
)


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
class NodeAddress:
    """An address of this namespace and the length of its prefix, on an interface."""

    address: str
    bits: int
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


def read_addresses() -> tuple[NodeAddress, ...]:
    """The addresses of all links of this namespace. Raises `NodeError`."""
    rows = _dump("addresses", _RTM_GETADDR, _ALL_ADDRESSES, _parse_address)
    return tuple(dict.fromkeys(row for row in rows if row))


def read_keyed_routes() -> dict[RouteKey, HostRoute]:
    """The /32 and /128 routes without a gateway, by key. Raises `NodeError`."""
    rows = (_dump("routes", _RTM_GETROUTE, _ROUTES.pack(family), parse_route) for family in _HOST_PREFIX)
    keyed = dict(one for one in chain.from_iterable(rows) if one is not None)
    return {key: route for key, route in keyed.items() if route is not None}


def read_host_routes() -> tuple[HostRoute, ...]:
    """The same routes without their keys. Raises `NodeError`."""
    return tuple(read_keyed_routes().values())


def read_interface_to(address: str) -> int | None:
    """The index of the interface by which this namespace sends to an address, None where no route leads there.

    Asks the kernel for its decision, so that rules and all tables count. Raises `NodeError`.
    """
    packed = ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = _ONE_ROUTE.pack(family, 8 * len(packed)) + _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _RTA_DST) + packed
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
            netlink.send(HEADER.pack(HEADER.size + len(body), _RTM_GETROUTE, _REQUEST_ONE, 0, 0) + body)
            message = next(parse_messages(netlink.recv(_MAX_MESSAGE)), None)
    except OSError as error:
        raise netlink_error(f"the node's route to {address} could not be read", error) from error
    if message is None or message.type != _RTM_NEWROUTE or message.decoded["type"] != _UNICAST:
        return None  # unreachable, a blackhole, or an address of this namespace itself
    found = message.decoded.get_attr("RTA_OIF")
    return found if isinstance(found, int) else None


def read_queue_drops() -> dict[int, int]:
    """The packets that each interface's clsact queueing discipline has dropped, by interface index.

    Programs attached with tc drop there, Calico's among them; those attached with TCX leave no trace. Raises
    `NodeError`.
    """
    rows = _dump("queueing disciplines", _RTM_GETQDISC, _ALL_QUEUES, _parse_queue)
    return {ifindex: drops for kind, ifindex, drops in rows if kind == "clsact"}


def _parse_queue(message: Any) -> tuple[str, int, int]:
    stats = message.get_attr("TCA_STATS2")
    queue = stats.get_attr("TCA_STATS_QUEUE") if stats else None
    return message.get_attr("TCA_KIND"), message["index"], queue["drops"] if queue else 0


def parse_link(message: Any) -> Link:  # pyroute2's messages carry no types
    """The link of a message of kind RTM_NEWLINK or RTM_DELLINK."""
    name = message.get_attr("IFLA_IFNAME")
    return Link(message["index"], name if isinstance(name, str) else name.decode("utf-8", "backslashreplace"))


def _parse_address(message: Any) -> NodeAddress | None:
    # On a point-to-point link IFA_ADDRESS is the other end's.
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return NodeAddress(address, message["prefixlen"], message["index"]) if address else None


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
                netlink.send(HEADER.pack(HEADER.size + len(body), kind, _REQUEST_ALL, 0, 0) + body)
                rows, consistent = _receive(netlink, parse)
            if consistent:
                return rows
            seen += rows
    except OSError as error:
        raise netlink_error(f"the node's {what} could not be read through netlink", error) from error
    except (struct.error, LookupError) as error:
        raise NodeError(f"the kernel's answer about the node's {what} could not be parsed") from error
    return seen


def netlink_error(what: str, error: OSError) -> NodeError:
    """The error of what the kernel refused, with what to do about it."""
    refused = error.errno in (errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT)
    return NodeError(f"{what}: {error.strerror}", _ALLOW_NETLINK if refused else remedy_of_limit(error.errno))


def _receive(netlink: socket.socket, parse: Callable[[Any], _Row]) -> tuple[list[_Row], bool]:
    """The rows up to the end of a dump, and whether the dump is consistent.

    Each buffer is parsed before the next is received: pyroute2's messages have a hundred times their size, and its dump
    of 1000 links leaves 31 MiB allocated.
    """
    rows: list[_Row] = []
    consistent = True
    while True:
        data = _without_networks(netlink.recv(_MAX_MESSAGE))
        for message in parse_messages(data):
            consistent = consistent and not message.flags & _INTERRUPTED
            if message.type in (_ERROR, _DONE):
                _raise_error(data, message.offset)
            if message.type == _DONE:
                return rows, consistent
            if message.decoded is not None:
                rows.append(parse(message.decoded))


def _without_networks(data: bytes) -> bytes:
    """The messages without the routes to more than one address: a node can have 100,000, and parsing is what costs."""
    kept, offset = [], 0
    while offset < len(data):
        length, kind, flags, _, _ = HEADER.unpack_from(data, offset)
        route = data[offset + HEADER.size : offset + HEADER.size + 2]  # struct rtmsg: family, dst_len
        network = kind == _RTM_NEWROUTE and route[1] not in _HOST_PREFIX.values()
        if not network or flags & _INTERRUPTED:
            kept.append(data[offset : offset + length])
        offset += max(length, HEADER.size)
    return b"".join(kept)


def _raise_error(data: bytes, offset: int) -> None:
    """Raises the error in the message at `offset`, NLMSG_ERROR or NLMSG_DONE, if it has one."""
    (number,) = struct.unpack_from("=i", data, offset + HEADER.size)
    if number:
        raise OSError(-number, os.strerror(-number))
