"""The demo node needs the programs that it names, and no others: a minimal Debian has few."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from exporter.demo import DemoError, commands
from exporter.demo.namespace import write_settings
from exporter.demo.node import Node

pytestmark = pytest.mark.kernel

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@pytest.fixture
def only_its_programs(machine, tmp_path, monkeypatch):
    """No program is found but those that the demo names, each in the package that it asks for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in commands.PROGRAMS:
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(commands, "_SEARCH_PATH", str(folder))


@pytest.fixture
def node(tmp_path):
    one = Node(f"t{os.getpid()}", tmp_path / "demo")
    yield one
    one.close()


def test_it_is_built_and_removed_with_the_programs_that_it_names_and_no_others(only_its_programs, node):
    node.build()
    assert node.close()


def forwarding(namespace):
    words = ["ip", "netns", "exec", namespace, "cat", str(FORWARDING)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_settings_are_written_in_the_namespace_alone_and_one_that_is_not_there_is_named(machine, node):
    before = FORWARDING.read_text(encoding="ascii")
    node.build(())
    assert "1\n" == forwarding(node.namespace)
    write_settings(node.namespace, {"net/ipv4/ip_forward": 0})
    assert "0\n" == forwarding(node.namespace)
    assert before == FORWARDING.read_text(encoding="ascii")
    with pytest.raises(DemoError, match="/proc/sys/net/no_such could not be written"):
        write_settings(node.namespace, {"net/no_such": 1})
