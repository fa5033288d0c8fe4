"""The program as it is installed: a wheel of this tree, in an environment with what it depends on and nothing else.

Tests of the whole program run these scripts. The wheel is built once in each run of pytest, from the sdist and so from
the files as they are now: what it lacks is missing in the tests too, and it is never an old one. Tests of one part
import the tree itself, which needs no building.
"""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
UV = ROOT / ".tools" / "uv" / "bin" / "uv"


def uv(*words, **more):
    """What uv prints, which needs the project's set-up and nothing of the environment."""
    command = [UV, "-q", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


@functools.cache
def dist() -> Path:
    """A folder with the sdist of this tree and the wheel that is made of it."""
    folder = Path(tempfile.mkdtemp(prefix="calico-bpf-exporter-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([ROOT / ".ci/build-dist", UV, folder / "dist"], cwd=ROOT, check=True)
    return folder / "dist"


def wheel() -> Path:
    (found,) = dist().glob("*.whl")
    return found


@functools.cache
def scripts() -> Path:
    """The folder of the installed commands: all that the wheel's `node` extra asks for, as it is locked."""
    folder = dist().parent / "installed"
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder)}
    node = ("--locked", "--no-dev", "--extra", "node", "--no-install-project", "--python", sys.executable)
    uv("sync", *node, env=environment)
    uv("pip", "install", "--python", folder / "bin" / "python", "--no-deps", wheel())
    return folder / "bin"


def program(name: str = "calico-bpf-exporter") -> str:
    """The path of an installed command."""
    return str(scripts() / name)
