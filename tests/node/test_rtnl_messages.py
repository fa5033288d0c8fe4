"""What is split here and decoded by pyroute2's classes is what the whole of pyroute2 makes of the same bytes."""

import socket
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.node import NodeError, rtnl_messages
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


def attribute(kind, value, size=None):
    """An attribute, and the length that it gives itself if that is not its own."""
    data = struct.pack("=HH", 4 + len(value) if size is None else size, kind) + value
    return data + bytes(-len(data) % 4)


def link(*attributes):
    body = struct.pack("=BxHiII", 0, 1, 7, 0x1, 0) + b"".join(attributes)
    return HEADER.pack(HEADER.size + len(body), 16, 2, 0, 0) + body


NAME = st.builds(attribute, st.just(3), st.sampled_from([b"eth0\0", b"cali1234567890a\0", b"\xff\xfe\0", b"x"]))
NUMBER = st.builds(attribute, st.sampled_from([4, 13, 27]), st.binary(min_size=4, max_size=4))
MALFORMED = st.builds(attribute, st.sampled_from([1, 3, 4, 5]), st.binary(max_size=9), st.integers(0, 40))


def names_of(data):
    """What the messages of a buffer say, None where they cannot be decoded."""
    try:
        return [(one.type, one.decoded["index"], one.decoded.get_attr("IFLA_IFNAME")) for one in parse_messages(data)]
    except NodeError:
        return None


@given(messages=st.lists(st.builds(link, NUMBER, NAME | MALFORMED, NUMBER, NAME | MALFORMED), max_size=3))
def test_a_link_has_the_name_that_it_has_in_the_whole_message(messages):
    data = b"".join(messages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rtnl_messages, "_until_name", lambda message: message)
        whole = names_of(data)
    assert whole in (None, names_of(data))


def test_pyroute2_s_configuration_says_what_the_whole_one_says():
    show = "print(config.AF_BRIDGE, config.machine, config.data_plugins_pkgs, config.data_plugins_path)\n"
    ours = "import sys\nfrom exporter.node.rtnl_messages import parse_messages\nlist(parse_messages(b''))\n"
    loaded = "print('multiprocessing' in sys.modules, 'subprocess' in sys.modules)\n"
    whole, light = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
        for code in (f"from pyroute2 import config\n{show}", f"{ours}from pyroute2 import config\n{show}{loaded}")
    )
    assert [*whole, "False False"] == light
