"""`helm install --wait` in a real cluster ends when the exporter answers, also on a node without Calico's dataplane.

No kubelet runs here: what it and the controller of DaemonSets do is the test's part, with the probe of the rendered
object asked of a real exporter.
"""

import http.client
import json
import os
import subprocess
import threading
from contextlib import closing, suppress

import pytest

from tests import installed
from tests.apiserver.cluster import ROOT, free_ports, wait_until

NAME = "calico-bpf-exporter"
HELM = ROOT / ".tools" / "bin" / "helm"


@pytest.fixture(scope="module")
def namespace(cluster):
    cluster.make_namespace(NAME)
    return NAME


@pytest.fixture
def exporter(tmp_path):
    """The port of an exporter on a node without maps, run directory and API server."""
    (port,) = free_ports(1)
    words = (f"--web.listen-address=127.0.0.1:{port}", f"--bpf.fs={tmp_path}", f"--calico.run-dir={tmp_path}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([installed.program(), "serve", *words], stdout=log, stderr=log)
    yield port
    installed.end(process)


def helm(cluster, *words):
    where = (f"--kube-apiserver={cluster.url}", f"--kube-ca-file={cluster.authority.ca}")
    environment = {**os.environ, "HELM_CACHE_HOME": str(cluster.folder / "helm"), "KUBECONFIG": "/dev/null"}
    command = [HELM, *words, *where, f"--kube-token={cluster.admin_token}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def answers(port, path):
    """Whether a probe of the kubelet succeeds."""
    with suppress(OSError), closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as client:
        client.request("GET", path)
        return client.getresponse().status < 400
    return False


def run_node(cluster, namespace, port, done):
    """Makes the DaemonSet's pod on one node ready as soon as its readiness probe succeeds, until `done`."""
    words = ("daemonset", NAME, f"--namespace={namespace}")
    while not done.wait(0.2):
        found = json.loads(cluster.kubectl("get", *words, "--ignore-not-found", "--output=json") or "{}")
        if not found:
            continue
        (container,) = found["spec"]["template"]["spec"]["containers"]
        ready = int(answers(port, container["readinessProbe"]["httpGet"]["path"]))
        status = {"observedGeneration": found["metadata"]["generation"], "numberMisscheduled": 0}
        status |= dict.fromkeys(("desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled"), 1)
        status |= {"numberReady": ready, "numberAvailable": ready, "numberUnavailable": 1 - ready}
        cluster.kubectl(
            "patch", *words, "--subresource=status", "--type=merge", f"--patch={json.dumps({'status': status})}"
        )


@pytest.mark.parametrize("answering", [True, False])
def test_helm_waits_until_the_exporter_answers_which_it_does_without_the_dataplane(
    cluster, namespace, exporter, answering
):
    wait_until(lambda: answers(exporter, "/readyz"))
    (silent,) = free_ports(1)
    done = threading.Event()
    node = threading.Thread(target=run_node, args=(cluster, namespace, exporter if answering else silent, done))
    node.start()
    try:
        timeout = "--timeout=60s" if answering else "--timeout=10s"
        ran = helm(cluster, "install", NAME, ROOT / "chart", f"--namespace={namespace}", "--wait", timeout)
    finally:
        done.set()
        node.join()
        helm(cluster, "uninstall", NAME, f"--namespace={namespace}")
    assert (ran.returncode == 0) == answering, ran.stderr
    assert answering or f"DaemonSet/{namespace}/{NAME} not ready" in ran.stderr
