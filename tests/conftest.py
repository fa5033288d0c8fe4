"""Shared by all tests: Hypothesis has no deadline, and files are distributed over the processes of a run.

A busy machine is not a counterexample, hence no deadline.
"""

import os
import signal
import sys

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests import installed

# Whatever the environment says, the compiled modules of the tests, the tree and the installed program are kept: the
# programs start a thousand times, and compiling is half of a start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Helm, promtool and kubectl live for a second, and collecting their garbage as often as Go does is a tenth of it.
os.environ.setdefault("GOGC", "400")

# Whoever starts the tests in the background, or with nohup, has these ignored, and so would every program under test.
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("project", deadline=None)
settings.load_profile("project")
# For `make fuzz`.
settings.register_profile("long", deadline=None, max_examples=20_000)

# Order of folders, so that slow ones do not start last. With its first file each process gets a second one, which
# waits: quick ones come first.
ORDER = ("bpf", "calico", "kubectl", "cli", "node")

# What changes the machine's links, namespaces and mounts: one process runs it, one after the other. The demo must leave
# the machine as it found it, which could not be seen while another test builds something.
MACHINE = (
    "tests/browser/",
    "tests/image/",
    "tests/kernel/",
    "tests/faults/",
    "tests/chart/test_dashboards.py",
    "tests/kubectl/test_live.py",
)

# Three soaks, one after the other, each apart from the machine.
SOAK = "tests/soak/"

# Clients and servers with time-outs: in parallel they would compete for the CPU.
TIMED = ("tests/web/", "tests/cli/test_serve.py", "tests/node/test_api_server.py")


def pytest_configure(config):
    """Creates the folder of the installed program in the first process, before it starts the others."""
    installed.folder_of_this_run()


def pytest_collection_modifyitems(items):
    for item in items:
        if "machine" in item.fixturenames and not item.nodeid.startswith((*MACHINE, SOAK)):
            message = f"{item.nodeid} uses the machine: its file belongs to MACHINE in {__file__}"
            raise pytest.UsageError(message)
    items.sort(key=_order)


def _order(item):
    if item.nodeid.startswith((*MACHINE, SOAK, *TIMED)):
        return -1
    folder = item.path.parent.name
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


class ByFile(LoadScopeScheduling):
    """Tests of one file stay together; each of the groups above is as one file."""

    def _split_scope(self, nodeid):
        groups = {"machine": MACHINE, "soak": SOAK, "timed": TIMED}
        return next((one for one, files in groups.items() if nodeid.startswith(files)), nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)  # one process runs the tests without xdist too
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)
