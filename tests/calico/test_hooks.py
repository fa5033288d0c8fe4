import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.hooks import HOOKS, TC_HOOKS, direction, hook_name


@pytest.mark.parametrize(
    ("hook", "workload", "expected"),
    [
        (0, True, "outbound"),  # what enters the host leaves the pod
        (1, True, "inbound"),
        (2, True, "inbound"),
        (0, False, "inbound"),
        (1, False, "outbound"),
        (2, False, "inbound"),
        (3, True, ""),
        (3, False, ""),
        (0xFFFFFFFF, True, ""),
    ],
)
def test_the_direction_is_the_endpoints_own_view(hook, workload, expected):
    assert expected == direction(hook, workload=workload)


@pytest.mark.parametrize(
    ("hook", "expected"),
    [(0, "tc_ingress"), (1, "tc_egress"), (2, "xdp"), (3, "hook:3"), (0xFFFFFFFF, "hook:4294967295")],
)
def test_a_hook_has_a_name_and_an_unknown_one_its_number(hook, expected):
    assert expected == hook_name(hook)


def test_the_tc_hooks_of_an_endpoint_are_opposite_directions():
    for workload in (True, False):
        assert {"inbound", "outbound"} == {direction(hook, workload=workload) for hook in TC_HOOKS}


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_no_two_hooks_share_a_name(one, other):
    assert (one == other) == (hook_name(one) == hook_name(other))


@given(st.integers(0, 0xFFFFFFFF), st.booleans())
def test_a_hook_has_a_direction_exactly_when_a_release_uses_it(hook, workload):
    assert (hook in HOOKS) == (direction(hook, workload=workload) in ("inbound", "outbound"))
