"""Runs the programs that build the demo node: ip, tc, mount, clang, bpftool. Turns their failures into `DemoError`."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from exporter.demo import DemoError

# Program and the Debian package that has it.
PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "clang": "clang",
    "bpftool": "bpftool",
    "mount": "mount",
    "umount": "mount",
}
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def require(programs: Iterable[str] = PROGRAMS) -> None:
    """Raises `DemoError` unless all these programs are on this machine."""
    missing = sorted({PROGRAMS[name] for name in programs if _path(name) is None})
    if missing:
        raise DemoError(f"the demo needs {', '.join(missing)}: apt-get install {' '.join(missing)} libbpf-dev")


def run(*words: object, check: bool = True) -> str:
    """What the program prints. Raises `DemoError` with the last line of its output if it fails and `check` is set."""
    program, *arguments = map(str, words)
    done = subprocess.run([_path(program) or program, *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        output_lines = (done.stderr or done.stdout).strip().splitlines()
        reason = output_lines[-1] if output_lines else f"exit status {done.returncode}"
        raise DemoError(f"{program} {' '.join(arguments)} failed: {reason}")
    return done.stdout


def start(*words: object, log: Path = Path(os.devnull)) -> "subprocess.Popen[bytes]":
    """Starts a program that lives until it is ended; its output goes to `log`, or nowhere."""
    program, *arguments = map(str, words)
    with log.open("wb") as output:
        return subprocess.Popen(
            [_path(program) or program, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def _path(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=_SEARCH_PATH)
