"""A real kubectl, the plugin as kubectl starts it, and a cluster with a fake API server."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import installed
from tests.kernel.conftest import give_up, machine  # noqa: F401  a fixture for the one file that has a real node
from tests.kubectl.cluster import Cluster, exporter, pod
from tests.web.authority import Authority
from tests.web.fake_api_server import FakeApiServer

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools" / "bin"
RECORDINGS = ROOT / "tests" / "recordings" / "v3.32.1"


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def api(authority):
    api = FakeApiServer(authority)
    yield api
    api.stop()
    assert [] == api.faults


@pytest.fixture
def cluster(api):
    return Cluster(api)


@pytest.fixture
def environment(api, tmp_path):
    """The user's environment: kubectl and the plugin in PATH, and a kubeconfig."""
    if not (TOOLS / "kubectl").exists():
        give_up("kubectl is not here: `make setup` brings it")
    config = api.kubeconfig(tmp_path / "kubeconfig")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CALICO", "KUBE"))}
    path = f"{installed.scripts()}:{TOOLS}:{os.environ['PATH']}"
    return {
        **kept,
        "PATH": path,
        "KUBECONFIG": str(config),
        "KUBECACHEDIR": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }


@pytest.fixture
def kubectl(environment, cluster):
    """Runs `kubectl calico-bpf WORDS`, to its end."""

    def run(*words, env=None):
        command = [TOOLS / "kubectl", "calico-bpf", *map(str, words)]
        return subprocess.run(
            command, env={**environment, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def recorded(cluster):
    """A cluster of one node, that of a recording: its pods, and its exporter, which reads the recording."""

    def make(name="02-ingress-deny.after", node="n1"):
        there = exporter(node)
        cluster.pods += [there, pod("plain", node, "ns-c"), pod("server", node, "ns-b")]
        bundle = RECORDINGS / f"{name}.tar.xz"
        cluster.runs(there, [installed.program()], CALICO_BPF_EXPORTER_BUNDLE=str(bundle))
        return cluster

    return make
