"""OpenShift admits the pods: its constraint allows what they ask for, and no more namespaces of the node."""

import pytest

from tests.chart.helm import container, helm, kinds, one, render
from tests.kernel.conftest import give_up


@pytest.fixture(scope="module", autouse=True)
def tools():
    if helm("version").returncode:
        give_up("helm is not here: `make setup` brings it")


@pytest.mark.parametrize("profile", ["privileged", "sysadmin", "capabilities"])
@pytest.mark.parametrize("kind", ["DaemonSet", "Pod"])
def test_the_constraint_admits_the_pods_of_the_service_account(profile, kind):
    objects = render({"openshift": {"enabled": True}, "securityProfile": profile})
    constraint, pod = one(objects, "SecurityContextConstraints"), one(objects, kind)["spec"]
    pod = pod.get("template", {"spec": pod})["spec"]
    context = container(objects, kind)["securityContext"]
    assert [f"system:serviceaccount:monitoring:{pod['serviceAccountName']}"] == constraint["users"]
    assert pod["hostNetwork"] is constraint["allowHostNetwork"] is constraint["allowHostPorts"] is True
    assert {type_of(volume) for volume in pod["volumes"]} <= set(constraint["volumes"])
    assert context["privileged"] is constraint["allowPrivilegedContainer"]
    assert set(context.get("capabilities", {}).get("add", ())) == set(constraint["allowedCapabilities"])
    assert {"RunAsAny"} == {constraint[name]["type"] for name in ("runAsUser", "seLinuxContext", "fsGroup")}
    assert context["readOnlyRootFilesystem"] is constraint["readOnlyRootFilesystem"]


def type_of(volume):
    return next(key for key in volume if key != "name")


def test_the_constraint_gives_no_other_namespaces_of_the_node():
    constraint = one(render({"openshift": {"enabled": True}}), "SecurityContextConstraints")
    assert (False, False) == (constraint["allowHostIPC"], constraint["allowHostPID"])


def test_own_capabilities_are_admitted_too():
    own = {"capabilities": {"add": ["BPF", "SYS_ADMIN"]}}
    values = {"openshift": {"enabled": True}, "securityProfile": "capabilities", "containerSecurityContext": own}
    assert ["BPF", "SYS_ADMIN"] == one(render(values), "SecurityContextConstraints")["allowedCapabilities"]


def test_elsewhere_there_is_none():
    assert "SecurityContextConstraints" not in kinds(render())
