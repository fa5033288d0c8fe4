"""A real kube-apiserver, built by `make test-apiserver`, for all tests of this folder."""

from pathlib import Path

import pytest

from tests.apiserver.cluster import KUBECTL, Cluster, programs
from tests.web.authority import Authority

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.apiserver)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A new cluster, in some seconds."""
    folder = programs()
    if folder is None or not KUBECTL.exists():
        pytest.fail("needs kube-apiserver, etcd and kubectl: run make test-apiserver")
    own = tmp_path_factory.mktemp("cluster")
    made = Cluster(folder, own, Authority(own))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
