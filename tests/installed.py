"""The program as it is installed: a wheel of this tree, in an environment with what it depends on and nothing else.

Tests of the whole program run these scripts. The wheel is built once in each run of pytest, from the sdist and so from
the files as they are now: what it lacks is missing in the tests too, and it is never an old one. Tests of one part
import the tree itself, which needs no building. The processes of one run share what the first of them made.
"""

import atexit
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
UV = ROOT / ".tools" / "uv" / "bin" / "uv"


def uv(*words, **more):
    """The output of uv, which uses the project's set-up and nothing of the environment."""
    command = [UV, "-q", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


FOLDER = "CALICO_TESTS_INSTALLED"  # the variable that names the folder of a run
MEASURED = "COVERAGE_PROCESS_CONFIG"  # the variable that coverage gives the processes that it measures


def folder_of_this_run() -> Path:
    """The folder of this run; the first process creates it and removes it at exit."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="calico-bpf-exporter-")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
    return Path(os.environ[FOLDER])


@contextmanager
def made_once(name: str):
    """The folder of this name, and whether another process of this run has filled it already; the others wait."""
    folder = folder_of_this_run() / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_suffix(".done")
        yield folder, done.exists()
        done.touch()


@functools.cache
def dist() -> Path:
    """A folder with the sdist of this tree and the wheel that is made of it."""
    with made_once("dist") as (folder, there):
        if not there:
            subprocess.run([ROOT / ".ci/build-dist", UV, folder], cwd=ROOT, check=True)
    return folder


def wheel() -> Path:
    (found,) = dist().glob("*.whl")
    return found


@functools.cache
def scripts() -> Path:
    """The folder of the installed commands: all that the wheel's `node` extra asks for, as it is locked."""
    with made_once("installed") as (folder, there):
        if not there:
            environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder)}
            node = ("--locked", "--no-dev", "--extra", "node", "--no-install-project", "--python", sys.executable)
            uv("sync", *node, env=environment)
            more = [f"coverage=={version('coverage')}"] if MEASURED in os.environ else []
            uv("pip", "install", "--python", folder / "bin" / "python", "--no-deps", wheel(), *more)
    return folder / "bin"


def end(process: subprocess.Popen) -> None:
    """Ends a server at once; where coverage is measured, as users do, so that it can still write what it ran."""
    if MEASURED in os.environ:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    process.kill()
    process.wait()


def program(name: str = "calico-bpf-exporter") -> str:
    """The path of an installed command."""
    return str(scripts() / name)
