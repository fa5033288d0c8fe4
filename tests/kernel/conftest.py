"""Real kernel objects for the tests here: a BPF file system of their own, maps in it, and a compiled program."""

import os
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path

import pytest

from exporter.bpf.maps import ReaderMissing
from exporter.bpf.readers import open_reader
from tests.kernel.machine import HERE, compile_bpf
from tests.kernel.pinned import PERCPU_HASH, PinnedMap, library

READERS = ("libbpf", "bcc", "bpftool")
_TOOLS = ("bpftool", "clang", "ip", "tc", "curl", "capsh")
_numbers = count(1)


def give_up(reason: str):
    """Skips with the reason; where nothing may be skipped, fails with it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"may not be skipped in CI: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def machine() -> None:
    """What every test here needs of the machine."""
    if os.geteuid() != 0:
        give_up("needs root: it makes BPF maps, mounts and network namespaces")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        give_up(f"needs {', '.join(missing)}: run make setup")
    try:
        library()
    except OSError as error:
        give_up(f"needs libbpf: {error}")


@pytest.fixture(scope="session")
def bpf_mount(machine):
    """A BPF file system of these tests only, on a path that any user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="bpf-tests-"))
    try:
        folder.chmod(0o755)
        done = subprocess.run(["mount", "-t", "bpf", "bpf", folder], capture_output=True, text=True, check=False)
        if done.returncode:
            give_up(f"needs root with the right to mount a BPF file system: {done.stderr.splitlines()[0]}")
        try:
            folder.chmod(0o755)
            _try_map(folder / "probe")
            yield folder
        finally:
            _unmount(folder)
    finally:
        folder.rmdir()


def _try_map(pin: Path) -> None:
    try:
        probe = PinnedMap(pin, PERCPU_HASH, 8, 8)
    except OSError as error:
        give_up(f"needs root with the right to make BPF maps: {error}")
    probe.unpin()
    probe.close()


def _unmount(folder: Path) -> None:
    # Lazily while something still uses it: it must be gone whatever a test left behind.
    if subprocess.run(["umount", folder], capture_output=True, check=False).returncode:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def module_fs(bpf_mount):
    """A folder of the BPF file system for one module's tests."""
    yield from _folder(bpf_mount)


@pytest.fixture
def bpf_fs(bpf_mount):
    """A folder of the BPF file system for one test: what `--bpf.fs` is given."""
    yield from _folder(bpf_mount)


def _folder(mount: Path):
    folder = mount / f"fs{next(_numbers)}"
    (folder / "tc/globals").mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def pins(bpf_fs) -> Path:
    """Where Calico pins its maps."""
    return bpf_fs / "tc/globals"


@pytest.fixture
def make_map(pins):
    """Makes and pins a map by its name; closed at the end, and unpinned with its folder."""
    made: list[PinnedMap] = []

    def make(name: str, kind: int, key_size: int, value_size: int, **more: int) -> PinnedMap:
        made.append(PinnedMap(pins / name, kind, key_size, value_size, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def reader_called(name: str):
    try:
        return open_reader(name)
    except ReaderMissing as error:
        give_up(str(error))


@pytest.fixture(params=READERS)
def reader(request, bpf_mount):
    """Each of the readers."""
    return reader_called(request.param)


@pytest.fixture
def readers(bpf_mount) -> list:
    """All readers, to be compared."""
    return [reader_called(name) for name in READERS]


@pytest.fixture(scope="session")
def counting(machine, tmp_path_factory) -> Path:
    """The compiled counting.c."""
    target = tmp_path_factory.mktemp("bpf") / "counting.o"
    compile_bpf(HERE / "counting.c", target)
    return target
