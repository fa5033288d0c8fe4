"""Completion in the real bash, zsh and fish: Tab is pressed in a terminal, and the shell says what stands there."""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from exporter.cli.main import COMPLETE, PROGRAM
from tests import installed
from tests.cli.test_complete import HERE, PODS

PAGE = Path(__file__).parents[2] / "docs" / "install.md"
SETUP = {shell: line for line, shell in re.findall(rf"`([^`]*{COMPLETE}=(\w+)_source[^`]*)`", PAGE.read_text("utf-8"))}
COMPINIT = "autoload -Uz compinit; compinit -i; "
BARE = {"bash": ["bash", "--noprofile", "--norc"], "zsh": ["zsh", "-f"], "fish": ["fish", "--no-config"]}
# What ECMA-48 calls control sequences and strings, and two that are older: fish 4 sends more of them than fish 3.
SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]P][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>]")
LEFT, TAB, START = "\x02", "\t", "\x01"
SHELLS = [("bash", ""), ("zsh", ""), ("zsh", COMPINIT), ("fish", "")]


class Terminal:
    """A shell in a terminal, set up for completion as the page says."""

    def __init__(self, shell, before, home):
        self.shell = shell
        environment = {"PATH": f"{installed.scripts()}:{os.environ['PATH']}", "HOME": str(home), "TERM": "xterm"}
        assert shutil.which(BARE[shell][0]), f"{shell} is not installed: .ci/install-packages does it"
        self.other, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 250, 0, 0))
        # fish ends at once where no terminal controls it.
        words = ["setsid", "--ctty", *BARE[shell]]
        self.process = subprocess.Popen(words, stdin=end, stdout=end, stderr=end, env=environment, cwd=home)
        os.close(end)
        self.output = self.run(f"{before}{SETUP[shell]}")

    def run(self, keys):
        """Types this and Enter; what appears until the shell is done with it."""
        os.write(self.other, f"{keys}\rprintf '<%s>\\n' e''nd\r".encode())
        return self._read("<end>")

    def words(self, before, after=""):
        """The words that stand on the line when Tab was pressed between these two, as the shell itself takes them."""
        keys = f"{PROGRAM} {before}{after}{LEFT * len(after)}{TAB}{START}printf '<%s>\\n' "
        return re.findall(r"^<(.*)>$", self.run(keys), re.MULTILINE)[1:-1]

    def _read(self, until):
        found, last = "", time.monotonic() + 30
        while until not in found:
            assert time.monotonic() < last, f"{self.shell} shows {found!r}"
            if select.select([self.other], [], [], 0.1)[0]:
                found += os.read(self.other, 1 << 16).decode("utf-8", "replace")
        return SEQUENCE.sub("", found.replace("\r", ""))

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.other)


@pytest.fixture(scope="module", params=SHELLS, ids=lambda one: one[0] + ("-compinit" if one[1] else ""))
def terminal(request, tmp_path_factory):
    one = Terminal(*request.param, tmp_path_factory.mktemp("home"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def bundle(recording):
    return f"--bundle {recording(HERE)}"


def test_the_line_of_the_readme_is_silent(terminal):
    assert not re.search("(?i)error|not found|unknown|compdef:|insecure", terminal.output)


def test_tab_completes_commands_and_flags(terminal):
    assert ["counters"] == terminal.words("cou")
    assert ["counters", "--interface"] == terminal.words("counters --inter")
    assert ["policy", "--log.level", "warning"] == terminal.words("policy --log.level w")
    assert ["policy", "--direction=outbound"] == terminal.words("policy --direction=o")


def test_tab_completes_endpoints(terminal, bundle):
    assert "ns-b/server" == terminal.words(f"counters {bundle} --pod ns-b/")[-1]
    assert "--pod=ns-b/server" == terminal.words(f"why {bundle} --pod=ns-b/s")[-1]
    assert "server" == terminal.words(f"policy {bundle} --pod ser")[-1]
    assert "cali34769d6a557" == terminal.words(f"policy {bundle} --interface cali3")[-1]


def test_tab_completes_addresses_with_colons(terminal, bundle):
    assert "10.65.0.3" == terminal.words(f"counters {bundle} --ip 10.65.0.3")[-1]
    assert "fd00:65::3" == terminal.words(f"counters {bundle} --ip fd00:65::3")[-1]
    assert "--ip=fd00:65::3" == terminal.words(f"counters {bundle} --ip=fd00:65::3")[-1]


def test_what_several_have_in_common_is_typed(terminal, bundle):
    assert "fd00:65::" == terminal.words(f"counters {bundle} --ip fd")[-1]
    assert "--ip=fd00:65::" == terminal.words(f"counters {bundle} --ip=fd00:6")[-1]


def test_tab_within_a_line_takes_the_bundle_behind_it(terminal, bundle):
    # fish tells its completions nothing of what stands behind the cursor.
    expected = "ns-b/" if terminal.shell == "fish" else "ns-b/server"
    assert expected in terminal.words("counters --pod ns-b/", f" {bundle}")


def test_tab_completes_within_quotes(terminal, bundle):
    assert "ns-b/server" == terminal.words(f"counters {bundle} --pod 'ns-b/se", "'")[-1]


def test_tab_completes_files(terminal, tmp_path):
    (tmp_path / "node.tar.xz").touch()
    file = str(tmp_path / "node.tar.xz")
    assert file == terminal.words(f"counters --bundle {tmp_path}/no")[-1]
    assert f"--bundle={file}" == terminal.words(f"counters --bundle={tmp_path}/no")[-1]
    assert file == terminal.words(f"bundle {tmp_path}/no")[-1]


def test_an_error_leaves_the_line_as_it_is(terminal):
    assert ["counters", "--bundle", "/nonexistent", "--pod", "ns-"] == terminal.words(
        "counters --bundle /nonexistent --pod ns-"
    )
    assert "Traceback" not in terminal.run(f"{PROGRAM} counters --bundle /nonexistent --pod {TAB}{START}: ")


def test_every_pod_is_shown_when_none_has_begun(terminal, bundle):
    shown = terminal.run(f"{PROGRAM} counters {bundle} --pod {TAB}{TAB}{TAB}{START}: ")
    assert all(pod in shown for pod in PODS)
