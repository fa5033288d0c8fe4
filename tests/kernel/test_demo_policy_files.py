"""The policy debug files of the demo's pods: instruction for instruction what recorded nodes have for such policy."""

import json
import re
import struct
import tarfile
from itertools import pairwise

import pytest

from exporter.demo.plan import CART, DATABASE, FRONTEND, PODS, PROBE, Pod
from exporter.demo.policy_files import policy_files
from exporter.demo.policy_rules import EGRESS, INGRESS, Policy, Rule, Tier
from tests.kernel.machine import ROOT

RECORDING = ROOT / "tests/recordings/v3.32.1/08-tcp-bulk.after.tar.xz"
LOAD_64 = 0x18
GATE = Policy(
    "GlobalNetworkPolicy",
    "security.gate",
    Tier("security"),
    egress=(Rule("deny", "udp", 6666), Rule("allow", "udp", 7000), Rule("pass")),
)
SERVER, PLAIN = Pod("ns-b", "server", 3, policies=(GATE,)), Pod("ns-c", "plain", 4)
UNPROFILED = Pod("ns-d", "open", 5, has_profile=False)


def recorded(name):
    with tarfile.open(RECORDING) as archive:
        return json.load(archive.extractfile(f"policy/{name}"))


def comparable(document):
    """Without what differs from run to run: Felix's own names of rules, and numbers of maps."""
    for line in document["policyInfo"]:
        if line["inst"][0] == LOAD_64 and line["inst"][1] != 0x02:
            line["inst"][4:] = [0] * 4
        if "comments" in line:
            line["comments"] = [
                re.sub(r'rule_id:".{16}"|^(End of rule \S+) .{16}$', r"\1", text) for text in line["comments"]
            ]
    return document


def file_of(pod, direction, version):
    return json.loads(policy_files(pod)[f"{pod.interface}_{direction}_v{version}.json"])


def comments_of(document):
    return [comment for line in document["policyInfo"] for comment in line.get("comments", ())]


def ids_in_code(document):
    lines = [bytes(line["inst"]) for line in document["policyInfo"]]
    return [
        int.from_bytes(low[4:] + high[4:], "little")
        for low, high in pairwise(lines)
        if (LOAD_64, 2) == (low[0], low[1])
    ]


def ids_in_comments(document):
    found = (re.fullmatch(r"Rule MatchID: (\d+)", comment) for comment in comments_of(document))
    return [int(match[1]) for match in found if match]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("pod", "direction"), [(SERVER, EGRESS), (PLAIN, EGRESS), (PLAIN, INGRESS), (UNPROFILED, INGRESS)]
)
def test_the_same_policy_makes_the_same_file_as_on_a_recorded_node(pod, direction, version):
    name = f"{pod.interface}_{direction}_v{version}.json"
    assert comparable(recorded(name)) == comparable(file_of(pod, direction, version))


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_a_pod_has_a_file_for_each_direction_and_version_and_each_names_its_interface_and_hook(pod):
    hooks = {"ingress": "tc egress", "egress": "tc ingress"}
    expected = {f"{pod.interface}_{way}_v{number}.json": hook for way, hook in hooks.items() for number in (4, 6)}
    found = {name: json.loads(text) for name, text in policy_files(pod).items()}
    assert expected == {name: document["hook"] for name, document in found.items()}
    for document in found.values():
        assert ["ifacename", "hook", "policyInfo", "error"] == list(document)
        assert (pod.interface, "") == (document["ifacename"], document["error"])


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_every_instruction_is_8_bytes_and_every_jump_lands_on_its_label(pod, direction, version):
    lines = file_of(pod, direction, version)["policyInfo"]
    labels = {label: place for place, line in enumerate(lines) for label in line.get("labels", ())}
    for place, line in enumerate(lines):
        assert len(bytes(line["inst"])) == 8
        target = re.fullmatch("goto (.+)", line.get("annotation", ""))
        if target:
            (distance,) = struct.unpack_from("<h", bytes(line["inst"]), 2)
            assert labels[target[1]] == place + 1 + distance
    assert {"start", "policy", "allowed_by_host_policy", "exit"} <= set(labels)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("direction", [INGRESS, EGRESS])
@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.name)
def test_every_id_in_a_file_is_one_of_the_plan_and_every_rule_is_in_its_file(pod, direction, version):
    document = file_of(pod, direction, version)
    way = pod.policy_path(direction)
    planned = [step for _, step in way.steps()]
    not_in_comments = {tier.end.id for tier in way.tiers} | {way.no_match.id}
    assert [step.id for step in planned if step.id not in not_in_comments] == ids_in_comments(document)
    assert set(ids_in_code(document)) <= {step.id for step in planned}
    other = {step.id for step in planned if step.rule.version not in (0, version)}
    assert other.isdisjoint(ids_in_code(document))


def test_a_tiers_end_is_in_the_code_alone_and_there_only_where_a_packet_can_reach_it():
    def end_of(pod, direction, number):
        document, end = file_of(pod, direction, 4), pod.policy_path(direction).tiers[number].end
        assert end.id not in ids_in_comments(document)
        return end.prefix, end.id in ids_in_code(document)

    assert ("DPI|default", True) == end_of(CART, INGRESS, 0)
    assert ("PPI|audit", True) == end_of(PROBE, INGRESS, 0)
    assert ("DPE|security", False) == end_of(FRONTEND, EGRESS, 0)
    assert ("DPI|security", False) == end_of(DATABASE, INGRESS, 0)
    lines = file_of(DATABASE, INGRESS, 4)["policyInfo"]
    shared = {"End of tier security: deny", "Start of tier default"}
    assert [True] == [shared <= set(line["comments"]) for line in lines if shared & set(line.get("comments", ()))]


def test_a_rule_by_selector_names_the_ip_set_that_its_code_uses():
    for version in (4, 6):
        document = file_of(CART, INGRESS, version)
        (number,) = (re.search(r"src_ip_set_ids:<0x(\w+)>", text) for text in comments_of(document) if "IPSets" in text)
        assert any("original_src_selector:\"app == 'frontend'\"" in text for text in comments_of(document))
        words = [bytes(line["inst"])[4:] for line in document["policyInfo"] if line["inst"][:2] == [0xB4, 0x01]]
        assert int(number[1], 16) == int.from_bytes(words[0] + words[1])
