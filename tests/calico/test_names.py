import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.names import DEFAULT_PREFIXES, decode_name, is_workload_name, workload_interface


@pytest.mark.parametrize(
    ("namespace", "pod", "expected"),
    [
        ("ns-a", "client", "calibf331a988cf"),
        ("ns-b", "server", "cali34769d6a557"),
        ("ns-c", "plain", "cali14a81566bd7"),
        ("ns-d", "open", "cali86e35d8c298"),
    ],
)
def test_a_recorded_pod_has_the_interface_that_was_recorded(namespace, pod, expected):
    assert expected == workload_interface("cali", namespace, pod)


def test_the_prefix_is_the_only_thing_that_another_prefix_changes():
    assert "azvbf331a988cf" == workload_interface("azv", "ns-a", "client")


@given(st.text(), st.text())
def test_any_pod_has_a_name_that_the_kernel_accepts(namespace, pod):
    try:
        f"{namespace}{pod}".encode()
    except UnicodeEncodeError:
        return
    assert re.fullmatch("cali[0-9a-f]{11}", workload_interface("cali", namespace, pod))


@pytest.mark.parametrize(
    ("interface", "prefixes", "expected"),
    [
        ("calibf331a988cf", ("cali",), True),
        ("cali", ("cali",), False),
        ("cal", ("cali",), False),
        ("xcalibf331a988", ("cali",), False),
        ("eth0", ("cali",), False),
        ("eni12", ("cali", "eni"), True),
        ("cali1", ("eni", "cali"), True),
        ("cali1", (), False),
        ("bpfout.cali", ("cali",), False),
        ("eni34769d6a557", ("cali",), True),  # the hash of a known plugin
        ("gke34769d6a557", (), True),
        ("eni34769d6a55", (), False),
        ("enx34769d6a5571", (), False),
        ("vlan.eth.1", (), False),
        ("", ("cali",), False),
    ],
)
def test_a_workload_name_is_a_prefix_and_something_after_it(interface, prefixes, expected):
    assert expected == is_workload_name(interface, prefixes)


def test_calicos_own_prefix_is_the_default():
    assert is_workload_name(workload_interface("cali", "ns", "pod"), DEFAULT_PREFIXES)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.binary())
def test_a_utf_8_name_comes_back_without_what_follows_its_nul(name, rest):
    assert name == decode_name(name.encode() + b"\0" + rest)


@given(st.binary())
def test_any_bytes_become_text_that_can_be_written(raw):
    assert decode_name(raw).encode("utf-8") is not None
