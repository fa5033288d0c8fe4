"""A privilege that cannot be dropped is reported in one sentence, and the rest is dropped all the same."""

import os
import subprocess
import sys

import pytest

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
def test_a_user_without_capabilities_drops_nothing_and_reports_nothing():
    empty, status = report(user=65534)
    assert (empty, status) == ("", "65534 0 1 2")
