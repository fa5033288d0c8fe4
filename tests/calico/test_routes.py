import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico import LayoutError
from exporter.calico.routes import Route, RouteTable, decode_routes
from exporter.calico.tables import Columns
from tests.service_tables import columns, recorded, route


def test_a_real_nodes_routes_are_its_pool_itself_and_its_pods():
    routes = decode_routes(recorded("cali_v4_routes"))
    assert routes[0] == Route("10.99.0.2", 32, 0x18, "")
    assert routes[1] == Route("10.244.0.0", 16, 0x3, "")
    assert {one.address for one in routes if one.local_workload} == {
        f"10.244.145.{number}" for number in (192, 193, 194, 197, 199, 200, 201)
    }
    assert (routes[2].in_pool, routes[2].nat_outgoing, routes[2].local_workload, routes[2].next_hop) == (
        *(True, True, True),
        "",
    )
    table = RouteTable(routes)
    assert table.of("10.99.0.2").local_host
    assert table.of("10.244.145.199").local_workload
    assert (table.of("10.244.7.7").bits, table.of("10.244.7.7").in_pool) == (16, True)
    assert table.of("192.168.1.1") is None
    assert table.of("fd00::1") is None


def test_a_pod_of_another_node_has_that_node_as_its_next_hop():
    v4, v6 = route("10.65.1.0/26", 0x5, "10.0.0.3"), route("fd00:65:1::/122", 0x405, "fd00::3")
    assert decode_routes(columns(v4)) == (Route("10.65.1.0", 26, 0x5, "10.0.0.3"),)
    (block,) = decode_routes(columns(v6))
    assert (block.next_hop, block.remote_workload, block.in_pool) == ("fd00::3", True, True)
    (own,) = decode_routes(columns(route("fd00:65::2/128", 0xD, ifindex=7)))
    assert (own.next_hop, own.local_workload) == ("", True)


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        (0xC, "local_workload"),
        (0x4, "remote_workload"),
        (0x18, "local_host host"),
        (0x10, "remote_host host"),
        (0x1, "in_pool"),
        (0x2, "nat_outgoing"),
        (0x40, "tunneled"),
        (0x100, "blackhole"),
        (0x200, "blackhole"),
        (0xFFFFFCA0, ""),
        (0x0, ""),
    ],
)
def test_a_route_is_one_kind(flags, kinds):
    one = Route("10.0.0.0", 8, flags, "")
    names = ("local_workload", "remote_workload", "local_host", "remote_host", "host", "in_pool")
    names += ("nat_outgoing", "tunneled", "blackhole")
    assert {name for name in names if getattr(one, name)} == set(kinds.split())


@given(st.data())
def test_the_longest_prefix_that_contains_an_address_is_its_route(data):
    version = data.draw(st.sampled_from([4, 6]))
    # Few addresses, so that prefixes nest.
    address = st.integers(0, 255).map(lambda low: ipaddress.ip_address(("10.0.0.0", "fd00::")[version == 6]) + low)
    bits = st.integers(0, 8).map(lambda less: (32, 128)[version == 6] - less)
    nets = data.draw(
        st.lists(
            st.builds(lambda one, length: ipaddress.ip_network((one, length), strict=False), address, bits), unique=True
        )
    )
    table = RouteTable(
        decode_routes(columns(*(route(net, 0x10) for net in nets), sizes=((8, 8), (20, 20))[version == 6]))
    )
    asked = data.draw(address)
    containing = max((net for net in nets if asked in net), key=lambda net: net.prefixlen, default=None)
    found = table.of(str(asked))
    assert (found and f"{found.address}/{found.bits}") == (str(containing) if containing else None)


SIZES = st.sampled_from([8, 20]) | st.integers(0, 30)


@given(st.binary(max_size=200), st.binary(max_size=200), SIZES, SIZES)
def test_any_bytes_are_routes_that_can_be_asked_or_a_layout_error(keys, values, key_size, value_size):
    try:
        found = decode_routes(Columns(keys, values, key_size, value_size))
    except LayoutError:
        return
    assert len(found) == len(keys) // key_size
    table = RouteTable(found)
    assert all(table.of(one.address) for one in found if one.bits in (32, 128))


def test_other_sizes_are_an_error_that_says_so():
    with pytest.raises(LayoutError, match="keys of 8 and values of 20 bytes, expected 8 and 8 or 20 and 20"):
        decode_routes(Columns(b"", b"", 8, 20))
