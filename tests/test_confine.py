"""A privilege that cannot be dropped is reported in one sentence, and the rest is dropped all the same."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from exporter import confine
from tests.kernel.machine import ROOT

_CONFINE = """
import os, sys
from exporter import confine, privileges

confine._SECCOMP = sys.argv[1]
os.setresuid(*[int(sys.argv[2])] * 3)
errors = confine.confine(bpftool=False)  # what it returns need not be read for it to act
status = privileges._status()
print(*errors, sep="\\n")
print(status["Uid"].split()[1], privileges.permitted(), status["NoNewPrivs"], status["Seccomp"])
"""


def report(*prefix: str, library: str = "libseccomp.so.2", user: int | None = None) -> list[str]:
    words = [*prefix, sys.executable, "-c", _CONFINE, library, str(os.getuid() if user is None else user)]
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\n")[:-1]


def test_without_libseccomp_a_sentence_names_the_package():
    problem, status = report(library="libseccomp.so.0")
    assert problem == "libseccomp.so.0 is not installed (package libseccomp2), so bpf(2) is left as it is"
    assert status.split()[2:] == ["1", "0"]


@pytest.mark.kernel
def test_without_cap_setuid_the_user_stays_root_with_only_the_capabilities_that_reading_needs():
    problem, status = report("capsh", "--drop=cap_setuid", "--", "-c", '"$@"', "--")
    assert problem == "could not become another user than root: Operation not permitted"
    assert status == f"0 {1 << 2 | 1 << 21 | 1 << 39} 1 2"


@pytest.mark.kernel
def test_without_cap_setgid_root_is_given_up_all_the_same():
    problem, status = report("capsh", "--drop=cap_setgid", "--", "-c", '"$@"', "--")
    assert problem == "could not leave the groups of root: Operation not permitted"
    assert status.split()[0] == str(confine.USER)


_REACH = """
import os, socket, sys
from exporter import confine

folder, bpftool = sys.argv[1], sys.argv[2] == "bpftool"
assert not confine.confine(bpftool=bpftool)
for attempt in (
    lambda: os.open(f"{folder}/file", os.O_WRONLY),
    lambda: socket.socket(socket.AF_UNIX).connect(f"{folder}/socket"),
):
    try:
        attempt()
        print("reached")
    except PermissionError:
        print("refused")
print(*os.getresuid(), *os.getresgid(), *os.getgroups())
"""


@pytest.mark.kernel
@pytest.mark.parametrize("reader", ["libbpf", "bpftool"])
def test_what_the_group_of_root_may_write_and_reach_is_refused(reader):
    # A short path: those of sockets are limited.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        Path(folder).chmod(0o755)
        file = Path(folder, "file")
        file.touch()
        listener.bind(f"{folder}/socket")
        listener.listen()
        for path, mode in ((file, 0o664), (Path(folder, "socket"), 0o660)):
            path.chmod(mode)
        words = [sys.executable, "-c", _REACH, folder, reader]
        printed = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\n")
    # bpftool needs root's pins, so its user stays, who owns the two.
    root = reader == "bpftool"
    assert ["reached" if root else "refused"] * 2 == printed[:2]
    user = "0 0 0" if root else f"{confine.USER} {confine.USER} {confine.USER}"
    assert f"{user} {confine.USER} {confine.USER} {confine.USER}" == printed[2]


def test_the_user_is_one_that_no_pod_can_have():
    # The limit of runAsUser and runAsGroup in Kubernetes, and of users in images.
    assert confine.USER > 2**31 - 1


@pytest.mark.kernel
def test_a_user_without_capabilities_drops_nothing_and_reports_nothing():
    empty, status = report(user=65534)
    assert (empty, status) == ("", "65534 0 1 2")
