"""The image can be built for amd64 and arm64: every locked dependency has a wheel for both, or one for all."""

import re
import tomllib

import pytest

from tests.image.conftest import ROOT

LOCKED = {one["name"]: one for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}


def needed(name, extra=()):
    """The packages that the image installs, by name: what the extra `node` needs, on Linux and Python 3.13."""
    found = {name}
    one = LOCKED[name]
    below = one.get("dependencies", []) + [each for part in extra for each in one["optional-dependencies"][part]]
    for each in below:
        marker = each.get("marker", "")
        if "win32" in marker or "emscripten" in marker.replace("!= 'emscripten'", "") or "< '3.1" in marker:
            continue
        found |= needed(each["name"], each.get("extra", ()))
    return found


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_dependency_has_a_wheel(machine):
    names = needed("calico-bpf-exporter", ["node"]) - {"calico-bpf-exporter"}
    assert {"bcrypt", "psutil", "pyyaml"} <= names
    wheel = re.compile(rf"-(py3|py2\.py3)-none-any\.whl|-(cp313-cp313|cp3\d+-abi3)-manylinux[\w.]*_{machine}\.")
    lacking = [name for name in names if not any(wheel.search(each["url"]) for each in LOCKED[name].get("wheels", ()))]
    assert [] == lacking
