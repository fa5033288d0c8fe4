"""The image as it is built, run by a real container runtime on the demo node."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from exporter.demo.node import Node
from tests.chart.helm import container, render
from tests.kernel.conftest import give_up
from tests.kernel.conftest import machine as the_machine
from tests.kernel.machine import run

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/calico-bpf-exporter:test"
CURRENT = ROOT / ".tools" / "definitions" / "seccomp.json"
# As the container runtimes of Kubernetes do it; the limits are those that this process may set.
PODMAN = (
    *("podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc", "run", "--rm"),
    *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--read-only-tmpfs=false"),
)


machine = the_machine  # a fixture


@pytest.fixture(scope="session")
def image(machine):
    """The image of this tree on a new Debian root file system."""
    return built(IMAGE)


def built(name, **more):
    """An image of this tree, built with more in the environment."""
    missing = [tool for tool in ("buildah", "podman", "runc", "debootstrap") if not shutil.which(tool)]
    if missing or not CURRENT.exists():
        give_up(f"needs {', '.join(missing) or 'definitions'}: run make test-image")
    run(ROOT / ".ci/build-image", cwd=ROOT, env={**os.environ, "IMAGE": name, "BASE": "debootstrap", **more})
    return name


@pytest.fixture(scope="session")
def root(image):
    """The root file system of the image."""
    made = run("buildah", "from", image).stdout.strip()
    yield Path(run("buildah", "mount", made).stdout.strip())
    run("buildah", "rm", made)


@pytest.fixture(scope="module")
def demo(machine, tmp_path_factory):
    node = Node(f"i{os.getpid()}", tmp_path_factory.mktemp("demo") / "demo")
    try:
        node.build()
        yield node
    finally:
        node.close()


class Container:
    """Runs the image on the demo node, with the mounts and rights that the chart gives its container."""

    def __init__(self, image, node, profile, filter_=CURRENT):
        values = {"securityProfile": profile, "kubernetes": {"enabled": False}, "collectors": {"nic": True}}
        self._asked = container(render(values))
        self._image, self._node, self._filter = image, node, filter_
        self.flags = self._asked["args"][1:]

    def words(self, *more):
        """The command line that runs it as the chart does."""
        paths = {"bpffs": self._node.bpf.path, "calico": self._node.run_dir}
        mounts = [
            f"{paths[mount['name']]}:{mount['mountPath']}:{'ro' if mount['readOnly'] else 'rw'},rslave"
            for mount in self._asked["volumeMounts"]
        ]
        network = ("--network", f"ns:/run/netns/{self._node.namespace}")
        told = (f"--env={each['name']}={each['value']}" for each in self._asked["env"] if "value" in each)
        return [*PODMAN, *network, *told, *(f"--volume={mount}" for mount in mounts), *self._rights(), *more]

    def _rights(self):
        context = self._asked["securityContext"]
        yield f"--user={context['runAsUser']}:{context['runAsGroup']}"
        if context["readOnlyRootFilesystem"]:
            yield "--read-only"
        if context["privileged"]:
            yield "--privileged"
            return
        assert {"type": "RuntimeDefault"} == context["seccompProfile"]
        yield f"--security-opt=seccomp={self._filter}"
        if not context["allowPrivilegeEscalation"]:
            yield "--security-opt=no-new-privileges"
        yield from (f"--cap-drop={name}" for name in context["capabilities"]["drop"])
        yield from (f"--cap-add={name}" for name in context["capabilities"].get("add", ()))

    def run(self, *words):
        """A command of the exporter, to its end."""
        command = self.words(self._image, *words)
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
