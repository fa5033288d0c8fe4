"""The rule of a denied flow is that which the node counted, on the node of each experiment that a receiver denied."""

from dataclasses import replace

import pytest

from exporter.calico.protocols import ICMP, TCP, UDP
from exporter.diagnosis.denied import denied_flows, denied_lines
from exporter.diagnosis.denied_rules import MAX_RULINGS, policies_of, with_rulings
from exporter.diagnosis.trace import PARTS
from exporter.node import NodeError
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from tests.service_tables import APPROVED, OPENER, WORKLOAD, flow
from tests.traces.experiments import experiments

SENT = {"bits": APPROVED | OPENER | WORKLOAD, "packets": 1}
DENIED = [
    name
    for name, one in experiments().items()
    if one.programs[-1][1:2] == ("ingress",)
    and one.programs[-1][2]["verdict"] == "deny"
    and one.programs[-1][0] != "eth0"
]
UDP_DENIED, ICMP_DENIED = "v3.32.1/02-default-deny-udp", "v3.32.1/04-icmp-type13-deny"


def entry(packet, source_port=None):
    """The entry that Calico's sender makes and its receiver leaves half-approved."""
    ports = packet.protocol in (TCP, UDP)
    address, port = packet.translated or (packet.destination, packet.destination_port)
    service = (packet.destination, packet.destination_port) if packet.translated else None
    source = packet.source, (source_port or packet.source_port) * ports
    return flow(packet.protocol, source, (address, port * ports), SENT, {}, last_seen=1, service=service)


@pytest.fixture
def asked(make):
    """The denied flows of an experiment's node with these entries, each with its rule."""

    def ask(name, *entries, **facts):
        node = make.like(experiments()[name].bundle)
        node.maps["cali_v4_ct4"] = make.table("cali_v4_ct4", 700, "hash", *entries)
        node.facts |= facts
        snapshot = take_snapshot(node, Settings(), Memory(), PARTS | {"conntrack"})
        found = denied_flows(snapshot.conntrack.get(), snapshot.endpoints.get())
        return with_rulings(snapshot, found)

    return ask


def test_the_experiments_have_what_receivers_denied_of_every_protocol():
    assert {"udp", "tcp", "icmp", 47} == {experiments()[name].case["protocol"] for name in DENIED}


@pytest.mark.parametrize("name", DENIED)
def test_a_flow_that_a_receiver_denied_has_the_rule_that_the_node_counted(asked, name):
    experiment = experiments()[name]
    interface, _, counted = experiment.programs[-1]
    (one,) = asked(name, entry(experiment.packet))
    assert interface == one.receiver.interface
    if experiment.packet.protocol == ICMP:
        assert (None, "") == (one.ruling.step, one.ruling.rule)
        assert "it depends on the type of ICMP" in one.ruling.why_unknown
    else:
        assert ("deny", "") == (one.ruling.step.action, one.ruling.why_unknown)
        assert f"denied by {one.ruling.rule}" in denied_lines([one])[0]
        experiment.check(counted, "deny", one.ruling.rule_ids)


def test_what_policy_allows_now_has_no_rule(asked):
    name = "v3.32.1/01-allow-selector-udp"
    (one,) = asked(name, entry(experiments()[name].packet))
    assert ("", None) == (one.ruling.rule, one.ruling.step)
    assert "the rule is not known: the policy of ns-b/server allows such a packet now" in denied_lines([one])[0]


def test_without_policy_files_the_rule_is_not_known(asked):
    (one,) = asked(UDP_DENIED, entry(experiments()[UDP_DENIED].packet), policy_files=NodeError("no folder"))
    assert ("", "no folder") == (one.ruling.rule, one.ruling.why_unknown)


def test_the_policy_of_the_receivers_is_what_is_read(make):
    node = make.like(experiments()[UDP_DENIED].bundle)
    node.maps["cali_v4_ct4"] = make.table("cali_v4_ct4", 700, "hash", entry(experiments()[UDP_DENIED].packet))
    snapshot = take_snapshot(node, Settings(), Memory(), {"conntrack"})
    endpoints = {one.interface: one for one in snapshot.endpoints.get().by_index.values()}
    for interface in ("calie43c605b267", "cali34769d6a557"):
        assert {"cali34769d6a557"} == policies_of(snapshot, endpoints[interface])
    assert set() == policies_of(snapshot, endpoints["cali14a81566bd7"])
    assert set() == policies_of(take_snapshot(make.like(node), Settings(), Memory(), ()), endpoints["eth0"])


def test_only_so_many_are_looked_up(asked):
    packet = experiments()[UDP_DENIED].packet
    packets = [replace(packet, destination_port=port) for port in range(6100, 6100 + MAX_RULINGS + 3)]
    found = asked(UDP_DENIED, *map(entry, packets))
    assert MAX_RULINGS == sum(bool(one.ruling.rule) for one in found)
    assert ["only the rules of the latest 20 are looked up"] * 3 == [one.ruling.why_unknown for one in found[-3:]]
