"""A log that cannot be written: metrics are served as before, and logging recovers."""

import fcntl
import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager, suppress

import pytest

from tests import installed
from tests.faults.known_node import ALL_WELL
from tests.kernel.machine import ROOT, run, samples_of, steady_descriptors, success

pytestmark = pytest.mark.kernel

# As a systemd unit starts it; the image starts Python with -u, which is the same as PYTHONUNBUFFERED.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
UNBUFFERED = BUFFERED | {"PYTHONUNBUFFERED": "1"}


class ServerWithLog:
    """`serve` with its log in `errors`, from which the port cannot be read."""

    def __init__(self, known_node, errors, environment, *, close=()):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        where = ["--bpf.fs", known_node.bpf_fs, "--calico.run-dir", known_node.run_dir]
        words = [installed.program(), "serve", *where, "--web.listen-address", f"127.0.0.1:{self.port}"]
        more = {"stderr": errors, "cwd": ROOT, "env": environment}
        self.process = subprocess.Popen([*close, *map(str, words)], **more)

    def get(self, path="/metrics"):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.read().decode()

    def wait(self):
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(OSError):
                return self.get("/healthz")
            time.sleep(0.02)
        raise AssertionError("the exporter does not listen")

    def scrape(self):
        return samples_of(self.get())


@contextmanager
def server_with_log(*arguments, **more):
    server = ServerWithLog(*arguments, **more)
    try:
        server.wait()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def flap(known_node, server):
    """Makes a collector fail and work again, each of which is a line in the log."""
    aside = known_node.rules.pin.with_name("aside")
    known_node.rules.pin.rename(aside)
    assert success(server.scrape())["rules"] == 0
    aside.rename(known_node.rules.pin)
    assert success(server.scrape()) == ALL_WELL


def full_device():
    return open("/dev/full", "wb"), ()  # noqa: PTH123  closed by who takes it


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "wb"), ()


def nothing():
    return open(os.devnull, "wb"), ("sh", "-c", 'exec "$@" 2>&-', "sh")  # noqa: PTH123  as above


@pytest.mark.parametrize("environment", [BUFFERED, UNBUFFERED], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("make", [full_device, closed_pipe, nothing])
def test_a_log_that_cannot_be_written_changes_no_number_leaks_nothing_and_ends_well(known_node, make, environment):
    errors, close = make()
    with errors, server_with_log(known_node, errors, environment, close=close) as server:
        first = server.scrape()
        before = steady_descriptors(server.process.pid)
        for _ in range(5):
            flap(known_node, server)
        assert ALL_WELL == success(first) == success(server.scrape())
        assert before == steady_descriptors(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        assert 0 == server.process.wait(timeout=10)


# The log lines after recovery.
AFTER = ["collector rules failed", "collector rules works again", "received SIGTERM", "stopping"]


def events(log):
    """What each line says, up to its first colon."""
    return [line.partition(" msg=")[2].strip('"').partition(":")[0] for line in log.decode().splitlines()]


@pytest.fixture
def small_disk(machine, tmp_path):
    """A file system of two pages."""
    folder = tmp_path / "disk"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder)
    yield folder
    run("umount", folder)


@pytest.mark.parametrize("environment", [BUFFERED, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_a_log_on_a_disk_that_was_full_goes_on_with_whole_lines_and_none_about_logging(
    known_node, small_disk, environment
):
    log, filling = small_disk / "log", small_disk / "filling"
    filling.write_bytes(bytes(8192))
    with log.open("wb") as errors, server_with_log(known_node, errors, environment) as server:
        flap(known_node, server)
        assert 0 == log.stat().st_size
        filling.unlink()
        flap(known_node, server)
        server.process.send_signal(signal.SIGTERM)
        assert 0 == server.process.wait(timeout=10)
    assert AFTER == events(log.read_bytes())


@pytest.mark.parametrize("environment", [BUFFERED, UNBUFFERED], ids=["buffered", "unbuffered"])
def test_a_log_that_nobody_reads_is_not_waited_for_and_goes_on_when_somebody_does(known_node, environment):
    descriptors = os.pipe()
    with os.fdopen(descriptors[0], "rb", 0) as reader, os.fdopen(descriptors[1], "wb", 0) as errors:
        size = fcntl.fcntl(errors, fcntl.F_SETPIPE_SZ, 4096)
        errors.write(bytes(size))
        with server_with_log(known_node, errors, environment) as server:
            flap(known_node, server)
            assert bytes(size) == reader.read(size)
            flap(known_node, server)
            server.process.send_signal(signal.SIGTERM)
            assert 0 == server.process.wait(timeout=10)
        errors.close()
        assert AFTER == events(reader.read())
