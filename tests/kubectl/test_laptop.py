"""Installed alone, without the `node` extra, the wheel brings click and nothing else, and the plugin works."""

import subprocess
import sys

import pytest

from exporter.cli.main import COMMANDS
from tests import installed


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    """A virtual environment with the wheel, as `pipx install .` makes it."""
    folder = tmp_path_factory.mktemp("laptop")
    python = folder / "venv" / "bin" / "python"
    installed.uv("venv", "--python", sys.executable, folder / "venv")
    installed.uv("pip", "install", "--python", python, installed.wheel())
    listed = installed.uv("pip", "list", "--python", python, "--format", "freeze").split()
    return folder / "venv" / "bin", [one.partition("==")[0] for one in listed]


def test_it_brings_click_alone(laptop):
    assert ["calico-bpf-exporter", "click"] == laptop[1]


def test_the_plugin_and_its_completion_work(laptop, recorded, environment):
    recorded()
    environment["PATH"] = f"{laptop[0]}:{environment['PATH']}"
    done = subprocess.run(
        ["kubectl", "calico-bpf", "counters", "ns-b/server"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1 endpoint, 10 packets dropped: policy 10" in done.stdout
    offered = subprocess.run(
        [laptop[0] / "kubectl_complete-calico_bpf", "to"], capture_output=True, text=True, check=True
    )
    assert "top\tShow the cluster's top endpoints by drops.\n:4\n" == offered.stdout


@pytest.mark.parametrize("words", [["counters", "--pod", "ns-b/server", "--nonzero"], ["serve"]])
def test_the_node_s_commands_say_what_they_need(laptop, words):
    command = words[0]
    done = subprocess.run([laptop[0] / "calico-bpf-exporter", *words], capture_output=True, text=True, check=False)
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(f"Error: {command} needs ")
    assert done.stderr.endswith(
        ", which the kubectl plugin alone does without: install this package with its extra for nodes "
        "(in a clone of it, pip install '.[node]')\n"
    )


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_help_is_the_same_as_on_a_node(laptop, words):
    def ask(program):
        done = subprocess.run([program, *words, "--help"], capture_output=True, text=True, check=False)
        return done.returncode, "".join(done.stdout.split()), done.stderr  # lines may break elsewhere

    assert ask(installed.program()) == ask(laptop[0] / "calico-bpf-exporter")
