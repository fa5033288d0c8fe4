"""The interpreter against what real nodes counted: every experiment, and every recording with known traffic."""

import ipaddress
import re

import pytest

from exporter.calico.ip_sets import ip_set_trie
from exporter.calico.packet import Packet
from exporter.calico.policy_file import PolicyFile
from exporter.calico.policy_machine import run
from exporter.calico.policy_path import visited
from exporter.calico.policy_program import DENY, program_of
from exporter.calico.protocols import PROTOCOLS
from exporter.diagnosis.changes import compare_rules
from tests.recorded import PAIRS, recording
from tests.traces.experiments import experiments

TRUTHS = [(name, *one) for name, experiment in experiments().items() for one in experiment.programs]
FLAGS = {"44-hep-normal-deny": 4, "46-hep-xdp-deny": 4}  # the packet is for the host itself

SENT = re.compile(r"\./send\.sh ([a-d]) (udp|udpflows|ping|tcpbulk) ([a-d])(6?) (\w+) (\d+)")
PODS = {"a": "calibf331a988cf", "b": "cali34769d6a557", "c": "cali14a81566bd7", "d": "cali86e35d8c298"}
ADDRESSES = {name: (f"10.65.0.{number}", f"fd00:65::{number}") for number, name in enumerate("abcd", 2)}
CLIENTS = bytes.fromhex("c356bbaf47fd848b")  # the number of the IP set of `app == 'client'`
# Felix emptied the counters in between, a limit of packets dropped some, or the interface came with the packets.
UNPREDICTED = ("restart", "qos", "readd", "wildcard")
KNOWN = [
    name
    for name in PAIRS
    if SENT.search(recording(f"{name}.after").oracle["traffic.log"]) and not any(word in name for word in UNPREDICTED)
]


def members_of(bundle, family):
    """The members of IP sets; of those of the recordings one is asked for, whose selector only fits pod a."""
    name = f"cali_v{family}_ip_sets"
    if name not in bundle.pin_names():
        return lambda key: {CLIENTS: True}[key[4:12]] and key[12:16] == ipaddress.ip_address(ADDRESSES["a"][0]).packed
    return ip_set_trie(key for key, _ in bundle.map_dump(name).entries()).__contains__


def evaluate(bundle, interface, way, packet, flags=0):
    """What the program of this file does with the packet, and the rules on its way."""
    family = packet.family
    instructions = list(PolicyFile(bundle.policy_files().files[f"{interface}_{way}_v{family}.json"]).instructions())
    result = run(program_of(instructions, xdp=False), packet.state(flags), members_of(bundle, family))
    return result, visited(instructions, result.path, xdp=False)


@pytest.mark.parametrize(("name", "interface", "way", "counted"), TRUTHS)
def test_the_verdict_and_the_rules_are_those_that_the_node_counted(name, interface, way, counted):
    experiment = experiments()[name]
    flags = FLAGS.get(name.partition("/")[2], 0)
    result, rules = evaluate(experiment.bundle, interface, way, experiment.packet, flags)
    experiment.check(counted, result.verdict, result.rule_ids)
    assert result.rule_ids == tuple(one.id for one in rules if one.id is not None)


def test_there_are_as_many_truths_as_the_experiments_have():
    assert 32 == len(experiments())
    assert 57 == len(TRUTHS)


def predicted(bundle, sent):
    """The hits of each rule id for packets that were sent: a deny counts packets, an allow flows."""
    hits = {}
    for source, how, destination, is_6, port, number in sent:
        family = int(bool(is_6))
        packets, flows = (1 if how in {"ping", "tcpbulk"} else int(number)), (int(number) if how == "udpflows" else 1)
        protocol = {"ping": "icmpv6" if is_6 else "icmp", "tcpbulk": "tcp"}.get(how, "udp")
        ports = (
            {"icmp_type": 128 if is_6 else 8}
            if how == "ping"
            else {"source_port": 40000, "destination_port": int(port)}
        )
        packet = Packet(
            6 if is_6 else 4, ADDRESSES[source][family], ADDRESSES[destination][family], PROTOCOLS[protocol], **ports
        )
        for pod, way in ((source, "egress"), (destination, "ingress")):
            result, _ = evaluate(bundle, PODS[pod], way, packet)
            for rule_id in result.rule_ids:
                hits[rule_id] = hits.get(rule_id, 0) + (packets if result.verdict == DENY else flows)
            if result.verdict == DENY:
                break
    return hits


@pytest.mark.parametrize("name", KNOWN)
def test_known_traffic_hits_the_rules_that_the_node_counted(name):
    before, after = recording(f"{name}.before"), recording(f"{name}.after")
    moved = compare_rules(before.snapshot.rule_hits.get(), after.snapshot.rule_hits.get())
    assert moved == predicted(after.bundle, SENT.findall(after.oracle["traffic.log"]))


def test_traffic_is_known_in_most_recordings_of_every_release():
    assert {"v3.29.7", "v3.30.7", "v3.31.6", "v3.32.1"} == {name.partition("/")[0] for name in KNOWN}
    assert len(KNOWN) >= 30
