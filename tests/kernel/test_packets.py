"""Real packets through a real tc program, and what the exporter says of them inside the node's namespace."""

import json
import os
import sys

import pytest

from tests.kernel.machine import Serving, exporter, run, sample, samples_of, success
from tests.kernel.node_with_pod import ALLOWED, DENIED, INTERFACE, POD, SEND, node_with_pod
from tests.kernel.pinned import delete, on_each_cpu, open_pin, put, u32

pytestmark = pytest.mark.kernel

OUTBOUND = {"interface": INTERFACE, "hook": "tc_ingress", "direction": "outbound", "namespace": "ns-a", "pod": "client"}
INBOUND = OUTBOUND | {"hook": "tc_egress", "direction": "inbound"}


@pytest.fixture(scope="module")
def node(module_fs, counting, tmp_path_factory):
    with node_with_pod(module_fs, counting, tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture(scope="module")
def serving(node, tmp_path_factory):
    """The exporter, serving in the node's namespace."""
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with_port = "127.0.0.1:10042"
    server = Serving(node.bpf_fs, node.run_dir, log, prefix=node.inside, address=with_port)
    try:
        yield server
    finally:
        server.end()


def moved(before: dict, after: dict, name: str, **labels: str) -> float:
    """By how much a series that was there before has moved."""
    return after[sample(name, **labels)] - before[sample(name, **labels)]


def test_exactly_the_packets_that_were_sent_are_counted(node, serving):
    before = serving.scrape()
    node.send(DENIED, 25)
    node.send(ALLOWED, 7)
    after = serving.scrape()
    assert 25 == moved(before, after, "calico_bpf_dropped_packets_total", **OUTBOUND, reason="policy")
    assert 7 == moved(before, after, "calico_bpf_accepted_flows_total", **OUTBOUND, reason="policy")
    assert 32 == moved(before, after, "calico_bpf_program_packets_total", **OUTBOUND)
    assert 0 == moved(before, after, "calico_bpf_dropped_packets_total", **INBOUND, reason="policy")
    # What comes back are refusals by ICMP, as many as the kernel's rate limit lets out.
    assert 7 >= moved(before, after, "calico_bpf_program_packets_total", **INBOUND) >= 1


def test_packets_to_the_pod_count_as_inbound(node, serving):
    before = serving.scrape()
    run(*node.inside, sys.executable, "-c", SEND, POD, ALLOWED, 11)
    after = serving.scrape()
    assert 11 == moved(before, after, "calico_bpf_program_packets_total", **INBOUND)
    assert 0 == moved(before, after, "calico_bpf_dropped_packets_total", **OUTBOUND, reason="policy")


def test_a_scrape_of_the_node_is_whole(node, serving):
    samples = serving.scrape()
    assert {"counters": 1, "endpoints": 1, "rules": 1, "maps": 1} == success(samples)
    pod = {"interface": INTERFACE, "namespace": "ns-a", "pod": "client"}
    assert 1 == samples[sample("calico_bpf_endpoint_info", **pod, endpoint_kind="workload", ifindex=str(node.ifindex))]
    assert 1 == samples[sample("calico_bpf_endpoint_address_info", **pod, ip=POD, ip_family="4")]
    assert 0 == samples[sample("calico_bpf_unknown_interfaces")]
    assert 0 == samples[sample("calico_bpf_endpoint_problems", problem="not_ready")]
    assert 0 == samples[sample("calico_bpf_endpoint_problems", problem="counters_missing")]
    assert 0 == samples[sample("calico_bpf_exporter_endpoint_mismatches")]
    assert 1 == samples[sample("calico_bpf_exporter_pods")]
    assert 2 == samples[sample("calico_bpf_map_entries", map="counters", ip_family="")]
    assert 1 == samples[sample("calico_bpf_map_entries", map="iface", ip_family="")]
    assert "cali_counters6" in str(samples.keys())


def test_an_interface_without_its_entry_is_a_black_hole_and_is_reported(node, serving, module_fs):
    key = u32(node.ifindex, 0)
    descriptor = open_pin(module_fs / "tc/globals/cali_counters6")
    try:
        kept = serving.scrape()
        delete(descriptor, key)
        before = serving.scrape()
        node.send(ALLOWED, 5)
        after = serving.scrape()
        put(descriptor, key, b"".join(on_each_cpu(27, {})))
    finally:
        os.close(descriptor)
    missing = sample(
        "calico_bpf_endpoint_counters_missing", interface=INTERFACE, hook="tc_ingress", namespace="ns-a", pod="client"
    )
    assert (False, True, True) == tuple(missing in one for one in (kept, before, after))
    assert sample("calico_bpf_program_packets_total", **OUTBOUND) not in after
    assert 0 == moved(before, after, "calico_bpf_program_packets_total", **INBOUND)
    assert missing not in serving.scrape()


def counters_of(done) -> dict[tuple[str, int], int]:
    """From `counters -o json`: values that are not zero, by hook and slot, of the one endpoint shown."""
    assert done.returncode == 0, done.stderr
    (endpoint,) = json.loads(done.stdout)["endpoints"]
    assert ("ns-a", "client", INTERFACE) == (endpoint["namespace"], endpoint["pod"], endpoint["interface"])
    return {
        (hook, row["slot"]): row["value"]
        for hook, table in endpoint["hooks"].items()
        if table
        for row in table["counters"]
        if row["value"]
    }


@pytest.fixture(scope="module")
def counted(node):
    """After some packets, what the map holds now: nobody sends any more."""
    node.send(DENIED, 3)
    node.send(ALLOWED, 2)
    return counters_of(node.command("counters", "--pod", "ns-a/client", "-o", "json"))


@pytest.mark.parametrize("selector", [("--ip", POD), ("--interface", INTERFACE), ("--pod", "client"), ()], ids=" ".join)
def test_every_selector_shows_the_same_counters(node, counted, selector):
    assert counted == counters_of(node.command("counters", *selector, "--nonzero", "-o", "json"))
    assert {("tc_ingress", 0), ("tc_ingress", 2), ("tc_ingress", 4)} <= counted.keys()


@pytest.mark.parametrize("reader", ["libbpf", "bcc", "bpftool"])
def test_every_reader_shows_the_same_counters(node, counted, reader):
    words = ("counters", "--pod", "ns-a/client", "-o", "json", "--bpf.reader", reader)
    assert counted == counters_of(node.command(*words))


def test_the_table_names_the_pod_and_its_drops(node, counted):
    done = node.command("counters", "--pod", "ns-a/client", "--nonzero")
    assert (0, "") == (done.returncode, done.stderr)
    assert f"ns-a/client  {INTERFACE}" in done.stdout
    assert f"{counted['tc_ingress', 4]} packets dropped: policy {counted['tc_ingress', 4]}" in done.stdout


def test_a_scrape_at_the_prompt_has_the_counters_of_the_node(node, counted):
    done = node.command("scrape")
    assert done.returncode == 0, done.stderr
    samples = samples_of(done.stdout)
    dropped = samples[sample("calico_bpf_dropped_packets_total", **OUTBOUND, reason="policy")]
    total = samples[sample("calico_bpf_program_packets_total", **OUTBOUND)]
    assert (counted["tc_ingress", 4], counted["tc_ingress", 0]) == (dropped, total)


def test_check_finds_what_is_needed(node):
    done = node.command("check", "-o", "json")
    found = {one["subject"]: one["state"] for one in json.loads(done.stdout)}
    assert 0 == done.returncode, done.stdout
    notes = {subject for subject, state in found.items() if state == "note"}
    assert {"policy debug"} == notes
    assert "missing" not in found.values()


def test_check_outside_the_nodes_namespace_says_so(node):
    done = exporter("check", *node.where)
    assert 1 == done.returncode
    assert "network namespace" in done.stdout


def test_a_bundle_shows_the_same_numbers_elsewhere(node, counted, tmp_path):
    bundle = tmp_path / "node.tar.xz"
    done = node.command("bundle", str(bundle))
    assert done.returncode == 0, done.stderr
    for selector in (("--pod", "ns-a/client"), ("--ip", POD), ("--interface", INTERFACE)):
        elsewhere = exporter("counters", *selector, "-o", "json", "--bundle", bundle)
        assert counted == counters_of(elsewhere)


def test_a_bundle_makes_the_same_scrape_elsewhere(node, counted, tmp_path):
    bundle = tmp_path / "node.tar.xz"
    node.command("bundle", str(bundle))
    here, elsewhere = node.command("scrape").stdout, exporter("scrape", "--bundle", bundle).stdout
    assert of_the_node(here) == of_the_node(elsewhere)


def of_the_node(scrape: str) -> dict:
    """The samples that do not tell of the program itself."""
    own = ("calico_bpf_exporter_build_info", "calico_bpf_scrape_collector_duration_seconds")
    return {key: value for key, value in samples_of(scrape).items() if key[0] not in own}
