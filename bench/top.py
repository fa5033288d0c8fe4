"""The memory of `kubectl calico-bpf top` over 64 nodes: of 250 pods each, and of nodes that mean harm.

Runs the installed plugin with a `kubectl` of its own, which prints pods and responses from files: python bench/top.py
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NODES, PODS, COUNTERS = 64, 250, 25
_MAX_RESPONSE = 16 << 20  # more is cut off
_SCRIPT = """#!/bin/sh
case "$*" in
*exec*) exec cat '{folder}/response';;
*) exec cat '{folder}/pods';;
esac
"""


def exporter(number: int) -> dict[str, object]:
    """The exporter's pod on a node, as the API returns it."""
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "exporter", "uid": "1", "controller": True}
    labels = {"app.kubernetes.io/name": "calico-bpf-exporter"}
    about = {"name": f"exporter-{number}", "namespace": "calico-system", "labels": labels, "ownerReferences": [owner]}
    spec = {"nodeName": f"node-{number}", "hostNetwork": True, "containers": [{"name": "exporter"}]}
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec, "status": status}


def endpoint(number: int) -> dict[str, object]:
    """A pod with every counter moving in both directions."""
    counted = [
        {"hook": hook, "direction": way, "category": "dropped", "reason": f"r{slot}", "count": slot, "per_second": 1.5}
        for hook, way in (("tc_ingress", "outbound"), ("tc_egress", "inbound"))
        for slot in range(COUNTERS)
    ]
    pod = {"interface": f"cali{number:011x}", "namespace": "shop", "pod": f"pod-{number}"}
    return {**pod, "counted": counted}


def peak(folder: Path, response: str) -> int:
    """The most memory in bytes that `top` had when every node answered this."""
    (folder / "response").write_text(response)
    plugin = Path(sys.executable).with_name("kubectl-calico_bpf")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    with subprocess.Popen([plugin, "top", "--for", "1s"], env=environment, stdout=-3, stderr=-3) as process:
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    return used.ru_maxrss << 10


def main() -> None:
    """Prints a row for each kind of node."""
    many = json.dumps({"endpoints": [endpoint(number) for number in range(PODS)]})
    worst = '{"endpoints":[' + "{}," * (_MAX_RESPONSE // 3 - 20) + "{}]}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kubectl").write_text(_SCRIPT.format(folder=folder))
        (folder / "kubectl").chmod(0o755)
        pods = {"apiVersion": "v1", "kind": "List", "items": [exporter(number) for number in range(NODES)]}
        (folder / "pods").write_text(json.dumps(pods))
        print(f"| {NODES} nodes | a response, MB | peak of the plugin, MiB |\n|---|---|---|")
        for what, response in ((f"{PODS} pods each", many), ("as much as is read, of the worst kind", worst)):
            print(f"| {what} | {len(response) / 1e6:.1f} | {peak(folder, response) >> 20} |")


if __name__ == "__main__":
    main()
