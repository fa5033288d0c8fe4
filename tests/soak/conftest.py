"""What the soak needs of the machine is what all tests on a real kernel need; it runs beside them, unseen."""

import json
import subprocess
import sys

import pytest

from tests import installed
from tests.kernel.conftest import machine  # noqa: F401  a fixture, found by its name

# Not with exec: this shell is the first process of all, to which those that lost their parent belong.
_APART = 'mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; ip link set lo up; "$@"; exit $?'
_SOAK = """
import json, sys
from tests.soak.soak import soak
json.dump(soak(**json.loads(sys.argv[1])).problems, sys.stdout)
"""


@pytest.fixture
def problems(machine):  # noqa: F811
    """What a soak finds that has mounts, links, namespaces and processes of its own, all of which end with it."""
    installed.scripts()  # made here, where there is a network

    def run(**arguments):
        words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*words, "sh", "-euc", _APART, "sh", sys.executable, "-c", _SOAK, json.dumps(arguments)]
        done = subprocess.run(command, cwd=installed.ROOT, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
        return json.loads(done.stdout)

    return run
