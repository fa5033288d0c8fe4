"""`bundle` brings a node's bundle whole into a file of the user's own, or leaves what was there."""

import subprocess
import sys

import pytest

from tests import installed
from tests.kubectl.cluster import exporter, pod
from tests.kubectl.conftest import RECORDINGS, ROOT

BUNDLE = RECORDINGS / "02-ingress-deny.after.tar.xz"
SEND = """
import shutil, sys
content = open({0!r}, "rb").read()
sys.stdout.buffer.write(content[:{1}])
print("not in the bundle: something", file=sys.stderr)
sys.exit({2})
"""


@pytest.fixture
def sending(cluster):
    def make(length=None, code=0):
        there = exporter("n1")
        cluster.pods += [there, pod("one", network=True)]
        cluster.runs(there, [sys.executable, "-c", SEND.format(str(BUNDLE), length, code)])
        return cluster

    return make


@pytest.mark.parametrize("words", [["one"], ["--node", "n1"]])
def test_the_file_is_the_node_s_bundle(sending, kubectl, tmp_path, words):
    cluster = sending()
    file = tmp_path / "node.tar.xz"
    done = kubectl("bundle", *words, file)
    assert 0 == done.returncode
    assert BUNDLE.read_bytes() == file.read_bytes()
    assert 0o600 == file.stat().st_mode & 0o777
    assert "not in the bundle: something" in done.stderr.splitlines()
    assert f"wrote {file} ({file.stat().st_size / 1024:.1f} KiB)" == done.stderr.splitlines()[-1]
    assert [["bundle", "-"]] == [ran[1:] for _, ran in cluster.ran]
    shown = subprocess.run(
        [installed.program(), "counters", "--bundle", file], cwd=ROOT, capture_output=True, check=True
    )
    assert b"ns-b/server" in shown.stdout


def test_a_redacted_bundle_is_redacted_on_the_node(sending, kubectl, tmp_path):
    cluster = sending()
    assert 0 == kubectl("bundle", "one", tmp_path / "node.tar.xz", "--redact").returncode
    assert [["bundle", "-", "--redact"]] == [ran[1:] for _, ran in cluster.ran]


def test_packets_are_captured_on_the_node(sending, kubectl, tmp_path):
    cluster = sending()
    done = kubectl("bundle", "one", tmp_path / "node.tar.xz", "--packets", "10s")
    assert (0, "capturing for 10s") == (done.returncode, done.stderr.splitlines()[1])
    assert [["bundle", "-", "--packets=10s"]] == [ran[1:] for _, ran in cluster.ran]
    refused = kubectl("bundle", "one", tmp_path / "node.tar.xz", "--packets", "soon")
    assert (2, 1) == (refused.returncode, len(cluster.ran))


@pytest.mark.parametrize("words", [["bundle", "one", "FILE", "--packets=1s"], ["why", "one", "--packets"]])
@pytest.mark.parametrize("sentence", ["No such option '--packets'.", "No such option: --packets"])
def test_an_exporter_without_the_option_is_one_sentence(cluster, kubectl, tmp_path, words, sentence):
    there, usage = exporter("n1"), f"Usage: calico-bpf-exporter {words[0]} [OPTIONS]\n\nError: {sentence}\n"
    cluster.pods += [there, pod("one")]
    cluster.runs(there, [sys.executable, "-c", f"import sys; sys.stderr.write({usage!r}); sys.exit(2)"])
    done = kubectl(*(tmp_path / "node.tar.xz" if one == "FILE" else one for one in words))
    assert f"Error: this exporter has no {words[0]} --packets: upgrade the DaemonSet" == done.stderr.splitlines()[-1]
    assert (1, False) == (done.returncode, "Usage:" in done.stderr)


def test_standard_output_gets_it_too(sending, environment):
    sending()
    done = subprocess.run(
        ["kubectl", "calico-bpf", "bundle", "one", "-"], env=environment, capture_output=True, check=True
    )
    assert BUNDLE.read_bytes() == done.stdout


def test_a_bundle_with_a_part_missing_is_kept_and_says_so(sending, kubectl, tmp_path):
    sending(code=1)
    file = tmp_path / "node.tar.xz"
    assert 1 == kubectl("bundle", "one", file).returncode
    assert BUNDLE.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_half_a_bundle_replaces_nothing(sending, kubectl, tmp_path, length):
    sending(length, code=1)
    file = tmp_path / "node.tar.xz"
    file.write_text("before")
    done = kubectl("bundle", "one", file)
    assert (1, "Error: calico-system/exporter-n1 on node n1 sent no whole bundle") == (
        done.returncode, done.stderr.splitlines()[-1],
    )  # fmt: skip
    assert ["before"] == [one.read_text() for one in tmp_path.glob("node.*")]


def test_a_folder_that_is_not_there_is_one_sentence(sending, kubectl, tmp_path):
    sending()
    file = tmp_path / "nowhere" / "node.tar.xz"
    done = kubectl("bundle", "one", file)
    assert (1, f"Error: {file} could not be written: No such file or directory") == (
        done.returncode, done.stderr.splitlines()[-1],
    )  # fmt: skip
