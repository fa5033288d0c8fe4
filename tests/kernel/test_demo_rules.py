"""Rule counters of the demo node: each packet and flow counts on exactly the rules that it passed."""

import os
from dataclasses import replace

import pytest

from exporter.bpf.readers import open_reader
from exporter.calico.hooks import TC_HOOKS
from exporter.demo.node import Node
from exporter.demo.plan import CART, DATABASE, FRONTEND, PODS, PROBE
from exporter.demo.policy_files import policy_files
from exporter.demo.policy_rules import DIRECTIONS

pytestmark = pytest.mark.kernel

PREFIXES = {step.id: step.prefix for pod in PODS for way in DIRECTIONS for _, step in pod.policy_path(way).steps()}
FROM_FRONTEND = {"PPE1|gnp/security.gate": 1, "ARE0|kns.shop": 1}


@pytest.fixture(scope="module")
def node(machine, tmp_path_factory):
    one = Node(f"t{os.getpid()}", tmp_path_factory.mktemp("demo") / "demo")
    try:
        one.build()
        yield one
    finally:
        one.close()


def counts(node):
    """The rule counters by the prefix of their id; every id must be of the plan."""
    dump = open_reader("libbpf").read(node.bpf.pin("tc/globals", "cali_rule_ctrs2"), sum_cpus=True)
    return {PREFIXES[int.from_bytes(key, "little")]: int.from_bytes(count, "little") for key, count in dump.entries()}


def moved(node, *sent):
    before = counts(node)
    node.send(*sent)
    return {key: count - before.get(key, 0) for key, count in counts(node).items() if count != before.get(key, 0)}


@pytest.mark.parametrize("address", [DATABASE.ipv4, DATABASE.ipv6])
def test_a_denied_packet_counts_on_the_rule_that_denies_it_whatever_its_ip_version(node, address):
    assert {"DPE0|gnp/security.gate": 17} == moved(node, FRONTEND, "udp", address, 6666, 17)
    denied = moved(node, PROBE, "udp", address, 7777, 8)
    assert {"ARE0|kns.ops": 1, "DPI0|gnp/security.gate": 8} == denied


def test_a_packet_that_no_rule_matches_counts_on_each_rule_that_passed_it_and_on_its_tiers_end(node):
    ends = ("PPI1|gnp/security.gate", "DPI|default")
    assert {"ARE0|kns.ops": 1} | dict.fromkeys(ends, 12) == moved(node, PROBE, "udp", DATABASE.ipv4, 9999, 12)
    assert {"ARE0|kns.ops": 6} | dict.fromkeys(ends, 6) == moved(node, PROBE, "flows", DATABASE.ipv6, 9999, 6)


@pytest.mark.parametrize("address", [CART.ipv4, CART.ipv6])
def test_an_allowed_flow_counts_once_on_each_rule_of_its_way(node, address):
    # Nobody listens: the ICMP error that comes back is a flow of its own, on other rules but for those it shares.
    allowed = moved(node, FRONTEND, "udp", address, 8080, 30)
    assert (1, 1) == (allowed["API0|np/shop/allow-cart"], allowed["PPE1|gnp/security.gate"])
    assert "DPI|default" not in allowed


@pytest.mark.parametrize("address", [CART.ipv4, CART.ipv6])
def test_a_rule_by_selector_lets_in_only_the_pods_it_selects(node, address):
    assert {"ARE0|kns.ops": 1, "DPI|default": 5} == moved(node, PROBE, "udp", address, 8080, 5)


@pytest.mark.parametrize(("address", "rule"), [(CART.ipv4, "API1"), (CART.ipv6, "API2")])
def test_a_ping_counts_on_the_rule_of_its_ip_version_and_its_answers_on_none(node, address, rule):
    allowed = moved(node, FRONTEND, "ping", address, 0, 11)
    assert FROM_FRONTEND | {f"{rule}|np/shop/allow-cart": 1} == allowed


def test_a_tier_that_passes_at_its_end_leads_to_the_profile(node):
    allowed = moved(node, FRONTEND, "ping", PROBE.ipv4, 0, 3)
    assert FROM_FRONTEND | {"PPI|audit": 1, "ARI0|kns.ops": 1} == allowed
    denied = moved(node, FRONTEND, "tcp", PROBE.ipv4, 23, 4)
    assert {"PPE1|gnp/security.gate": 4, "ARE0|kns.shop": 4, "DPI0|gnp/audit.watch": 4} == denied


def test_without_a_profile_what_no_policy_decides_is_denied_under_id_0(node):
    unprofiled = replace(PROBE, name="unprofiled", number=99, policies=(), has_profile=False)
    node.add_pod(unprofiled)
    try:
        assert FROM_FRONTEND | {"": 9} == moved(node, FRONTEND, "ping", unprofiled.ipv4, 0, 9)
    finally:
        node.remove_pod(unprofiled)


def test_files_lie_in_calicos_folder_for_root_alone_and_go_with_their_pod(node):
    folder = node.run_dir / "bpf/policy"
    expected = {name: text for pod in PODS for name, text in policy_files(pod).items()}
    assert expected == {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert [0o40600, 0o100600] == sorted({path.stat().st_mode for path in (folder, *folder.iterdir())})
    guest = replace(CART, name="guest", number=98)
    node.add_pod(guest)
    assert len(expected) + 2 * len(TC_HOOKS) == len(list(folder.iterdir()))
    node.remove_pod(guest)
    assert set(expected) == {path.name for path in folder.iterdir()}
