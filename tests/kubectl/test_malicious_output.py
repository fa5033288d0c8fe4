"""Malicious or hanging exporters and machines: one sentence each, in bounded time, without control characters."""

import json
import lzma
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from exporter.kubectl.answers import query_all
from exporter.kubectl.kubectl import Finished, Kubectl, KubectlError, PodName
from exporter.kubectl.targets import Target
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
        json.dumps(row(per_second=float("nan"))),
        json.dumps(row(per_second=float("inf"))),
        f'{{"endpoints": [], "more": {"9" * 5000}}}',
        json.dumps({"endpoints": [{**ROW, "pod": "x" * 1000}]}),
        json.dumps({"endpoints": [{**ROW, "counted": ROW["counted"] * 2000}]}),
    ],
    ids=range(18),
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


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_streams_that_are_closed_change_nothing(saying, environment, closed):
    saying(json.dumps({"endpoints": [ROW]}))
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", installed.program("kubectl-calico_bpf"), "top"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    assert (0, True) == (done.returncode, b"a/b" in done.stdout)


def test_without_kubectl_it_is_a_sentence(environment, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").write_text("")
    for path, output in ((tmp_path, "there is no kubectl in PATH"), (tmp_path / "bin", "no kubectl in PATH")):
        plugin = installed.program("kubectl-calico_bpf")
        env = {**environment, "PATH": str(path)}
        done = subprocess.run([plugin, "top"], env=env, capture_output=True, text=True, check=False)
        assert (1, True) == (done.returncode, output in done.stderr or "could not be started" in done.stderr)
        assert 1 == len(done.stderr.splitlines())


def test_pods_of_several_namespaces_that_carry_the_label_are_refused_unless_one_is_named(recorded, kubectl):
    cluster = recorded()
    cluster.pods.append(exporter("n1", "impostor", namespace="evil"))
    for words in (("counters", "ns-b/server"), ("top",)):
        done = kubectl(*words)
        assert (1, "") == (done.returncode, done.stdout)
        assert "are in the namespaces calico-system, evil; name the exporter's with" in done.stderr
    assert [] == cluster.ran
    assert 0 == kubectl("counters", "ns-b/server", "--exporter-namespace=calico-system").returncode
    assert ["calico-system/exporter-n1"] == [pod_ for pod_, _ in cluster.ran]


def labelled(*, owner="DaemonSet", network=True):
    found = exporter("n1", "impostor", network=network)
    found["metadata"]["ownerReferences"][0]["kind"] = owner
    return found


@pytest.mark.parametrize(
    ("impostor", "why"),
    [
        (labelled(owner="ReplicaSet"), "belongs to no DaemonSet"),
        (labelled(network=False), "is not in the network of its node"),
        (
            pod("impostor", "n1", "calico-system", labels=exporter("n1")["metadata"]["labels"]),
            "belongs to no DaemonSet",
        ),
    ],
)
def test_nothing_runs_in_a_pod_that_only_has_the_labels(cluster, kubectl, impostor, why):
    cluster.pods += [impostor, pod("one")]
    for words in (("counters", "one"), ("top",)):
        done = kubectl(*words)
        assert (1, "") == (done.returncode, done.stdout)
        assert f"pod calico-system/impostor has the labels of an exporter, but {why}: it is left out" in done.stderr
    assert [] == cluster.ran


def test_an_impostor_beside_an_exporter_is_passed_over(recorded, kubectl):
    cluster = recorded()
    cluster.pods.insert(0, labelled(owner="Job"))
    assert 0 == kubectl("counters", "ns-b/server").returncode
    assert ["calico-system/exporter-n1"] == [pod_ for pod_, _ in cluster.ran]


def test_the_name_of_a_pod_is_no_option(cluster, kubectl):
    there = exporter("n1", "--as=root")
    cluster.pods += [there, pod("one")]
    cluster.runs(there, [sys.executable, "-c", "print('ran')"])
    assert "ran\n" == kubectl("counters", "one").stdout
    assert ["calico-system/--as=root"] == [pod_ for pod_, _ in cluster.ran]


@pytest.fixture
def running(cluster):
    """A cluster whose only exporter runs this code."""

    def make(code):
        there = exporter("n1")
        cluster.pods += [there, pod("one"), pod("two")]
        cluster.runs(there, [sys.executable, "-c", f"import os, sys, time\n{code}"])

    return make


@pytest.mark.parametrize("stream", [1, 2])
def test_an_answer_without_an_end_is_bounded(running, kubectl, stream):
    running(f"try:\n for _ in range(700): os.write({stream}, b'x' * 65536)\nexcept OSError: pass")
    done = kubectl("top")
    assert 1 == done.returncode
    expected = "node n1: its response has more than 16 MiB" if stream == 1 else "node n1: x"
    assert expected in done.stderr
    assert len(done.stderr) < 100_000


def test_errors_of_a_command_cannot_move_the_cursor(running, kubectl):
    running("os.write(2, b'Error: \\x1b[2J\\r\\xe2\\x80\\xae evil\\n')")
    done = kubectl("counters", "one")
    assert not {"\x1b", "\r", "\u202e"} & set(done.stderr)
    assert "Error: \\x1b[2J\\r\\u202e evil" in done.stderr


# 140 bytes, in which Python's tarfile goes back and forth for ever (CVE-2025-8194).
def test_an_archive_that_leads_back_to_its_start_is_no_bundle(running, kubectl, tmp_path):
    header = tarfile.TarInfo("a")
    odd = tarfile.TarInfo("b")
    odd.size = -512
    content = lzma.compress(header.tobuf(tarfile.GNU_FORMAT) + odd.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert len(content) < 300
    running(f"os.write(1, {content!r})")
    done = kubectl("bundle", "one", tmp_path / "node.tar.xz")
    assert (1, True) == (done.returncode, "sent no whole bundle" in done.stderr)


def test_sigterm_leaves_no_file_and_no_kubectl(running, environment, tmp_path):
    running("os.write(1, b'start')\ntime.sleep(60)")
    folder = tmp_path / "out"
    folder.mkdir()
    command = [installed.program("kubectl-calico_bpf"), "bundle", "one", folder / "node.tar.xz"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not any(path.stat().st_size for path in folder.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        assert 128 + signal.SIGTERM == process.wait(timeout=20)
    assert [] == list(folder.iterdir())
    assert children
    assert [] == [child for child in children if Path("/proc", child).exists()]


class Counting:
    """Stands for kubectl: counts how many run at once."""

    def __init__(self):
        self.now = self.most = 0

    def run_in(self, *_, **__):
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.02)
        self.now -= 1
        return Finished(0, b"{}", "")


@pytest.mark.parametrize("parallel", [3, 16])
def test_so_many_kubectl_run_at_once_and_no_more(parallel):
    kubectl, commands = Counting(), [(Target(f"n{n}", PodName("a", "b")), ["counters"]) for n in range(60)]
    answers = query_all(kubectl, commands, "1s", lambda answer: answer.target.node, parallel)
    assert [target.node for target, _ in commands] == list(answers)
    assert kubectl.most <= parallel
