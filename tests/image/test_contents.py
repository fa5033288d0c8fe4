"""What is in the image, and what is not."""

import importlib.metadata
import json
import re

import pytest

from exporter import __version__
from tests import installed
from tests.image.conftest import IMAGE, ROOT
from tests.kernel.machine import run
from tests.supply.test_dependencies import normal

pytestmark = pytest.mark.image


def test_there_is_no_shell_no_package_manager_and_nothing_that_builds(root):
    programs = {path.name for folder in ("bin", "sbin") for path in (root / "usr" / folder).iterdir()}
    assert {"bpftool", "python3.13"} == programs
    found = {path.name for path in (root / "opt/calico-bpf-exporter/bin").iterdir()}
    assert {"calico-bpf-exporter", "python", "python3", "python3.13"} <= found
    assert not {"pip", "uv", "activate"} & found


def test_it_is_as_small_as_the_docs_say(image):
    size = int(run("podman", "image", "inspect", "--format", "{{.Size}}", image).stdout.split()[-1])
    assert size <= 90e6
    told = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (figure,) = re.findall(r"^The image has (\d+) MB unpacked", told, re.MULTILINE)
    assert abs(int(figure) * 1e6 - size) < 2e6


def test_every_library_that_something_there_asks_for_is_there(root):
    missing = set()
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and (path.suffix == ".so" or ".so." in path.name):
            found = run(
                "chroot", root, "/lib64/ld-linux-x86-64.so.2", "--list", f"/{path.relative_to(root)}", check=False
            )
            missing |= {(path.name, line.strip()) for line in found.stdout.splitlines() if "not found" in line}
    # Modules of Python whose libraries are left out, because nothing imports them.
    assert {("_dbm.cpython-313-x86_64-linux-gnu.so", "libdb-5.3.so => not found")} >= missing


def test_the_exporter_is_the_one_of_this_tree(image, root):
    assert f"calico-bpf-exporter, version {__version__}\n" == run(
        "podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc", "run", "--rm", "--network=none",
        "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--read-only", image, "--version",
    ).stdout  # fmt: skip


def test_the_program_is_isolated_from_the_variables_of_python(root):
    program = root / "opt/calico-bpf-exporter/bin/calico-bpf-exporter"
    assert "#!/opt/calico-bpf-exporter/bin/python -IBu" == program.read_text().splitlines()[0]


def test_the_bill_of_materials_is_what_is_installed_there(root, tmp_path):
    run(ROOT / ".ci/sbom", installed.UV, tmp_path / "sbom.json", cwd=ROOT)
    bill = json.loads((tmp_path / "sbom.json").read_text(encoding="utf-8"))
    folder = root / "opt/calico-bpf-exporter/lib/python3.13/site-packages"
    there = {
        normal(one.name): one.version
        for one in importlib.metadata.distributions(path=[str(folder)])
        if one.name != "calico-bpf-exporter"
    }
    assert {normal(one["name"]): one["version"] for one in bill["components"]} == there


def test_scanners_find_the_packages_of_debian(root):
    known = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "python3.13-minimal", "libbpf1", "bpftool", "libssl3t64"} <= known
    assert "Version: " in (root / "var/lib/dpkg/status.d/libbpf1").read_text()
    assert (root / "usr/share/doc/libbpf1/copyright").exists()


def test_its_labels_say_what_it_is_and_of_which_commit(image):
    labels = json.loads(run("podman", "image", "inspect", image).stdout)[0]["Labels"]
    found = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert ("Apache-2.0", __version__) == (found["licenses"], found["version"])
    assert run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip() == found["revision"]
    assert found["created"].endswith("Z")
    assert IMAGE.rpartition("/")[2].partition(":")[0] == found["title"]


def test_its_build_info_says_of_which_commit_it_is(image):
    scrape = run(
        "podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc", "run", "--rm", "--network=none",
        "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--read-only", image,
        "scrape", "--bpf.fs", "/nonexistent", check=False,
    ).stdout  # fmt: skip
    commit = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    assert f'revision="{commit}"' in next(line for line in scrape.split("\n") if "build_info{" in line)


def test_of_all_docstrings_those_of_commands_are_there(root):
    modules = "asyncio", "h11", "exporter.snapshot.snapshot", "exporter.cli.main", "exporter.kubectl.plugin"
    code = f"import {', '.join(modules)}; print(*(bool(one.__doc__) for one in ({', '.join(modules)})))"
    python = "/opt/calico-bpf-exporter/bin/python"
    assert "False False False True True" == run("chroot", root, python, "-IBc", code).stdout.strip()
    where = run("chroot", root, python, "-IBc", "import asyncio; print(asyncio.run.__code__.co_filename)").stdout
    assert "/usr/lib/python3.13/asyncio/runners.py" == where.strip()
