import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.endpoint_status import EndpointStatus, EndpointStatusError, parse_endpoint_status

NAME = "k8s ns-a%2Fclient eth0"
RECORDED = (
    '{"ifaceName":"calibf331a988cf","mac":"5e:70:53:22:8e:f3","ipv4Nets":["10.65.0.2/32"],'
    '"ipv6Nets":["fd00:65::2/128"]}'
)


def pod_of(name):
    status = parse_endpoint_status(name, RECORDED)
    return status.namespace, status.pod


def addresses_of(**nets):
    return parse_endpoint_status(NAME, json.dumps({"ifaceName": "cali1", **nets})).addresses


def can_be_written(status):
    texts = (status.interface, status.namespace, status.pod, *status.addresses)
    return all(text.encode("utf-8") is not None for text in texts)


def test_a_recorded_file_names_its_pod_interface_and_addresses():
    expected = EndpointStatus("calibf331a988cf", "ns-a", "client", ("10.65.0.2", "fd00:65::2"))
    assert expected == parse_endpoint_status(NAME, RECORDED)


@pytest.mark.parametrize("length", range(len(RECORDED)))
def test_a_file_cut_anywhere_is_an_error_and_never_a_half_truth(length):
    with pytest.raises(EndpointStatusError, match="cut off or not JSON"):
        parse_endpoint_status(NAME, RECORDED[:length])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("k8s ns-a%2Fclient eth0", ("ns-a", "client")),
        ("k8s ns%2Fpod.with.dots net1", ("ns", "pod.with.dots")),
        ("k8s %6es%2f%70od eth0", ("ns", "pod")),
        ("k8s ns%2Fa%20b eth%200", ("ns", "a b")),
        ("openstack vm-1%2Fx eth0", ("", "")),
        ("cni container eth0", ("", "")),
        ("k8s nameless eth0", ("", "")),
        ("k8s %2F eth0", ("", "")),
        ("k8s ns/pod eth0", ("ns", "pod")),  # cannot be a file's name; a bundle could say so
    ],
)
def test_the_pod_is_in_the_name_of_a_kubernetes_workload_only(name, expected):
    assert expected == pod_of(name)


@pytest.mark.parametrize("name", ["", "k8s", "k8s ns%2Fpod", "k8s ns%2Fpod eth0 more", ".tmp-12345", "k8s%20a%2Fb%20c"])
def test_a_name_that_is_not_three_parts_is_an_error(name):
    with pytest.raises(EndpointStatusError, match="is not named <orchestrator> <workload> <endpoint>"):
        parse_endpoint_status(name, RECORDED)


@pytest.mark.parametrize("name", ["k8s ns%2F eth0", "k8s %2Fpod eth0"])
def test_a_pod_has_both_names_or_none(name):
    namespace, pod = pod_of(name)
    assert bool(namespace) == bool(pod)


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        "7",
        '"cali1"',
        "{}",
        '{"ifaceName":null}',
        '{"ifaceName":""}',
        '{"ifaceName":7}',
        '{"ifaceName":["cali1"]}',
        '{"ifacename":"cali1"}',
    ],
)
def test_a_file_that_names_no_interface_is_an_error(text):
    with pytest.raises(EndpointStatusError, match="names no interface"):
        parse_endpoint_status(NAME, text)


@pytest.mark.parametrize("text", ["", " ", "\0", "{", "\ufeff" + RECORDED, RECORDED * 2, "[" * 100_000, "1" * 5_000])
def test_a_file_that_is_not_json_is_an_error(text):
    with pytest.raises(EndpointStatusError):
        parse_endpoint_status(NAME, text)


@pytest.mark.parametrize(
    ("nets", "expected"),
    [
        ({}, ()),
        ({"ipv4Nets": []}, ()),
        ({"ipv4Nets": None, "ipv6Nets": "fd00::1"}, ()),
        ({"ipv4Nets": ["10.0.0.1/32", "10.0.0.2"]}, ("10.0.0.1", "10.0.0.2")),
        ({"ipv6Nets": ["FD00:0:0::1/128"], "ipv4Nets": ["10.0.0.1/32"]}, ("10.0.0.1", "fd00::1")),
        ({"ipv4Nets": ["10.0.0.256/32", "", "x", "10.0.0.1/99", "10.0.0.3/24"]}, ("10.0.0.3",)),
        ({"ipv4Nets": [None, {}, [], 1.5, "10.0.0.1/32"]}, ("10.0.0.1",)),
    ],
)
def test_addresses_are_those_that_read_as_one(nets, expected):
    assert expected == addresses_of(**nets)


# Python reads 5 as 0.0.0.5 and true as 0.0.0.1.
@pytest.mark.parametrize("net", [0, 5, True, 1 << 40])
def test_a_number_is_no_address(net):
    assert () == addresses_of(ipv4Nets=[net])


def test_a_name_that_is_not_utf_8_is_shown_escaped():
    assert ("ns", "p\\udcffd") == pod_of("k8s ns%2Fp\udcffd eth0")


@pytest.mark.parametrize("name", ["k8s ns%2F%ff%fe eth0", "k8s ns%2F%ED%A0%80 eth0", "k8s \udcff%2F\udc80 \udcff"])
def test_a_hostile_name_can_still_be_written(name):
    assert can_be_written(parse_endpoint_status(name, RECORDED))


def test_a_lone_surrogate_in_an_address_can_still_be_written():
    text = r'{"ifaceName":"cali1","ipv6Nets":["fe80::1%\udfff/64","fd00::1/128"]}'
    assert can_be_written(parse_endpoint_status(NAME, text))


def test_a_lone_surrogate_in_the_interface_can_still_be_written_or_is_an_error():
    try:
        status = parse_endpoint_status(NAME, r'{"ifaceName":"cali\ud800"}')
    except EndpointStatusError:
        return
    assert can_be_written(status)


def test_the_sentence_of_an_error_can_be_written_whatever_the_name():
    with pytest.raises(EndpointStatusError) as caught:
        parse_endpoint_status("\udcff\n\x1b[2J", RECORDED)
    assert str(caught.value).isprintable()
    assert str(caught.value).encode("utf-8") is not None


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys(("ifaceName", "ipv4Nets", "ipv6Nets"), ANY_JSON))


@given(st.text() | st.just(NAME), st.text() | FIELDS.map(json.dumps))
def test_anything_is_a_status_or_an_error(name, text):
    try:
        status = parse_endpoint_status(name, text)
    except EndpointStatusError:
        return
    assert status.interface
