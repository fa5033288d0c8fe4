"""`trace` on every experiment: a node's own bundle, the packet as a user describes it, and what the node counted."""

import json

import pytest

from exporter.calico.protocols import PROTOCOLS
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give the destination's --port"),
        (["--protocol", "icmp", "--port", "1"], "only tcp, udp and sctp have --port"),
        (["--protocol", "47", "--source-port", "1"], "only tcp, udp and sctp have --port"),
        (["--port", "1", "--icmp-type", "8"], "only icmp and icmpv6 have --icmp-type"),
        (["--protocol", "nothing", "--port", "1"], "nothing is none of tcp"),
        (["--protocol", "256"], "256 is none of tcp"),
        (["--protocol", "9" * 5000], "… is none of tcp"),
        (["--protocol", "icmpv6"], "icmpv6 is not of the addresses' IP family"),
        (["--port", "1", "--via", "cali0"], "--via cali0 is no interface of the host"),
    ],
)
def test_wrong_usage_is_a_sentence(run, bundles, arguments, sentence):
    ends = ["--from", "10.244.145.197", "--to", "ns-b/server"]
    result = run("trace", *ends, *arguments, "--bundle", bundles("v3.32.1/01-allow-selector-udp"))
    assert 2 == result.exit_code
    assert sentence in result.stderr


@pytest.mark.parametrize(
    ("end", "code", "sentence"),
    [
        ("nobody", 1, "no pod nobody on this node"),
        ("interface:eth9", 1, "there is no interface eth9 on this node"),
        ("a/b/c", 2, "--from a/b/c is not [NAMESPACE/]NAME"),
    ],
)
def test_an_end_that_is_not_here_is_a_sentence(run, bundles, end, code, sentence):
    ends = ["--from", end, "--to", "ns-b/server", "--port", "1"]
    result = run("trace", *ends, "--bundle", bundles("v3.32.1/01-allow-selector-udp"))
    assert (code, True) == (result.exit_code, sentence in result.stderr)


def test_the_node_itself_is_an_end_by_its_interface(traced):
    code, answer = traced(
        "v3.32.1/02-default-deny-udp", "--from", "interface:eth0", "--to", "ns-b/server", "--port", "1"
    )
    assert (0, "allow") == (code, answer["verdict"])
    assert "policy is not asked" in answer["programs"][0]["why"]


def test_the_json_has_what_the_contract_names(traced):
    name = "v3.32.1/02-default-deny-udp"
    code, answer = traced(name, *options(experiments()[name]))
    assert {"verdict", "why_unknown", "packet", "service", "programs", "notes", "locations", "text"} == answer.keys()
    program = answer["programs"][-1]
    assert ("ns-b", "server", "tc_egress", "inbound", "workload", 4, None, False) == tuple(
        program[key]
        for key in (
            "namespace",
            "pod",
            "hook",
            "direction",
            "phase",
            "ip_family",
            "program_checked",
            "rule_ids_truncated",
        )
    )
    assert program["rule_ids"][-1] == "3749095597137102361"
    decided = {"kind": "Tier", "tier": "default", "rule": "end_of_tier", "action": "deny", "policy": ""}
    assert decided.items() <= program["decided_by"].items()
    assert 17 == answer["packet"]["protocol"]
    assert (3, None) == (code, answer["packet"]["icmp_type"])
