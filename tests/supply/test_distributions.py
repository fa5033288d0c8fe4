"""The wheel and the sdist hold the package whole and nothing else, and the same tree makes the same bytes anywhere."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tomllib
import zipfile

import pytest

from exporter import __version__
from tests import installed
from tests.installed import ROOT

NAME = f"calico_bpf_exporter-{__version__}"
MEMBERS = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "docs/commands.md"}


def tracked(*folders):
    """What git would commit of these, as files that are there; the package's data (templates, C, py.typed) too."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {one for one in listed if (ROOT / one).exists()}


def test_the_wheel_has_every_file_of_the_package_and_no_other():
    with zipfile.ZipFile(installed.wheel()) as archive:
        found = {name for name in archive.namelist() if not name.startswith(f"{NAME}.dist-info/")}
    assert tracked("exporter") | {"exporter/cli/commands.md"} == found
    assert {"exporter/py.typed", "exporter/page/templates/page.css", "exporter/demo/node.bpf.c"} <= found


def test_the_sdist_has_what_the_wheel_is_built_of_and_no_more():
    with tarfile.open(installed.dist() / f"{NAME}.tar.gz") as archive:
        found = {name.removeprefix(f"{NAME}/") for name in archive.getnames()}
    assert tracked("exporter") | MEMBERS | {"PKG-INFO", ".gitignore"} == found


@pytest.fixture
def copied(tmp_path):
    """A copy of the tree at another path, written at another time by a user of other habits, and what it builds."""

    def make(name, time, umask, epoch):
        folder = tmp_path / name
        kept = os.umask(umask)
        try:
            for one in sorted(tracked(".")):
                if one.startswith(("exporter/", ".ci/")) or one in MEMBERS | {"uv.lock", ".gitignore"}:
                    (folder / one).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(ROOT / one, folder / one)
                    os.utime(folder / one, (time, time))
            (folder / ".ci/build-dist").chmod(0o755)
            environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
            words = [folder / ".ci/build-dist", installed.UV, folder / "dist"]
            subprocess.run(words, cwd=folder, env=environment, check=True)
        finally:
            os.umask(kept)
        return {one.name: digest(one) for one in (folder / "dist").glob("calico*")}

    return make


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_copies_of_the_tree_at_other_paths_and_times_make_the_same_bytes(copied):
    first = copied("one", 1_600_000_000, 0o022, 1_700_000_000)
    second = copied("another/deeper", 1_800_000_000, 0o077, 1_700_000_000)
    assert {f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"} == set(first)
    assert first == second


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_tree(tmp_path):
    epoch = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch.stdout.strip() or "1580601600"}
    installed.uv("build", "--wheel", "--out-dir", tmp_path, env=environment)
    (found,) = tmp_path.glob("*.whl")
    assert digest(installed.wheel()) == digest(found)


def test_what_tests_of_the_whole_program_run_is_the_wheel_of_this_tree_without_any_tool_of_the_tests():
    code = (
        "import importlib.metadata, exporter\n"
        "print(exporter.__file__)\n"
        "print(*(one.name for one in importlib.metadata.distributions()))"
    )
    python = installed.scripts() / "python"
    done = subprocess.run([python, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    where, names = done.stdout.splitlines()
    assert where.startswith(str(installed.scripts().parent))
    assert "site-packages" in where
    assert not {"pytest", "hypothesis", "mypy", "hatchling"} & set(names.split())


def test_the_module_is_the_program_too():
    command = [installed.scripts() / "python", "-P", "-m", "exporter", "--version"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"calico-bpf-exporter, version {__version__}\n" == printed


def test_no_test_runs_the_tree_where_it_means_the_program():
    this = (ROOT / "tests/supply").iterdir()
    paths = set((ROOT / "tests").rglob("*.py")) - set(this)
    assert [] == [path.name for path in paths if '"-m", "exporter"' in path.read_text(encoding="utf-8")]


def test_the_version_in_the_code_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__
