# The metric behind the alert and `why` agree on the IP families of a node.
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf.maps import MapDenied
from exporter.diagnosis.explain import PARTS, explain
from exporter.metrics.endpoints import NOT_READY, EndpointsCollector
from exporter.metrics.exposition import TEXT, render
from exporter.metrics.family import Samples

WORKLOAD, V4, V6, HOST, BOND_SLAVE, UNMANAGED = 0x1, 0x2, 0x4, 0x8, 0x20, 0x400
READY = st.sampled_from([0, V4, V6, V4 | V6])
KINDS = st.sampled_from([WORKLOAD, HOST, HOST | BOND_SLAVE, UNMANAGED])
STATES = st.dictionaries(st.integers(3, 8), st.tuples(KINDS, READY).map(sum), max_size=5)
FILES = st.sets(
    st.sampled_from(["cali3_egress_v4.json", "cali3_ingress_v6.json", "gone_xdp_v4.json", "README", "v6.json"])
)


def told_by_the_metric(snapshot):
    """{(interface, IP family)} that are not ready."""
    (samples,) = (one for one in EndpointsCollector().collect(snapshot) if one.family == NOT_READY)
    labels = [dict(zip(NOT_READY.labels, values, strict=True)) for values in _label_values(samples)]
    return {(one["interface"], int(one["ip_family"])) for one in labels}


def _label_values(samples: Samples):
    lines = [line for line in render([samples], TEXT).decode().splitlines() if not line.startswith("#")]
    return [[pair.split('"')[1] for pair in line[line.index("{") + 1 : line.rindex("}")].split(",")] for line in lines]


def told_by_why(snapshot):
    """The same as each endpoint's problems have it."""
    return {
        (endpoint.interface, family)
        for endpoint in snapshot.endpoints.get().by_index.values()
        for problem in explain(None, snapshot, endpoint).problems
        for family in (4, 6)
        if problem.startswith(f"Calico's IPv{family} programs are not in place on it (not ready)")
    }


@given(STATES, FILES)
def test_the_metric_and_why_say_the_same_of_programs_that_are_not_in_place(make, states, files):
    named = {ifindex: (f"{'cali' if flags & 1 else 'eth'}{ifindex}", flags) for ifindex, flags in states.items()}
    node = make.node(
        [make.counters("cali_counters6", 60, {}), make.ifstate("cali_iface4", 40, named)],
        links=[make.link(1, "lo"), *(make.link(ifindex, name) for ifindex, (name, _) in named.items())],
        policy_files=make.folder(**dict.fromkeys(files, b"{}")),
    )
    snapshot = make.snapshot(node, parts=PARTS | EndpointsCollector.parts)
    in_use = snapshot.ip_families()
    expected = {
        (name, family)
        for name, flags in named.values()
        for family, ready in ((4, V4), (6, V6))
        if family in in_use and not flags & (ready | UNMANAGED)
    }
    assert expected == told_by_the_metric(snapshot) == told_by_why(snapshot)


def test_without_the_interface_state_why_says_nothing_of_programs_and_does_not_fail(make):
    maps = [make.counters("cali_counters6", 60, {(5, 0): {}}), make.ifstate("cali_iface4", 40, {})]
    node = make.node(maps, links=[make.link(5, "cali5")], policy_files=make.folder(**{"cali5_egress_v4.json": b"{}"}))
    node.maps["cali_iface4"] = MapDenied("refused")
    assert set() == told_by_why(make.snapshot(node, parts=PARTS))
