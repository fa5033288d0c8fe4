"""A simulated node with known values (`known_node.py`), and `serve` on it in a process."""

import sys
from contextlib import ExitStack

import pytest

from tests.faults.known_node import FAR, INTERFACE, KnownNode
from tests.kernel.conftest import (  # noqa: F401  fixtures of the tests here too
    bpf_fs,
    bpf_mount,
    counting,
    machine,
    make_map,
    pins,
)
from tests.kernel.machine import Serving, interfaces


@pytest.fixture
def known_node(bpf_fs, make_map, tmp_path):  # noqa: F811  the fixture above
    """A node with one pod."""
    with interfaces({FAR: INTERFACE}):
        yield KnownNode(bpf_fs, make_map, tmp_path / "calico")


@pytest.fixture
def control(tmp_path):
    """The folder with the faults to inject (`faulty.py`)."""
    folder = tmp_path / "control"
    folder.mkdir()
    return folder


@pytest.fixture
def start(known_node, tmp_path):
    """Starts `serve` on the known node."""
    with ExitStack() as ends:

        def start(**more) -> Serving:
            server = Serving(known_node.bpf_fs, known_node.run_dir, tmp_path / "serve.log", **more)
            ends.callback(server.end)
            return server

        yield start


@pytest.fixture
def faulty(start, control):
    """Starts `serve` over the wrapped system call layer."""

    def over(**more) -> Serving:
        return start(program=(sys.executable, "-m", "tests.faults.faulty", control), **more)

    return over
