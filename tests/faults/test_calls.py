"""The kernel says no to a call about one map: it is absent, it is said why, and afterwards all is as before."""

import json

import pytest

from tests.faults.known_node import ALL_WELL, COUNTERS, IFACE, NO_MAP_READ, RULES, node_samples, recovered
from tests.kernel.machine import steady_descriptors, success

pytestmark = pytest.mark.kernel

# What fails without each map: without states, links and names still tell what an interface is.
WITHOUT = {
    COUNTERS: {"counters": 0, "endpoints": 1, "rules": 1, "maps": 0},
    IFACE: {"counters": 1, "endpoints": 1, "rules": 1, "maps": 0},
    RULES: {"counters": 1, "endpoints": 1, "rules": 0, "maps": 0},
}
# How each error is said, whatever call it came from.
SAID = {
    "EPERM": "was refused (Operation not permitted)",
    "ENOSPC": "failed: No space left on device",
    "EMFILE": "failed: Too many open files",
    "ENFILE": "failed: Too many open files in system",
    "ENOMEM": "failed: Cannot allocate memory",
    "EINTR": "failed: Interrupted system call",
    "EAGAIN": "failed: Resource temporarily unavailable",
    "EFAULT": "failed: Bad address",
    "EIO": "failed: Input/output error",
}
CALLS = {"opening": "open_pin", "asking the shape of": "object_info", "reading": "lookup_batch"}
# A kernel without batches is asked key by key.
NO_BATCHES = ["lookup_batch", "*", "EOPNOTSUPP"]


@pytest.fixture
def broken(control):
    """Makes calls meet errors, each [call, pin, errno], or none any more."""
    return lambda *faults: (control / "faults").write_text(json.dumps(faults))


@pytest.mark.parametrize("pin", WITHOUT)
def test_each_error_of_each_call_takes_what_needs_the_map_and_no_more_and_leaves_nothing(
    known_node, faulty, broken, pin
):
    server = faulty()
    whole = server.scrape()
    assert ALL_WELL == success(whole)
    before = steady_descriptors(server.process.pid)
    for doing, call in CALLS.items():
        for number, said in SAID.items():
            broken([call, pin, number])
            assert_less(server, WITHOUT[pin], whole)
            assert f"{doing} {known_node.pins / pin} {said}" in server.log.read_text()
    broken()
    assert ALL_WELL == success(recovered(server))
    assert node_samples(whole) == node_samples(server.scrape())
    assert before == steady_descriptors(server.process.pid)


def assert_less(server, expected, whole):
    """These collectors do well, and what is there is what was there: nothing is a zero for being unknown."""
    samples = server.scrape()
    assert expected == success(samples)
    assert node_samples(samples).items() < node_samples(whole).items()


@pytest.mark.parametrize("call", ["next_key", "lookup"])
@pytest.mark.parametrize("pin", WITHOUT)
def test_key_by_key_too_a_map_is_whole_or_absent(known_node, faulty, broken, pin, call):
    broken(NO_BATCHES)
    server = faulty()
    whole = server.scrape()
    for number, said in SAID.items():
        broken(NO_BATCHES, [call, pin, number])
        assert_less(server, WITHOUT[pin], whole)
        assert f"reading {known_node.pins / pin} {said}" in server.log.read_text()
    broken()
    assert node_samples(whole) == node_samples(recovered(server))


def test_a_fault_that_lasts_is_one_sentence_and_its_end_another(faulty, broken):
    server = faulty()
    server.scrape()
    broken(["lookup_batch", "*", "ENOMEM"])
    for _ in range(20):
        server.scrape()
    broken()
    assert ALL_WELL == success(server.scrape())
    said = server.log.read_text()
    for collector in ("counters", "rules", "maps"):
        assert 1 == said.count(f"collector {collector} failed: ")
        assert 1 == said.count(f"collector {collector} works again")
    assert "Traceback" not in said


def test_every_map_refused_takes_all_that_is_counted_and_the_exporter_itself_is_whole(faulty, broken):
    server = faulty()
    whole = server.scrape()
    broken(["open_pin", "*", "EPERM"])
    samples = server.scrape()
    assert NO_MAP_READ == success(samples)
    assert {"calico_bpf_exporter_build_info", "calico_bpf_exporter_pods"} <= {name for name, _ in samples}
    assert [] == [name for name, _ in samples if name.endswith("_packets_total")]
    assert node_samples(samples).items() < node_samples(whole).items()
    assert (200, 200) == (server.get("/healthz")[0], server.get("/readyz")[0])
    broken()
    assert node_samples(whole) == node_samples(recovered(server))
