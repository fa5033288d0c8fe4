"""The cost of finding drops that nothing counts, printed as a line: `make bench`.

Makes 250 real pods' interfaces (veth pairs between two network namespaces) and measures there, beside a whole snapshot
of counters and endpoints in the same run, the CPU time of reading what the kernel received on each of them and of
comparing it with Calico's counters. Needs root.
"""

import os
import subprocess
import sys
from functools import partial

from scrape import MadeLinks, cpu, made_node, name_of  # beside this file

from exporter.bpf.readers import open_reader
from exporter.diagnosis.uncounted import sent_by_pods, uncounted
from exporter.node.nic import read_received
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import take_snapshot
from exporter.snapshot.settings import Settings
from exporter.snapshot.source import LiveNode

PODS = 250
_NODE, _PODS = "bench-uncounted-node", "bench-uncounted-pods"


def main() -> None:
    """Makes the interfaces, measures among them in a process of its own, and removes them."""
    if os.geteuid() != 0:
        sys.exit("the benchmark makes BPF maps and interfaces: run it as root (sudo make bench)")
    if sys.argv[1:] == ["inside"]:
        return measure()
    links = "".join(f"link add {name_of(one)} type veth peer p{one} netns {_PODS}\n" for one in range(PODS))
    try:
        for name in (_NODE, _PODS):
            subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", _NODE, "-batch", "-"], input=links.encode(), check=True)
        subprocess.run(["ip", "netns", "exec", _NODE, sys.executable, __file__, "inside"], check=True)
    finally:
        for name in (_NODE, _PODS):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def measure() -> None:
    """Prints the line."""
    with made_node(PODS) as (bpf_fs, run_dir):
        node, memory = LiveNode(open_reader("libbpf"), bpf_fs, run_dir, MadeLinks(PODS)), Memory()
        take = partial(take_snapshot, node, Settings(), memory)
        snapshot = take({"counters", "endpoints", "received"})
        before = sent_by_pods(snapshot)
        if len(before) != PODS:
            sys.exit(f"the kernel and the maps have only {len(before)} of {PODS} pods in common")
        whole = cpu(lambda: take({"counters", "endpoints"}))
        reading, comparing = cpu(read_received), cpu(lambda: uncounted(before, sent_by_pods(snapshot)))
    print(f"\nuncounted drops of {PODS} pods, CPU milliseconds: {reading:.2f} to read what the kernel received,")
    print(f"{comparing:.2f} to compare, beside {whole:.2f} for a snapshot of counters and endpoints")


if __name__ == "__main__":
    main()
