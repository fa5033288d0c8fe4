"""Malicious or hanging exporters and machines: one sentence each, in bounded time, without control characters."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter.kubectl.kubectl import Kubectl, KubectlError, PodName
from tests import installed
from tests.kubectl.cluster import exporter, pod

UNREADABLE = "its response cannot be read"
COUNTED = {"category": "dropped", "direction": "inbound", "hook": "tc_egress", "reason": "policy", "count": 1}
ROW = {"namespace": "a", "pod": "b", "interface": "c", "counted": [{**COUNTED, "per_second": 1.0}]}


def row(**counted):
    return {"endpoints": [{**ROW, "counted": [{**COUNTED, "per_second": None, **counted}]}]}


@pytest.fixture
def saying(cluster, tmp_path):
    """A cluster whose only exporter prints this."""

    def make(text):
        there = exporter("n1")
        cluster.pods += [there, pod("one"), pod("two")]
        (tmp_path / "answer").write_text(text)
        output = str(tmp_path / "answer")
        cluster.runs(there, [sys.executable, "-c", f"import sys; sys.stdout.write(open({output!r}).read())"])

    return make


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "NaN", "null", "5", '"a"', "{}", '{"endpoints": 5}', '{"endpoints": [5]}'),
        json.dumps(row(count="many")),
        json.dumps(row(count=float("inf"))),
        json.dumps(row(count=float("nan"))),
        json.dumps(row(per_second="fast")),
        json.dumps(row(per_second=[])),
        f'{{"endpoints": [], "more": {"9" * 5000}}}',
    ],
    ids=range(14),
)
def test_an_answer_of_another_shape_is_a_sentence(saying, kubectl, text):
    saying(text)
    for words in (("top",), ("why", "one", "--to", "two")):
        done = kubectl(*words)
        assert (1, False) == (done.returncode, "Traceback" in done.stderr)
        assert UNREADABLE in done.stderr or "is not JSON" in done.stderr


def test_names_in_an_answer_cannot_move_the_cursor(saying, kubectl):
    evil = "\x1b[2J\r\nroot# \u202e"
    saying(json.dumps({"endpoints": [{**ROW, "pod": evil, "namespace": evil, "interface": evil}]}))
    done = kubectl("top")
    assert 0 == done.returncode
    assert not {"\x1b", "\r", "\u202e"} & set(done.stdout + done.stderr)
    assert 3 == len(done.stdout.splitlines())


@pytest.mark.parametrize("name", ["--as=root", "-n", "a/-o", "../x", "a/b/c", "/a", ""])
def test_a_name_that_kubectl_would_take_for_a_flag_or_a_path_is_refused(cluster, kubectl, name):
    done = kubectl("counters", "--", name)
    assert done.returncode in (1, 2)
    assert [] == cluster.ran


def test_an_exporter_that_hangs_is_given_up_and_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho $$ > pid\nexec sleep 60\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(KubectlError, match="no answer within 1 s"):
        Kubectl().run_in(PodName("a", "b"), ["counters"], wait=1)
    assert time.monotonic() - start < 30
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


@pytest.mark.parametrize("watch", ["soon", "0", "25h", "-1s"])
def test_a_time_that_is_none_is_wrong_usage_before_anybody_is_asked(saying, cluster, kubectl, watch):
    saying("{}")
    for words in (("top", f"--for={watch}"), ("why", "one", "--to", "two", f"--for={watch}")):
        done = kubectl(*words)
        assert (2, True) == (done.returncode, "is no time between" in done.stderr)
    assert [] == cluster.ran


def test_a_bundle_follows_no_link_and_leaves_nothing_beside_it(saying, kubectl, tmp_path):
    saying("no bundle")
    folder = tmp_path / "shared"
    folder.mkdir()
    (tmp_path / "precious").write_text("precious")
    for name in ("node.tar.xz", "node.tar.xz.part"):
        (folder / name).symlink_to(tmp_path / "precious")
    done = kubectl("bundle", "one", folder / "node.tar.xz")
    assert (1, True) == (done.returncode, "sent no whole bundle" in done.stderr)
    assert "precious" == (tmp_path / "precious").read_text()
    assert {"node.tar.xz", "node.tar.xz.part"} == {path.name for path in folder.iterdir()}


def test_a_reader_that_goes_away_ends_it_without_a_trace(saying, environment):
    saying(json.dumps({"endpoints": [{**ROW, "interface": f"cali{n}"} for n in range(5000)]}))
    command = "kubectl calico-bpf top --top 5000 | head -1"
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("NODE")
    assert "Traceback" not in done.stderr


def test_without_kubectl_it_is_a_sentence(environment, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").write_text("")
    for path, output in ((tmp_path, "there is no kubectl in PATH"), (tmp_path / "bin", "no kubectl in PATH")):
        plugin = installed.program("kubectl-calico_bpf")
        env = {**environment, "PATH": str(path)}
        done = subprocess.run([plugin, "top"], env=env, capture_output=True, text=True, check=False)
        assert (1, True) == (done.returncode, output in done.stderr or "could not be started" in done.stderr)
        assert 1 == len(done.stderr.splitlines())
