"""What is split here and decoded by pyroute2's classes is what the whole of pyroute2 makes of the same bytes."""

import socket
import struct
import subprocess
import sys

import pytest

from exporter.node import NodeError
from exporter.node.rtnl_messages import HEADER, parse_messages

ROUTES, ADDRESSES = 26, 22
DUMPS = {
    "links": (18, bytes(16)),
    "addresses": (ADDRESSES, bytes(8)),
    "IPv4 routes": (ROUTES, bytes([socket.AF_INET]) + bytes(11)),
    "IPv6 routes": (ROUTES, bytes([socket.AF_INET6]) + bytes(11)),
}


def dumped(kind, body):
    """The buffers of a dump."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(HEADER.pack(HEADER.size + len(body), kind, 0x301, 0, 0) + body)
        data = b""
        while not data or all(one.type != 3 for one in parse_messages(data)):
            data = netlink.recv(1 << 17)
            yield data


# In a process of its own: whole, the package is imported as everyone does.
WHOLE = """
import sys
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
for message in MarshalRtnl().parse(sys.stdin.buffer.read()):
    names = ('IFLA_IFNAME', 'RTA_OIF', 'RTA_DST', 'RTA_GATEWAY', 'RTA_TABLE', 'RTA_PRIORITY',
             'IFA_ADDRESS', 'IFA_LOCAL')
    fields = ('index', 'flags', 'family', 'dst_len', 'type', 'table', 'prefixlen')
    header = message['header']
    done = header['type'] == 3
    print(header['type'], header['flags'], [] if done else [message.get_attr(one) for one in names],
          [] if done else [message.get(one) for one in fields])
"""


def shown(message):
    names = ("IFLA_IFNAME", "RTA_OIF", "RTA_DST", "RTA_GATEWAY", "RTA_TABLE", "RTA_PRIORITY")
    names += ("IFA_ADDRESS", "IFA_LOCAL")
    fields = ("index", "flags", "family", "dst_len", "type", "table", "prefixlen")
    decoded = message.decoded
    attributes = [] if decoded is None else [decoded.get_attr(one) for one in names]
    values = [] if decoded is None else [decoded.get(one) for one in fields]
    return f"{message.type} {message.flags} {attributes} {values}"


@pytest.mark.parametrize("what", DUMPS)
def test_messages_are_what_the_whole_package_makes_of_them(what):
    seen = 0
    for data in dumped(*DUMPS[what]):
        words = [sys.executable, "-c", WHOLE]
        whole = subprocess.run(words, input=data, capture_output=True, check=True).stdout.decode().splitlines()
        assert whole == [shown(one) for one in parse_messages(data)]
        seen += len(whole)
    assert seen > 1


def test_a_message_of_another_kind_is_not_decoded():
    data = HEADER.pack(20, 28, 0, 0, 0) + bytes(4) + HEADER.pack(16, 1, 2, 0, 0)
    assert [(28, 0, 0, None), (1, 2, 20, None)] == [
        (one.type, one.flags, one.offset, one.decoded) for one in parse_messages(data)
    ]


@pytest.mark.parametrize("length", [0, 15])
def test_a_message_without_a_length_is_an_error(length):
    with pytest.raises(NodeError, match="without a length"):
        list(parse_messages(struct.pack("=IHHII", length, 16, 0, 0, 0)))
