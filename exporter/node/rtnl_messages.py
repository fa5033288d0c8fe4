"""Messages of rtnetlink about links, routes and addresses: split here, decoded by pyroute2's classes for them.

pyroute2's own `MarshalRtnl` knows a dozen more kinds, and loads 50 modules for them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.node import NodeError
from exporter.package_init import skip_init

# struct nlmsghdr of include/uapi/linux/netlink.h: length, type, flags, sequence number, port.
HEADER = struct.Struct("=IHHII")
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
    skip_init("pyroute2")
    from pyroute2.netlink.exceptions import NetlinkDecodeError

    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, _, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            raise NodeError("the kernel sent a netlink message without a length")
        message_class = _class_of(kind)
        decoded = message_class(data, offset=offset) if message_class else None
        try:
            if decoded is not None:
                decoded.decode()
        except NetlinkDecodeError as error:
            raise NodeError("the kernel sent a message that cannot be decoded") from error
        yield Message(kind, flags, offset, decoded)
        offset += (length + 3) & ~3


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
