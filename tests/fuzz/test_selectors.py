"""Whatever a person asks for, it is endpoints that there are or a sentence of click's; each endpoint is found by the
names that it has.
"""

from contextlib import suppress

import click
from hypothesis import given
from hypothesis import strategies as st

from exporter.cli.selector import Selector, select
from exporter.node.endpoints import Endpoint

NAMES = st.text(st.characters(exclude_characters="/"), min_size=1, max_size=12)
ADDRESSES = st.ip_addresses().map(str)
MADE = st.builds(
    Endpoint,
    st.integers(1, 1000),
    NAMES,
    st.just("workload"),
    NAMES,
    NAMES,
    st.lists(ADDRESSES, max_size=2).map(tuple),
)
ENDPOINTS = st.lists(MADE, max_size=6, unique_by=lambda one: one.ifindex)
WORDS = st.none() | st.text() | NAMES | ADDRESSES


@given(ENDPOINTS, st.lists(st.text(), max_size=2), WORDS, WORDS)
def test_any_words_select_endpoints_that_there_are_or_are_a_sentence(endpoints, interfaces, pod, address):
    found = set()
    with suppress(click.ClickException):
        found = select(endpoints, Selector(tuple(interfaces), pod, address))
    assert found <= {one.ifindex for one in endpoints}


@given(ENDPOINTS, st.data())
def test_each_endpoint_is_found_by_its_interface_and_by_its_pod_and_address_if_nobody_shares_them(endpoints, data):
    if not endpoints:
        return
    one = data.draw(st.sampled_from(endpoints))
    assert one.ifindex in select(endpoints, Selector((one.interface,)))
    if [(one.namespace, one.pod)] == [(each.namespace, each.pod) for each in endpoints if each.pod == one.pod]:
        assert {one.ifindex} == select(endpoints, Selector(pod=f"{one.namespace}/{one.pod}"))
    for address in one.addresses:
        if sum(address in each.addresses for each in endpoints) == 1:
            assert {one.ifindex} == select(endpoints, Selector(ip=address))
