"""The installed program in a real cluster: names its node's pods, and asks who may read the metrics."""

import http.client
import os
import subprocess
from contextlib import suppress

import pytest

from tests import installed
from tests.apiserver.cluster import free_ports, pod, wait_until


@pytest.fixture
def port(cluster, tmp_path):
    """The port of an exporter with the chart's rights, for the node `node-1`."""
    cluster.make_namespace("monitoring", "prometheus", "nobody")
    _, account = cluster.install_roles({"kubernetes": {"authorization": True}})
    words = ("--clusterrole=test-calico-bpf-exporter-reader", "--serviceaccount=monitoring:prometheus")
    cluster.kubectl("create", "clusterrolebinding", "prometheus", *words)
    (port,) = free_ports(1)
    config = cluster.kubeconfig(tmp_path / "config", {"token": cluster.token(account, "monitoring")})
    command = [
        *(installed.program(), "serve", f"--web.listen-address=127.0.0.1:{port}"),
        *(f"--bpf.fs={tmp_path}", f"--calico.run-dir={tmp_path}", "--kubernetes.node=node-1"),
        *(f"--kubernetes.kubeconfig={config}", "--kubernetes.authorization"),
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "NO_PROXY": "*"})
    yield port
    installed.end(process)
    assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")


def ask(port, token=None):
    """Status and text of a scrape; None before the server listens."""
    client = http.client.HTTPConnection("127.0.0.1", port)
    try:
        client.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = client.getresponse()
        return answer.status, answer.read().decode()
    except ConnectionError:
        return None
    finally:
        with suppress(OSError):
            client.close()


def test_serve_names_the_nodes_pods_and_lets_in_whom_the_cluster_lets(cluster, port):
    cluster.make_namespace("shop")
    cluster.create(pod("web", "shop", "node-1"), pod("db", "shop", "node-1"), pod("far", "shop", "node-2"))
    good = cluster.token("prometheus", "monitoring")
    wait_until(lambda: ask(port))
    assert (401, 401, 403) == tuple(
        ask(port, token)[0] for token in (None, "wrong", cluster.token("nobody", "monitoring"))
    )
    assert 200 == ask(port, good)[0]
    wait_until(lambda: "\ncalico_bpf_exporter_pods 2\n" in ask(port, good)[1])
    assert 'calico_bpf_source_available{source="api_server"} 1\n' in ask(port, good)[1]
    cluster.kubectl("delete", "pod", "web", "--namespace=shop", "--force", "--grace-period=0")
    wait_until(lambda: "\ncalico_bpf_exporter_pods 1\n" in ask(port, good)[1])
