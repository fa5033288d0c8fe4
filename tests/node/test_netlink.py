import socket

import pytest

from exporter.node.netlink import HostRoute, Link, parse_link, parse_route, read_host_routes, read_links


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
        route(kind=2),  # the node's own address
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
def test_a_routes_place_is_its_address_table_and_priority(one, other, same):
    assert same == (parse_route(one)[0] == parse_route(other)[0])
