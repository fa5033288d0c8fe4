"""The kubectl plugin for Krew: one file that runs with Python alone, and a manifest that says what it is."""

import hashlib
import json
import subprocess
import sys
import tarfile

import pytest
import yaml

from exporter import __version__
from tests import installed
from tests.installed import ROOT, UV


def build(folder):
    subprocess.run([sys.executable, ROOT / ".ci/build-plugin", UV, installed.wheel(), folder], check=True)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="module")
def plugin(built, tmp_path_factory):
    """The plugin as Krew unpacks it."""
    folder = tmp_path_factory.mktemp("krew")
    with tarfile.open(built / f"kubectl-calico_bpf-{__version__}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "kubectl-calico_bpf"


def run(plugin, *words, **environment):
    """Runs it without this environment's packages; a user's own are not imported either."""
    command = [sys.executable, "-I", "-S", plugin, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_manifest_is_of_the_archive(built):
    manifest = yaml.safe_load((built / "calico-bpf.yaml").read_text())
    assert ("Plugin", "calico-bpf") == (manifest["kind"], manifest["metadata"]["name"])
    assert f"v{__version__}" == manifest["spec"]["version"]
    (platform,) = manifest["spec"]["platforms"]
    archive = built / platform["uri"].rpartition("/")[2]
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == platform["sha256"]
    with tarfile.open(archive) as packed:
        assert {one["from"] for one in platform["files"]} == set(packed.getnames())
        assert packed.getmember(platform["bin"]).mode & 0o111
    assert len(manifest["spec"]["shortDescription"]) < 50  # Krew's table
    assert f"/v{__version__}/" in platform["uri"]


def test_it_runs_with_python_alone(plugin):
    shown = run(plugin, "--version")
    assert (0, "") == (shown.returncode, shown.stderr)
    assert __version__ in shown.stdout
    helped = run(plugin, "--help").stdout
    assert all(
        command in helped for command in ("counters", "policy", "why", "trace", "conntrack", "check", "top", "bundle")
    )


def test_it_asks_kubectl_for_the_pod_and_runs_the_exporter_s_command(plugin, tmp_path):
    kubectl = tmp_path / "kubectl"
    pod = {
        "metadata": {"name": "one", "namespace": "shop"},
        "spec": {"nodeName": "n1"},
        "status": {"podIP": "10.1.1.1"},
    }
    kubectl.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"open({str(tmp_path / 'asked')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"print({json.dumps(pod)!r})\n"
    )
    kubectl.chmod(0o755)
    ended = run(plugin, "counters", "one", "-n", "shop", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert "Traceback" not in ended.stderr
    assert "one" in (tmp_path / "asked").read_text()


def test_the_same_wheel_gives_the_same_bytes(built, tmp_path):
    again = build(tmp_path)
    for one in built.iterdir():
        assert one.read_bytes() == (again / one.name).read_bytes()
