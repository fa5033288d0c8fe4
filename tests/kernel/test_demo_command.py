"""`make demo`: what it prints works as printed, however it is ended nothing is left, and a clone stays its owner's."""

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.cli.demo import _alerts, _on_node
from exporter.demo.node import STATE, Node
from tests import installed
from tests.kernel.machine import ROOT

PORT = 10993
LAST = "Ctrl-C here ends the demo and removes everything."


class Terminal:
    """`make demo` in a terminal of its own, whose session it leads."""

    def __init__(self, *words, clone=ROOT):
        self.output = ""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(clone)
            os.execvp("make", ["make", "demo", *words])

    def read_until(self, text, seconds=60):
        """Reads what is printed until it has this text, or the terminal's last program has ended."""
        until = time.monotonic() + seconds
        with suppress(OSError):  # the end of a terminal is an error
            while text not in self.output:
                left = until - time.monotonic()
                assert left > 0, self.output
                if select.select([self._terminal], [], [], left)[0]:
                    self.output += os.read(self._terminal, 65536).decode().replace("\r\n", "\n")
        return self.output

    def press_ctrl_c(self):
        os.write(self._terminal, b"\x03")
        self.read_until("no such text", 20)
        os.waitpid(self.pid, 0)

    def end(self):
        """Ends make as `kill` does."""
        os.kill(self.pid, signal.SIGTERM)
        self.read_until("no such text", 20)
        os.waitpid(self.pid, 0)

    def close(self):
        os.close(self._terminal)
        os.waitpid(self.pid, 0)
        until = time.monotonic() + 20
        while STATE.exists() and time.monotonic() < until:
            time.sleep(0.1)


@pytest.fixture
def earlier(machine):
    """Nothing is there of a demo that was killed."""
    node = Node()
    node.claim()
    node.close()


def left_over():
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    files = [STATE] if STATE.exists() else []
    return re.findall("calico-demo-.*", spaces) + re.findall(f"demo-bpf {STATE}.*", mounts) + files


@pytest.mark.parametrize("how", ["press_ctrl_c", "end", "close"])
def test_it_is_removed_however_its_terminal_ends_it_and_make_does_not_complain_of_ctrl_c(earlier, how):
    terminal = Terminal(f"PORT={PORT}")
    terminal.read_until(LAST)
    assert left_over()
    getattr(terminal, how)()
    assert [] == left_over()
    if how == "press_ctrl_c":
        assert "The demo node is removed.\n" == terminal.output.partition(LAST)[2].replace("^C", "").lstrip("\n")


def test_what_it_prints_leads_through_counters_why_trace_the_page_and_an_alert(earlier):
    terminal = Terminal(f"PORT={PORT}")
    try:
        printed = terminal.read_until(LAST)
    finally:
        terminal.press_ctrl_c()
    commands = [f"  {one}" for one in ("curl -s http://", "on_node counters", "on_node why", "on_node trace")]
    found = [printed.find(one) for one in (*commands, f"itself: http://localhost:{PORT}/\n", " ALERTS\n")]
    assert -1 not in found
    assert sorted(found) == found


def test_ctrl_c_while_it_is_built_leaves_nothing(earlier):
    terminal = Terminal(f"PORT={PORT}")
    until = time.monotonic() + 30
    while not (STATE / "bpf/tc").exists() and time.monotonic() < until:
        time.sleep(0.02)
    terminal.press_ctrl_c()
    assert [] == left_over()
    assert "The demo node is removed.\n" in terminal.output
    assert "***" not in terminal.output


def test_each_command_that_it_prints_works_as_printed_and_on_node_takes_any_words(earlier, tmp_path):
    terminal = Terminal(f"PORT={PORT}")
    try:
        printed = re.findall(r"^  (\S.*)$", terminal.read_until(LAST), re.MULTILINE)
        curl, function, *commands, promtool = printed
        assert run_in_shell(until(curl, "blackhole_route"), tmp_path)
        assert "" == run_in_shell(promtool, tmp_path).strip()  # no alert yet; what else it is asked for is there
        assert run_in_shell(until(promtool.replace("ALERTS", "up"), "'=> 1 '"), tmp_path)
        (watch,) = (one for one in commands if "--watch" in one)
        commands[commands.index(watch)] = f"({watch} & sleep 4; kill -INT $!) | grep -q cali"
        for command in (*commands, "on_node --help", "on_node counters --help", "on_node bundle -"):
            expected = 3 if re.search(" (why|trace) ", command) else 0
            assert run_in_shell(f"{function}\n{command} >&2; test $? = {expected}", tmp_path) == ""
    finally:
        terminal.press_ctrl_c()


def until(command, text):
    """A command again and again until it prints this, which takes until the first scrapes."""
    return f"for _ in $(seq 60); do {command} | grep {text} && exit 0; sleep 0.5; done; exit 1"


def run_in_shell(script, folder):
    done = subprocess.run(["bash", "-c", script], capture_output=True, cwd=folder, timeout=60, check=False)
    assert 0 == done.returncode, (script, done.stdout, done.stderr)
    return done.stdout.decode()


def test_a_second_demo_and_a_taken_port_say_what_to_do(earlier):
    words = [installed.program(), "demo", "--web.listen-address", f"localhost:{PORT}"]
    with socket.create_server(("localhost", PORT)):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (1, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines()))
    assert done.stderr.startswith(f"Error: cannot listen on localhost:{PORT}: Address already in use")
    assert done.stderr.endswith(": take a free port with make demo PORT=0 (--web.listen-address localhost:0)\n")
    first = Node()
    first.claim()
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        first.close()
    assert f"already running on this machine, process {os.getpid()}: use that one, or end it first" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_who_ran_it_with_sudo_needs_sudo_in_another_terminal_too(monkeypatch):
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert _on_node(Node()).startswith("ip netns exec calico-demo-node env CALICO_BPF_EXPORTER_BPF_FS=")
    monkeypatch.setenv("SUDO_UID", "1000")
    assert _on_node(Node()).startswith("sudo ip netns exec ")


def test_the_names_that_it_gives_are_no_program():
    assert shutil.which("on_node") is None


def test_without_promtool_the_alerts_are_asked_for_with_curl(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "curl -s http://127.0.0.1:9090/api/v1/alerts" == _alerts("http://127.0.0.1:9090")


@pytest.mark.parametrize("how", ["by itself", signal.SIGTERM, signal.SIGHUP])
def test_what_root_made_in_a_users_clone_is_the_users_when_it_ends(machine, tmp_path, how):
    program = tmp_path / ".venv/bin/calico-bpf-exporter"
    program.parent.mkdir(parents=True)
    wait = "" if how == "by itself" else "time.sleep(30)"
    program.write_text(
        f"#!{sys.executable}\nimport signal, sys, time\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nPath('made').touch()\n"
        f"{wait}\nsys.exit(7)\n"
    )
    program.chmod(0o755)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.touch()
    (tmp_path / "link").symlink_to(outside)
    os.chown(tmp_path, 1234, 2345)
    running = subprocess.Popen([ROOT / ".ci/demo", "/nowhere"], cwd=tmp_path)
    until = time.monotonic() + 20
    while not (tmp_path / "made").exists() and time.monotonic() < until:
        time.sleep(0.02)
    if how != "by itself":
        running.send_signal(how)
    assert 7 == running.wait(20)
    owners = {(one.lstat().st_uid, one.lstat().st_gid) for one in tmp_path.rglob("*")}
    assert {(1234, 2345)} == owners
    assert 0 == outside.stat().st_uid
