"""A cluster with a real kubelet, which `make test-cluster` runs on a node of its own, for all tests of this folder."""

import os
from pathlib import Path

import pytest

from exporter.demo.node import Node
from tests.apiserver.cluster import programs
from tests.cluster.node import RealNode
from tests.web.authority import Authority

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """The cluster, in half a minute."""
    folder = programs()
    if folder is None or 1 != os.getppid():
        pytest.fail("needs a node of its own, with Kubernetes and containerd: run make test-cluster")
    own = tmp_path_factory.mktemp("cluster")
    demo = Node("cluster", tmp_path_factory.mktemp("demo") / "demo")
    demo.build()
    made = RealNode(folder, Path(os.environ["IMAGES"]), own, Authority(own), demo)
    try:
        made.start()
        yield made
    finally:
        made.close()
        demo.close()
