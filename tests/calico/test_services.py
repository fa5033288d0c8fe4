import pytest

from exporter.calico.nat import Backend, decode_backends, decode_frontends
from exporter.calico.services import DROPPED, EXCLUDED, NAT, NO_BACKENDS, Services
from tests.service_tables import backend, columns, frontend, recorded


@pytest.fixture(scope="module")
def node():
    frontends = decode_frontends(recorded("cali_v4_nat_fe3"))
    return Services(frontends, decode_backends(recorded("cali_v4_nat_be")))


WEB = (Backend("10.244.145.199", 8080), Backend("10.244.145.200", 8080))


def made(*frontends, backends=((1, 0, "10.65.0.2", 8080), (1, 1, "10.65.1.9", 8080))):
    rows = decode_frontends(columns(*frontends))
    return Services(rows, decode_backends(columns(*(backend(*one) for one in backends))))


def test_a_service_has_its_backends(node):
    web = node.find("10.96.42.230", 80, 6)
    assert (web.verdict, web.backends) == (NAT, WEB)
    dns = node.find("10.96.0.10", 53, 17)
    assert (dns.verdict, dns.backends) == (NAT, (Backend("10.244.145.192", 53),))


def test_a_service_without_backends_is_one(node):
    empty = node.find("10.96.86.233", 80, 6, "10.244.145.194")
    assert (empty.verdict, empty.backends) == (NO_BACKENDS, ())


@pytest.mark.parametrize(
    ("address", "port", "protocol"),
    [("10.96.42.230", 81, 6), ("10.96.42.230", 80, 17), ("10.244.145.199", 8080, 6), ("fd00::1", 80, 6)],
)
def test_another_port_protocol_or_address_is_no_service(node, address, port, protocol):
    assert node.find(address, port, protocol) is None


def test_a_node_port_answers_at_the_nodes_own_address_and_at_those_of_other_nodes(node):
    assert node.find("10.99.0.2", 30080, 6).backends == WEB
    assert node.find("10.99.0.1", 30080, 6) is None
    other = node.find("10.99.0.1", 30080, 6, host=True)
    assert (other.verdict, other.backends) == (NAT, WEB)
    assert node.find("10.99.0.1", 30081, 6, host=True) is None


def test_the_narrowest_source_range_decides_and_what_is_in_none_is_dropped():
    services = made(
        frontend("10.9.9.9", 80, 6, 1, 0xFFFFFFFF),
        frontend("10.9.9.9", 80, 6, 1, 2, source="192.168.0.0/16"),
        frontend("10.9.9.9", 80, 6, 1, 1, source="192.168.7.0/24"),
    )
    assert services.find("10.9.9.9", 80, 6, "192.168.7.1").backends == (Backend("10.65.0.2", 8080),)
    assert len(services.find("10.9.9.9", 80, 6, "192.168.8.1").backends) == 2
    outside = services.find("10.9.9.9", 80, 6, "10.0.0.1")
    assert (outside.verdict, outside.backends) == (DROPPED, ())
    assert services.find("10.9.9.9", 80, 6).verdict == NAT


def test_a_source_of_the_other_family_is_in_no_range():
    services = made(frontend("10.9.9.9", 80, 6, 1, 2))
    assert services.find("10.9.9.9", 80, 6, "fd00::1") is None


@pytest.mark.parametrize(
    ("flags", "external", "count"),
    [(0, True, 2), (1, True, 1), (1, False, 2), (2, False, 1), (2, True, 2), (3, True, 1)],
)
def test_local_traffic_policies_leave_the_backends_of_this_node(flags, external, count):
    services = made(frontend("10.96.0.7", 80, 6, 1, 2, local=1, flags=flags))
    found = services.find("10.96.0.7", 80, 6, external=external)
    assert [one.address for one in found.backends] == ["10.65.0.2", "10.65.1.9"][:count]


def test_without_a_local_backend_a_local_service_has_none():
    services = made(frontend("10.96.0.7", 80, 6, 1, 2, local=0, flags=2))
    assert services.find("10.96.0.7", 80, 6).verdict == NO_BACKENDS
    assert services.find("10.96.0.7", 80, 6, external=True).verdict == NAT


def test_an_excluded_service_is_left_to_another_load_balancer():
    found = made(frontend("10.96.0.7", 80, 6, 1, 2, flags=4)).find("10.96.0.7", 80, 6)
    assert (found.verdict, found.backends) == (EXCLUDED, ())


def test_backends_beyond_the_count_are_leftovers():
    found = made(frontend("10.96.0.7", 80, 6, 1, 1)).find("10.96.0.7", 80, 6)
    assert found.backends == (Backend("10.65.0.2", 8080),)


def test_ipv6_services_are_found_however_the_address_is_written():
    rows = decode_frontends(
        columns(
            frontend("fd00:96::7", 80, 6, 1, 1),
            frontend("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 30080, 6, 1, 1),
        )
    )
    services = Services(rows, decode_backends(columns(backend(1, 0, "fd00:65::2", 8080))))
    expected = (Backend("fd00:65::2", 8080),)
    assert services.find("fd00:0096:0::0007", 80, 6, "fd00:65::9").backends == expected
    assert services.find("fd00::3", 30080, 6, host=True).backends == expected
