"""Runs the program in this process or as users do, on recordings and on modified recordings."""

import io
import json
import logging
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from exporter.cli.main import PROGRAM, program
from tests import installed

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests" / "recordings"
WIDE = {"COLUMNS": "200"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """Hides the exporter's environment variables from the program and resets logging after the test."""
    for name in [one for one in os.environ if one.startswith(("CALICO_BPF_EXPORTER", "_CALICO_BPF"))]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


def run_program(*arguments, env=None):
    """Runs the program in this process. An exception that would be a traceback is raised here."""
    result = CliRunner().invoke(program, [str(one) for one in arguments], env=WIDE | (env or {}), prog_name=PROGRAM)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="session")
def run():
    return run_program


@pytest.fixture(scope="session")
def start():
    """Runs the program in a separate process to its end."""

    def begin(*arguments, env=None, **more):
        command = [installed.program(), *map(str, arguments)]
        environment = {**os.environ, **WIDE, **(env or {})}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        return subprocess.run(command, env=environment, timeout=30, check=False, **streams)

    return begin


@pytest.fixture(scope="session")
def recording():
    """The file of a recording, by its path under tests/recordings."""

    def path(name):
        return RECORDINGS / f"{name}.tar.xz"

    return path


@pytest.fixture
def changed(recording, tmp_path):
    """A bundle that is a recording with some members changed: `change` gets them all and returns the new ones, None
    for one to leave out.
    """

    def make(name, change):
        with tarfile.open(recording(name)) as archive:
            members = {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}
        members |= change(members)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tar"
        with tarfile.open(path, "w") as archive:
            for member, content in members.items():
                if content is not None:
                    entry = tarfile.TarInfo(member)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        return path

    return make


@pytest.fixture(scope="session")
def named():
    """A change of a recording: its pods get these endpoint-status file names, in their order."""

    def change(*names):
        def rename(members):
            files = sorted(one for one in members if one.startswith("endpoint-status/"))
            new = {f"endpoint-status/{name}": members[file] for name, file in zip(names, files, strict=False)}
            return dict.fromkeys(files) | new

        return rename

    return change


@pytest.fixture(scope="session")
def headed():
    """A change of a recording: these fields of `bundle.json` get other values."""

    def change(**fields):
        def edit(members):
            return {"bundle.json": json.dumps(json.loads(members["bundle.json"]) | fields).encode()}

        return edit

    return change


@pytest.fixture(scope="session")
def counted():
    """A change of a recording: every slot of every entry of its counter map holds this number."""

    def change(value, pin="cali_counters6"):
        def fill(members):
            info = json.loads(members[f"maps/{pin}/info.json"])
            slots = np.frombuffer(members[f"maps/{pin}/values"], "<u8").reshape(
                -1, info["copies"], info["info"]["value_size"] // 8
            )
            filled = np.zeros_like(slots)
            filled[:, 0, :] = value
            return {f"maps/{pin}/values": filled.tobytes()}

        return fill

    return change
