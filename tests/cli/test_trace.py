"""`trace` on every experiment: a node's own bundle, the packet as a user describes it, and what the node counted."""

import json

import pytest

from exporter.calico.packet import PROTOCOLS
from tests.traces.experiments import INGRESS, SHAPES, experiments

TRUE = [name for name in experiments() if name not in SHAPES]
NUMBERS = {number: name for name, number in PROTOCOLS.items()}


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """The file of an experiment's bundle by its name."""
    folder, written = tmp_path_factory.mktemp("traces"), {}

    def path(name):
        if name not in written:
            written[name] = experiments()[name].write_bundle(folder / f"{name.replace('/', '-')}.tar.xz")
        return written[name]

    return path


def options(experiment):
    """The packet as options: pods by name, and the backend of a service, since these bundles have no NAT maps."""
    case = experiment.case
    nat = case["nat"] or {"dst_ip": case["dst_ip"], "dport": case["dport"]}
    given = ["--from", case["from"] if case["from"] and "/" in case["from"] else case["src_ip"], "--to", nat["dst_ip"]]
    given += ["--protocol", case["protocol"]]
    if case["icmp"]:
        given += ["--icmp-type", case["icmp"]["type"], "--icmp-code", case["icmp"]["code"]]
    elif case["protocol"] in PROTOCOLS:
        given += ["--port", nat["dport"], "--source-port", case["sport"]]
    if "host_interface" in case["expected"]:
        given += ["--via", "eth0"]
    return given


@pytest.fixture
def traced(run, bundles):
    """The exit code and the JSON of a trace in an experiment's bundle."""

    def trace(name, *arguments):
        result = run("trace", "-o", "json", "--bundle", bundles(name), *arguments)
        return result.exit_code, json.loads(result.stdout)

    return trace


@pytest.mark.parametrize("name", TRUE)
def test_each_program_says_what_the_node_counted(name, traced):
    experiment = experiments()[name]
    code, answer = traced(name, *options(experiment))
    programs = {(one["interface"], one["hook"]): one for one in answer["programs"]}
    for interface, way, counted in experiment.programs:
        host = interface == "eth0"
        program = programs[interface, "tc_ingress" if (way == INGRESS) == host else "tc_egress"]
        experiment.check(counted, program["verdict"], map(int, program["rule_ids"]))
    denied = any(counted["verdict"] == "deny" for _, _, counted in experiment.programs)
    assert (("deny", 3) if denied else ("allow", 0)) == (answer["verdict"], code)
    assert "" == answer["why_unknown"]
