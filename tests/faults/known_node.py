"""A simulated node with one pod: its maps and files with known values, and the expected scrape."""

import json
from pathlib import Path

from tests.kernel.machine import Serving
from tests.kernel.pinned import HASH, NO_PREALLOC, PERCPU_HASH, PinnedMap, interface_state, on_each_cpu, u32, u64
from tests.policy_files import policy, tier, written

# No machine has that many interfaces: this index and those after it are free.
FAR = 1_000_000
INTERFACE = "cali0123456789a"
RULE, TIER_END = 7, 8
COUNTERS, IFACE, RULES = "cali_counters6", "cali_iface4", "cali_rule_ctrs2"
STATUS_FILE = "endpoint-status/k8s ns-a%2Fclient eth0"
POLICY_FILE = f"bpf/policy/{INTERFACE}_ingress_v4.json"
ALL_WELL = {"counters": 1, "endpoints": 1, "rules": 1, "maps": 1}
# Links, addresses and files tell what endpoints there are when no map can be read.
NO_MAP_READ = {"counters": 0, "endpoints": 1, "rules": 0, "maps": 0}
# Changes with every scrape.
_DURATION = "calico_bpf_scrape_collector_duration_seconds"
_SUCCESS = "calico_bpf_scrape_collector_success"
_SOURCE = "calico_bpf_source_available"


class KnownNode:
    """The maps and files of a node with the pod ns-a/client."""

    def __init__(self, bpf_fs: Path, make_map, run_dir: Path):
        self.bpf_fs, self.run_dir = bpf_fs, run_dir
        self.pins = bpf_fs / "tc/globals"
        self.states = make_map(IFACE, HASH, 4, 52, max_entries=1000, flags=NO_PREALLOC)
        self.states.put(u32(FAR), interface_state(0x1 | 0x2, INTERFACE, 52))
        self.rules = make_map(RULES, PERCPU_HASH, 8, 8, max_entries=10000)
        for number, hits in ((RULE, 70), (TIER_END, 80)):
            self.rules.put(u64(number), *on_each_cpu(1, {0: hits}))
        self.counters = make_map(COUNTERS, PERCPU_HASH, 8, 8 * 27, max_entries=20000, flags=NO_PREALLOC)
        self.count(2**40 + 5)
        self.write_files()

    @property
    def maps(self) -> tuple[PinnedMap, ...]:
        return self.states, self.rules, self.counters

    def count(self, packets: int, dropped: int = 4) -> None:
        """Sets the counters at both hooks."""
        for hook in (0, 1):
            self.counters.put(u32(FAR, hook), *on_each_cpu(27, {0: packets, 4: dropped}))

    def write_files(self) -> None:
        status = {"ifaceName": INTERFACE, "mac": "02:00:00:00:00:01", "ipv4Nets": ["10.65.0.2/32"], "ipv6Nets": []}
        rules = tier("default", policy("NetworkPolicy ns-a/p", ("allow", RULE)), end=("deny", TIER_END))
        for name, content in ((STATUS_FILE, json.dumps(status).encode()), (POLICY_FILE, written(*rules))):
            file = self.run_dir / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def recovered(server: Serving) -> dict:
    """The second scrape after a fault: the problem `uncounted` is known from two that are complete."""
    server.scrape()
    return server.scrape()


def failed_sources(samples: dict) -> set[str]:
    """The sources that could not be read."""
    return {dict(labels)["source"] for (name, labels), value in samples.items() if name == _SOURCE and not value}


def node_samples(samples: dict) -> dict:
    """The samples about the node, without those about the collection."""
    about = (_DURATION, _SUCCESS, _SOURCE)
    return {key: value for key, value in samples.items() if key[0].startswith("calico_") and key[0] not in about}
