"""A kernel that keeps a value for each of 128 CPUs: every one of them is in every sum, in batches and key by key."""

import pytest

from exporter.bpf.walk import possible_cpus
from tests.faults.known_node import ALL_WELL, FAR, RULE
from tests.kernel.machine import interfaces, samples_of, success
from tests.kernel.pinned import on_each_cpu, u32, u64

pytestmark = pytest.mark.kernel

TOTAL = "calico_bpf_program_packets_total"
INTERFACES = 300  # some batches, each of which holds 64 entries of 27 kB
LINKS = range(FAR, FAR + INTERFACES, 30)  # those that exist; the others are leftovers, which have no series
# The values of this machine's CPUs stand so often side by side; 128 CPUs where it has a power of two.
TIMES = max(128 // possible_cpus(), 2)


@pytest.fixture
def packets(known_node):
    """What was counted on each interface, summed over this machine's CPUs: 64 bits, all of them odd."""
    counts = {FAR + number: 2**40 + 2 * number + 1 for number in range(INTERFACES)}
    for ifindex, count in counts.items():
        known_node.counters.put(u32(ifindex, 0), *on_each_cpu(27, {0: count, 4: 3, 26: 1}))
    known_node.rules.put(u64(RULE), *on_each_cpu(1, {0: 2**33 + 1}))
    with interfaces({ifindex: f"cali{ifindex}" for ifindex in LINKS[1:]}):
        yield counts


@pytest.mark.parametrize("way", ["batches", "key by key"])
def test_every_cpu_is_in_every_sum(packets, faulty, control, way):
    (control / "possible").write_text(f"0-{TIMES * possible_cpus() - 1}\n")
    if way == "key by key":
        (control / "faults").write_text('[["lookup_batch", "*", "EOPNOTSUPP"]]')
    server = faulty(more=["--collector.counters.zeros", "none"])
    status, body = server.get()
    assert (200, ALL_WELL) == (status, success(samples_of(body)))
    found = {line.rpartition(" ")[2] for line in body.splitlines() if line.startswith(f"{TOTAL}{{")}
    assert {str(packets[ifindex] * TIMES) for ifindex in LINKS} <= found
    assert f" {(2**33 + 1) * TIMES}" in body
    entries = samples_of(body)["calico_bpf_map_entries", frozenset({("map", "counters"), ("ip_family", "")})]
    assert INTERFACES + 1 == entries
