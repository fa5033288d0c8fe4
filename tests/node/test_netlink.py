import socket
import struct

import pytest

from exporter.node import NodeError, netlink
from exporter.node.netlink import (
    HostRoute,
    Link,
    NodeAddress,
    parse_link,
    parse_route,
    read_addresses,
    read_host_routes,
    read_interface_to,
    read_links,
)


class Message(dict):
    """A netlink message: fields as a mapping, attributes by name."""

    def __init__(self, attributes, **fields):
        super().__init__(fields)
        self.get_attr = attributes.get


def route(dst="10.65.0.2", length=32, kind=1, family=socket.AF_INET, table=254, **attributes):
    fields = {"type": kind, "dst_len": length, "family": family, "table": table}
    return Message({"RTA_DST": dst, "RTA_OIF": 5, **attributes}, **fields)


def host_route(message):
    found = parse_route(message)
    return found and found[1]


def test_the_loopback_interface_is_a_link():
    assert Link(1, "lo") in read_links()


def test_routes_of_this_machine_lead_to_its_links():
    indexes = {link.ifindex for link in read_links()}
    assert {one.ifindex for one in read_host_routes()} <= indexes


def test_the_loopback_interface_has_its_addresses():
    assert NodeAddress("127.0.0.1", 8, 1) in read_addresses()
    assert {one.ifindex for one in read_addresses()} <= {link.ifindex for link in read_links()}


def address(ifindex, **attributes):
    """RTM_NEWADDR with IFA_ADDRESS (1) and IFA_LOCAL (2) of an IPv4 address."""
    numbers = {"ends": 1, "local": 2}
    body = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, ifindex)
    for name, value in attributes.items():
        body += struct.pack("=HH", 8, numbers[name]) + socket.inet_aton(value)
    return struct.pack("=IHHII", 16 + len(body), 20, 2, 0, 0) + body


def test_on_a_point_to_point_link_the_nodes_own_address_is_taken(kernel):
    kernel += [address(3, ends="10.0.0.9", local="10.0.0.1") + address(4, ends="10.1.0.1") + address(5) + end()]
    assert (NodeAddress("10.0.0.1", 24, 3), NodeAddress("10.1.0.1", 24, 4)) == read_addresses()


@pytest.mark.parametrize(("name", "expected"), [("eth0", "eth0"), (b"eth\xff", "eth\\xff"), (b"eth0", "eth0")])
def test_a_links_name_is_text(name, expected):
    assert Link(3, expected) == parse_link(Message({"IFLA_IFNAME": name}, index=3))


def test_host_routes_of_both_families_are_taken():
    assert HostRoute("10.65.0.2", 5) == host_route(route())
    assert HostRoute("fd00:65::2", 5) == host_route(route("fd00:65::2", 128, family=socket.AF_INET6))


@pytest.mark.parametrize(
    "other",
    [
        route(length=24),
        route("fd00::", 32, family=socket.AF_INET6),
        route(RTA_GATEWAY="10.0.0.1"),
        route(RTA_OIF=None),
        route(kind=2),  # an address of the node
        route(kind=3),  # broadcast
        route(kind=6),  # blackhole
        route(family=socket.AF_PACKET),
    ],
)
def test_any_other_route_is_left_out(other):
    assert host_route(other) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (route(), route(RTA_OIF=7), True),
        (route(), route("10.65.0.3"), False),
        (route(), route(table=100), False),
        (route(), route(RTA_PRIORITY=1024), False),
        (route(table=252, RTA_TABLE=1000), route(table=252, RTA_TABLE=1001), False),
        (route(RTA_TABLE=254), route(), True),
        (route(RTA_PRIORITY=0), route(), True),
    ],
)
def test_a_routes_key_is_its_address_table_and_priority(one, other, same):
    assert same == (parse_route(one)[0] == parse_route(other)[0])


def link(ifindex, name):
    """RTM_NEWLINK with the attribute IFLA_IFNAME (3)."""
    value = name.encode() + b"\0"
    padded = value + bytes(-len(value) % 4)
    body = struct.pack("=BxHiII", 0, 1, ifindex, 0, 0) + struct.pack("=HH", 4 + len(value), 3) + padded
    return struct.pack("=IHHII", 16 + len(body), 16, 2, 0, 0) + body


def end(flags=0, number=0):
    """NLMSG_DONE, which may say why there is no more."""
    return struct.pack("=IHHIIi", 20, 3, flags, 0, 0, -number)


def refusal(number):
    """NLMSG_ERROR, with the request that it refuses."""
    return struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -number) + struct.pack("=IHHII", 16, 18, 0, 0, 0)


@pytest.fixture
def kernel(monkeypatch):
    """Answers each request with the next of these buffers."""
    answers = []

    class Socket:
        def __init__(self, *_):
            self._answer = answers.pop(0)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            """Nothing is open."""

        def send(self, _):
            """Ignores the request."""

        def recv(self, _):
            return self._answer

    monkeypatch.setattr(netlink.socket, "socket", Socket)
    return answers


def one_route(kind, *, interface=5):
    """RTM_NEWROUTE to one address of this type, with RTA_OIF (4)."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 0, 0, kind, 0)
    body += struct.pack("=HHI", 8, 4, interface)
    return struct.pack("=IHHII", 16 + len(body), 24, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("answer", "expected"), [(one_route(1), 5), (one_route(2), None), (one_route(6), None), (end(), None), (b"", None)]
)
def test_the_interface_to_an_address_is_that_of_a_route_that_leads_there(kernel, answer, expected):
    kernel.append(answer)
    assert expected == read_interface_to("192.0.2.1")


def test_an_interrupted_dump_is_repeated(kernel):
    kernel += [end(0x10), end()]
    assert () == read_links()
    assert [] == kernel


def test_dumps_that_are_always_interrupted_give_what_any_of_them_had(kernel):
    kernel += [link(1, "lo") + end(0x10), link(1, "lo") + link(2, "cali1") + end(0x10)] * 2
    kernel += [link(2, "cali2") + end(0x10)]
    assert (Link(1, "lo"), Link(2, "cali2")) == read_links()
    assert [] == kernel


def test_a_malformed_message_is_a_node_error(kernel):
    kernel += [struct.pack("=IHHII", 20, 16, 0, 0, 0) + bytes(4)]  # cut short
    with pytest.raises(NodeError, match=r"^the kernel's answer about the node's links could not be parsed$"):
        read_links()


@pytest.mark.parametrize("answer", [refusal(13), end(number=13)])
def test_a_netlink_error_is_a_node_error(kernel, answer):
    kernel += [answer]
    with pytest.raises(NodeError) as raised:
        read_host_routes()
    assert "the node's routes could not be read through netlink: Permission denied" == raised.value.sentence
    assert "AF_NETLINK" in raised.value.remedy


def message(kind, family, length, flags=0):
    """A message about a route to a prefix of this length, or of another kind."""
    body = struct.pack("=BB10x", family, length)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def test_routes_to_networks_are_left_out_before_they_are_parsed():
    host4, host6 = message(24, socket.AF_INET, 32), message(24, socket.AF_INET6, 128)
    networks = message(24, socket.AF_INET, 24) + message(24, socket.AF_INET6, 64)
    link, done, interrupted = message(16, 0, 0), message(3, 0, 0), message(24, socket.AF_INET, 24, 0x10)
    kept = host4 + link + interrupted + host6 + done
    assert kept == netlink._without_networks(host4 + networks + link + interrupted + networks + host6 + done)
