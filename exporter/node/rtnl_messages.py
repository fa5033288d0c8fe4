"""Messages of rtnetlink about links, routes and addresses: split here, decoded by pyroute2's classes for them.

pyroute2's own `MarshalRtnl` knows a dozen more kinds, and loads 50 modules for them.
"""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.light_imports import skip_init
from exporter.node import NodeError

# struct nlmsghdr of include/uapi/linux/netlink.h: length, type, flags, sequence number, port.
HEADER = struct.Struct("=IHHII")
_LINK_SIZE = 16  # of struct ifinfomsg
# struct rtattr: length and type; IFLA_IFNAME.
_ATTRIBUTE, _NAME = struct.Struct("=HH"), 3
# RTM_NEWLINK and so on.
NEW_LINK, DELETED_LINK, NEW_ADDRESS, NEW_ROUTE, DELETED_ROUTE, NEW_QUEUE = 16, 17, 20, 24, 25, 36


@dataclass(frozen=True, slots=True)
class Message:
    """A message: its type and flags, where it begins, and pyroute2's decoded message, None for any other type."""

    type: int
    flags: int
    offset: int
    decoded: Any  # pyroute2's messages carry no types


def parse_messages(data: bytes) -> Iterator[Message]:
    """Yields the messages in a buffer that the kernel filled. Raises `NodeError`."""
    _skip_inits()
    from pyroute2.netlink.exceptions import NetlinkDecodeError

    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, _, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            raise NodeError("the kernel sent a netlink message without a length")
        message_class = _class_of(kind)
        whole = kind not in (NEW_LINK, DELETED_LINK)
        message, start = (data, offset) if whole else (_until_name(data[offset : offset + length]), 0)
        decoded = message_class(message, offset=start) if message_class else None
        try:
            if decoded is not None:
                decoded.decode()
        except NetlinkDecodeError as error:
            raise NodeError("the kernel sent a message that cannot be decoded") from error
        yield Message(kind, flags, offset, decoded)
        offset += (length + 3) & ~3


def _skip_inits() -> None:
    skip_init("pyroute2")
    # Its configuration imports multiprocessing and starts `uname`, for names of which the message classes use these.
    machine = os.uname().machine
    skip_init(
        "pyroute2.config", AF_BRIDGE=socket.AF_BRIDGE, machine=machine, data_plugins_pkgs=[], data_plugins_path=[]
    )


def _until_name(link: bytes) -> bytes:
    """A message about a link, cut off behind its name: nothing else is asked for of its forty attributes, and decoding
    them is most of what the start of `serve` spends on 1000 links.
    """
    at = HEADER.size + _LINK_SIZE
    while at + _ATTRIBUTE.size <= len(link):
        size, kind = _ATTRIBUTE.unpack_from(link, at)
        if kind == _NAME and _ATTRIBUTE.size < size and at + size <= len(link):
            _, *rest = HEADER.unpack_from(link)
            return HEADER.pack(at + size, *rest) + link[HEADER.size : at + size]
        if size < _ATTRIBUTE.size:
            break
        at += (size + 3) & ~3
    return link  # without a name, or malformed, which pyroute2 says


def _class_of(kind: int) -> Any:
    # Imported when the first message of the kind comes: `serve` asks for no addresses.
    if kind in (NEW_LINK, DELETED_LINK):
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

        return ifinfmsg
    if kind in (NEW_ROUTE, DELETED_ROUTE):
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

        return rtmsg
    if kind == NEW_ADDRESS:
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

        return ifaddrmsg
    if kind == NEW_QUEUE:
        from pyroute2.netlink.rtnl.tcmsg import tcmsg

        return tcmsg
    return None
