"""What ends the server and what does not: signals, and a terminal that closes."""

import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from tests import installed

LAYOUT = "when_slots: 15\nslots: {14: {category: accepted, reason: egress_gateway}}\n"


def begin(folder, *more, prefix=(), **streams):
    """The program serving on a node without Calico, when it listens."""
    words = ["serve", "--bpf.fs", folder, "--calico.run-dir", folder, "--web.listen-address", "127.0.0.1:0", *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CALICO_BPF_EXPORTER")}
    return subprocess.Popen([*prefix, installed.program(), *map(str, words)], env=environment, **streams)


class Serving:
    """A server and the lines of its log."""

    def __init__(self, process):
        self.process, self.said = process, ""

    def until(self, pattern, seconds=20):
        """Reads the log up to this; whether it came."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said)) and time.monotonic() < deadline:
            if select.select([self.process.stderr], [], [], 0.1)[0]:
                piece = os.read(self.process.stderr.fileno(), 1 << 16).decode()
                if not piece:
                    break
                self.said += piece
        return bool(found)

    def end(self):
        """Its exit code and whole log."""
        code = self.process.wait(10)
        self.until("nothing like this", 1)
        return code, self.said


@pytest.fixture
def serving(tmp_path):
    """Starts a server for one test."""
    started = []

    def start(*more, prefix=()):
        process = begin(tmp_path, *more, prefix=prefix, stderr=subprocess.PIPE)
        started.append(process)
        one = Serving(process)
        assert one.until("listening on"), one.said
        return one

    yield start
    for process in started:
        installed.end(process)
        process.stderr.close()


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "XCPU", "IO", "PWR"])
def test_a_signal_that_ends_it_is_in_the_log_and_the_end_is_a_good_one(serving, name):
    one = serving()
    one.process.send_signal(signal.Signals[f"SIG{name}"])
    code, said = one.end()
    assert code == 0
    assert re.search(rf'msg="received SIG({name}|POLL)".*\n.* msg=stopping', said)


def test_sighup_reads_web_configuration_and_layout_file_again_and_it_goes_on(serving, tmp_path):
    layout, config = tmp_path / "layout.yml", tmp_path / "web.yml"
    layout.write_text(LAYOUT)
    config.write_text("rate_limit: {interval: 1s, burst: 5}")
    one = serving("--calico.layout-file", layout, "--web.config.file", config)
    config.write_text("rate_limit: {interval: 1s, burst: 9}")
    layout.write_text("slots: 5")
    one.process.send_signal(signal.SIGHUP)
    assert one.until("received SIGHUP: reading the configuration again")
    assert one.until("9 at once")
    assert one.until("layout file: reload failed, keeping the previous one: ")
    layout.write_text(LAYOUT)
    one.process.send_signal(signal.SIGHUP)
    assert one.until("(?s)reading the configuration again.*reading the configuration again")
    one.process.send_signal(signal.SIGTERM)
    code, said = one.end()
    assert (code, 1) == (0, said.count("layout file: reload failed"))


def test_under_nohup_sighup_changes_nothing(serving):
    one = serving(prefix=["nohup"])
    one.process.send_signal(signal.SIGHUP)
    assert not one.until("SIGHUP", 0.5)
    assert one.process.poll() is None


def test_a_terminal_that_closes_ends_it(tmp_path):
    pid, terminal = pty.fork()
    if pid == 0:  # the child: a session of its own, whose terminal this is
        log = (tmp_path / "log").open("wb")
        begin(tmp_path, stderr=log, stdin=subprocess.DEVNULL, stdout=log, process_group=None).wait()
        os._exit(0)
    log = tmp_path / "log"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (log.exists() and b"listening on" in log.read_bytes()):
        time.sleep(0.05)
    os.close(terminal)
    while time.monotonic() < deadline and b"stopping" not in log.read_bytes():
        time.sleep(0.05)
    os.waitpid(pid, 0)
    assert b'msg="received SIGHUP: the terminal was closed"' in log.read_bytes()
    assert b"msg=stopping" in log.read_bytes()


def test_while_its_terminal_is_open_sighup_only_reads_again(tmp_path):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(
            installed.program(),
            [
                str(installed.program()),
                "serve",
                "--bpf.fs",
                str(tmp_path),
                "--calico.run-dir",
                str(tmp_path),
                "--web.listen-address",
                "127.0.0.1:0",
            ],
        )
    said = b""

    def until(text):
        nonlocal said
        while text not in said and select.select([terminal], [], [], 20)[0]:
            said += os.read(terminal, 1 << 16)
        return text in said

    assert until(b"listening on")
    os.kill(pid, signal.SIGHUP)
    assert until(b"received SIGHUP: reading the configuration again")
    os.kill(pid, signal.SIGTERM)
    assert until(b"msg=stopping")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
