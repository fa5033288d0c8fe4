"""Nobody but the release decides how root starts: neither who can write a ConfigMap, nor who can create a Service.

`PYTHONWARNINGS` makes Python import a module that opens a browser, and `BROWSER` names the program that is started:
with both in the ConfigMap, that program ran as root before the exporter dropped its privileges.
"""

import re
import subprocess

import pytest

from tests import installed
from tests.chart.helm import ROOT, container, helm, one, render
from tests.kernel.conftest import give_up

UNCONFINED = "CALICO_BPF_EXPORTER_SERVE_SECURITY_DROP_CAPABILITIES"


@pytest.fixture(scope="module", autouse=True)
def tools():
    if helm("version").returncode:
        give_up("helm is not here: `make setup` brings it")


@pytest.fixture
def hostile(tmp_path):
    """The variables of an attacker, and the file that their program leaves."""
    program, trace = tmp_path / "program", tmp_path / "trace"
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    attack = {"PYTHONWARNINGS": "all:0:antigravity.x:0:0", "BROWSER": str(program), UNCONFINED: "false"}
    return {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "6443", **attack}, trace


def given(found, config_map):
    """The variables that the kubelet gives a container, where every ConfigMap that it names has this content."""
    whole = {
        name: value
        for source in found.get("envFrom", ())
        if "configMapRef" in source
        for name, value in config_map.items()
    }
    keys = {
        each["name"]: each["valueFrom"]["configMapKeyRef"]
        for each in found["env"]
        if "configMapKeyRef" in each.get("valueFrom", {})
    }
    return whole | {name: config_map[key["key"]] for name, key in keys.items() if key["key"] in config_map}


def start(variables, *flags):
    """Runs the installed script as its first line says, with more flags of Python as the image adds them to it."""
    command = [installed.scripts() / "python", *flags, installed.program(), "--version"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (0, True) == (done.returncode, "exporter, version" in done.stdout)


@pytest.mark.parametrize("kind", ["DaemonSet", "Pod"])
def test_a_config_map_gives_the_address_of_the_api_server_and_nothing_else(hostile, kind):
    config_map, trace = hostile
    variables = given(container(render(), kind), config_map)
    start(variables)
    assert not trace.exists()
    assert {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "6443"} == variables


def test_the_images_entry_point_is_isolated_from_the_environment(hostile):
    variables, trace = hostile
    start(variables)
    assert trace.exists(), "the attack has no effect, so this test could not fail"
    trace.unlink()
    (flags,) = re.findall(r"sed -i '1s/\$/ (-\w+)/' /opt/calico-bpf-exporter/bin/calico-bpf-exporter", dockerfile())
    start(variables, flags)
    assert not trace.exists()
    assert 'ENTRYPOINT ["/opt/calico-bpf-exporter/bin/calico-bpf-exporter"]' in dockerfile()


def dockerfile():
    return (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("kind", ["DaemonSet", "Pod"])
def test_a_service_of_the_namespace_makes_no_variable(kind):
    pod = one(render(), kind)["spec"]
    assert pod.get("template", {"spec": pod})["spec"]["enableServiceLinks"] is False
