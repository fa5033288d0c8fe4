"""Resource limits of the process, set and lifted while it serves: descriptors, memory, threads and processes."""

import http.client
import resource
import shutil
import subprocess
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from exporter.confine import USER
from tests import installed
from tests.faults.known_node import ALL_WELL, FAR, INTERFACE, NO_MAP_READ, node_samples
from tests.kernel.machine import ROOT, Serving, run, samples_of, steady_descriptors, success
from tests.kernel.pinned import on_each_cpu, u32

pytestmark = pytest.mark.kernel

# prlimit(1), as the server's own user: without CAP_SYS_RESOURCE not even root may do it to another's process.
_PRLIMIT = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "prlimit")


@contextmanager
def limited(server, what, most):
    """The soft limit of a running process, until the end of this."""
    pid = f"--pid={server.process.pid}"
    old = run(*_PRLIMIT, pid, f"--{what}", "--output=SOFT", "--noheadings").stdout.strip()
    run(*_PRLIMIT, pid, f"--{what}={most}:")
    try:
        yield
    finally:
        run(*_PRLIMIT, pid, f"--{what}={old}:")


def scrape_on(client):
    """A scrape on a connection that is open already."""
    client.request("GET", "/metrics")
    answer = client.getresponse()
    assert 200 == answer.status
    return samples_of(answer.read().decode())


@contextmanager
def connected_without_a_gap(server):
    """A connection, after as many more as fill the gaps that snapshots have left between the descriptors."""
    with ExitStack() as clients:
        for _ in range(20):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            scrape_on(clients.enter_context(closing(client)))
            highest = max(int(one.name) for one in Path(f"/proc/{server.process.pid}/fd").iterdir())
            if steady_descriptors(server.process.pid) == highest + 1:
                yield client
                return
        raise AssertionError("each connection left a gap below it")


def test_without_a_free_descriptor_nothing_is_served_as_known_and_afterwards_all_is_as_before(start):
    server = start()
    whole = server.scrape()
    before = steady_descriptors(server.process.pid)
    with connected_without_a_gap(server) as client:
        with limited(server, "nofile", steady_descriptors(server.process.pid)):
            for _ in range(20):
                samples = scrape_on(client)
                assert NO_MAP_READ == success(samples)
                assert node_samples(samples).items() < node_samples(whole).items()
            # New connections wait in the kernel's queue.
            waiting = subprocess.Popen(["curl", "-sS", f"http://127.0.0.1:{server.port}/metrics"], stdout=-1)
            scrape_on(client)
        assert ALL_WELL == success(samples_of(waiting.communicate(timeout=20)[0].decode()))
        assert node_samples(whole) == node_samples(scrape_on(client))
    assert before == steady_descriptors(server.process.pid)
    said = server.log.read_text()
    for collector in ("counters", "rules", "maps"):
        assert 1 == said.count(f"collector {collector} failed: ")
        assert 1 == said.count(f"collector {collector} works again")
    assert "Too many open files" in said
    assert "Traceback" not in said


def test_without_memory_for_a_snapshot_the_failure_is_logged_once_and_all_recovers(known_node, start):
    server = start()
    whole = server.scrape()
    used = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    # Each snapshot now needs some MiB more than any before.
    for number in range(1, 15_000):
        known_node.counters.put(u32(FAR + number, 0), *on_each_cpu(27, {0: 5}))
    with limited(server, "as", used):
        for _ in range(5):
            samples = server.scrape()
            assert 0 == success(samples)["counters"]
            assert [] == [name for name, _ in samples if name == "calico_bpf_program_packets_total"]
    after = server.scrape()
    assert 1 == success(after)["counters"]
    pods = {key: value for key, value in whole.items() if ("interface", INTERFACE) in key[1]}
    assert pods
    assert pods.items() <= after.items()
    said = server.log.read_text()
    assert 1 == said.count("collector counters failed: the process was refused memory: raise its limit")
    assert 1 == said.count("collector counters works again")
    assert "Traceback" not in said


# Root is above the limit of processes; this user, who owns nothing else, has what reading maps takes.
_RIGHTS = "+bpf,+dac_read_search,+dac_override"
_USER = (
    "setpriv",
    "--reuid=54321",
    "--regid=54321",
    "--clear-groups",
    "--inh-caps",
    _RIGHTS,
    "--ambient-caps",
    _RIGHTS,
)


def allowed(threads):
    """What a program is started with that may have so many threads and processes."""
    return (*_USER, "prlimit", f"--nproc={threads}:100")


@pytest.fixture
def serve(known_node, tmp_path):
    """Starts `serve` as a user whom the limit of processes binds."""
    started = []

    def start(threads, **more):
        started.append(
            Serving(known_node.bpf_fs, Path("/nonexistent"), tmp_path / "log", prefix=allowed(threads), **more)
        )
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_where_its_threads_may_not_be_started_the_start_ends_with_a_sentence(known_node, threads):
    where = ["--bpf.fs", known_node.bpf_fs, "--calico.run-dir", "/nonexistent", "--web.listen-address", "127.0.0.1:0"]
    words = [*allowed(threads), installed.program(), "serve", *map(str, where)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    sentence = (
        "Error: a thread could not be started: raise the limit of processes (ulimit -u, or pids.max of the cgroup)"
    )
    assert (1, sentence) == (done.returncode, done.stderr.strip())


def test_five_threads_are_enough_for_everything(serve):
    server = serve(5)
    for _ in range(5):
        assert ALL_WELL == success(server.scrape())
    assert 5 == len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def test_where_bpftool_may_not_be_started_it_is_said_and_when_it_may_all_is_read(known_node, serve):
    server = serve(5, more=["--bpf.reader", "bpftool", "--no-security.drop-capabilities"])
    for _ in range(3):
        assert NO_MAP_READ == success(server.scrape())
    run(*_USER, "prlimit", "--pid", server.process.pid, "--nproc=100:100")  # root may not, without CAP_SYS_RESOURCE
    assert ALL_WELL == success(server.scrape())
    said = server.log.read_text()
    assert f"{shutil.which('bpftool')} could not be started: Resource temporarily unavailable" in said
    assert 1 == said.count("collector counters failed: ")
    assert "Traceback" not in said
