"""Messages of rtnetlink about links and routes: split here, decoded by pyroute2's classes for them.

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
# RTM_NEWLINK and so on, of rtnetlink.h.
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
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    kinds: dict[int, Any] = {NEW_LINK: ifinfmsg, DELETED_LINK: ifinfmsg, NEW_ROUTE: rtmsg, DELETED_ROUTE: rtmsg}
    kinds[NEW_ADDRESS] = ifaddrmsg
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, _, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            raise NodeError("the kernel sent a netlink message without a length")
        if kind == NEW_QUEUE:  # its module loads many others, which only `why` needs
            from pyroute2.netlink.rtnl.tcmsg import tcmsg

            kinds[NEW_QUEUE] = tcmsg
        decoded = kinds[kind](data, offset=offset) if kind in kinds else None
        try:
            if decoded is not None:
                decoded.decode()
        except NetlinkDecodeError as error:
            raise NodeError("the kernel sent a message about links or routes that cannot be decoded") from error
        yield Message(kind, flags, offset, decoded)
        offset += (length + 3) & ~3
