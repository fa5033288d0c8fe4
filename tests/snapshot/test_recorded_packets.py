"""The packets of a bundle: what was captured is read again as it was, and what is none of it is an error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.node import NodeError
from exporter.node.packet_flows import Capture, SeenFlow
from exporter.snapshot.bundle import BundleError, read_bundle
from exporter.snapshot.bundle_writer import PARTS, write_bundle
from exporter.snapshot.recorded_packets import (
    PACKETS,
    Counted,
    RecordedPackets,
    packets_member,
    parse_packets,
)
from exporter.snapshot.snapshot import Part
from tests.recorded import Recording

ADDRESSES = {4: st.ip_addresses(v=4).map(str), 6: st.ip_addresses(v=6).map(str)}
PORTS, COUNTS, NAMES = st.integers(0, 65535), st.integers(0, 1 << 40), st.text(max_size=15)


@st.composite
def flows(draw):
    family = draw(st.sampled_from([4, 6]))
    address = ADDRESSES[family]
    ends = st.frozensets(st.tuples(address, PORTS), max_size=3)
    return SeenFlow(
        family=family,
        protocol=draw(st.integers(0, 255)),
        source=draw(address),
        source_port=draw(PORTS),
        destination=draw(address),
        destination_port=draw(PORTS),
        icmp=draw(st.none() | st.tuples(st.integers(0, 255), st.integers(0, 255))),
        interface=draw(NAMES),
        packets=draw(COUNTS),
        passed_to=draw(ends),
        same_passed=draw(st.booleans()),
        answered_by=draw(ends),
    )


captures = st.builds(
    Capture,
    flows=st.lists(flows(), max_size=4).map(tuple),
    unreadable=st.dictionaries(NAMES, st.dictionaries(st.sampled_from(["short", "fragment"]), COUNTS), max_size=3),
    packets=COUNTS,
    lost=COUNTS,
    left_out=COUNTS,
    full=st.booleans(),
    seconds=st.floats(0, 86400),
)
counted = st.lists(st.builds(Counted, NAMES, NAMES, NAMES, COUNTS), max_size=3).map(tuple)


@given(st.builds(RecordedPackets, captures, counted))
def test_what_was_captured_is_read_as_it_was(recorded):
    assert recorded == parse_packets(json.loads(packets_member(recorded)))


FLOW = SeenFlow(4, 17, "10.65.0.4", 40000, "10.65.0.3", 9999, None, "cali14a81566bd7", 10)
WHOLE = json.loads(
    packets_member(
        RecordedPackets(Capture((FLOW,), {"cali5": {"short": 1}}), (Counted("cali5", "inbound", "policy", 1),))
    )
)


def places(value, *path):
    yield path
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in rows:
        yield from places(one, *path, key)


def with_value(path, value):
    found = json.loads(json.dumps(WHOLE))
    at = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


@pytest.fixture
def opened(tmp_path, make):
    """The bundle of a recording with this member."""

    def read(packets):
        path = tmp_path / "bundle.tar"
        path.write_bytes(make.archive(Recording("v3.32.1/02-ingress-deny.after").members | {PACKETS: packets}))
        return read_bundle(path)

    return read


@pytest.mark.parametrize("path", [one for one in places(WHOLE) if one and one[-1] not in ("same_passed", "full")])
def test_what_is_not_as_it_is_written_is_refused_when_the_bundle_is_opened(opened, path):
    for value in (-1, 1 << 65, "nowhere", None, [7], {"x": 7}, float("nan"), "::1"):
        content = json.dumps(with_value(path, value)).encode()
        try:
            recorded = opened(content).packets()
        except BundleError:
            continue
        # Another name, another set of counts, or one that may be left open: it is what it says.
        assert packets_member(recorded) == json.dumps(json.loads(content), separators=(",", ":")).encode()


def test_a_flow_between_two_ip_families_is_refused(opened):
    with pytest.raises(BundleError, match="a flow is from"):
        opened(json.dumps(with_value(("capture", "flows", 0, "source"), "fd00::1")).encode())


def test_a_flow_to_what_is_no_address_is_refused(opened):
    with pytest.raises(BundleError, match="'nowhere'"):
        opened(json.dumps(with_value(("capture", "flows", 0, "passed_to"), [["nowhere", 80]])).encode())


def test_a_bundle_has_packets_or_why_there_are_none(make, tmp_path):
    node = make.node([make.counters("cali_counters6", 60, {(5, 0): {0: 1}})])
    file = tmp_path / "bundle.tar.xz"

    def written(packets):
        with file.open("wb") as target:
            problems = write_bundle(node, make.snapshot(node, parts=PARTS), {}, target, packets=packets).problems
        return read_bundle(file), problems

    recorded = RecordedPackets(Capture((FLOW,), packets=10), ())
    assert recorded == written(Part(recorded))[0].packets()
    assert written(None)[0].packets() is None
    bundle, problems = written(Part(error=NodeError("no right")))
    assert "packets: no right" in problems
    with pytest.raises(NodeError, match="no right"):
        bundle.packets()
