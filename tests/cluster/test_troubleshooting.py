"""What docs/troubleshooting.md says of pods that are not created or do not start, made here and ended by its remedy."""

import json

import pytest

from tests.apiserver.cluster import wait_until
from tests.cluster.release import LABEL, NAME, Release
from tests.kernel.machine import run

HELM = f"helm upgrade --install {NAME} ./chart --namespace {NAME} --set image.tag=dev"
WAIT = "--wait --timeout 90s"


@pytest.fixture
def namespace(node):
    """A namespace without a label, which the cluster's admission holds to the standard `baseline`."""
    node.import_image(NAME)
    node.shell(f"kubectl create namespace {NAME}")
    yield NAME
    Release(node).uninstall()


@pytest.fixture
def privileged(node, namespace):
    """The namespace with the label of the installation."""
    node.shell(f"kubectl label namespace {NAME} pod-security.kubernetes.io/enforce=privileged")
    return namespace


def events(node, reason, namespace=NAME):
    """Messages of the events with this reason."""
    found = node.get("events", f"--namespace={namespace}", f"--field-selector=reason={reason}")["items"]
    return [each["message"] for each in found]


def waiting(node):
    """Why the release's only container does not run, with the message."""
    found = node.get("pods", f"--namespace={NAME}", f"--selector={LABEL}")["items"]
    states = [each["state"].get("waiting") for pod in found for each in pod["status"].get("containerStatuses", [])]
    return states[0] if states and states[0] else {}


def test_without_the_label_no_pod_is_created_and_the_label_ends_that(node, namespace):
    node.shell(HELM)
    messages = wait_until(lambda: events(node, "FailedCreate"))
    assert all('violates PodSecurity "baseline:latest"' in each for each in messages), messages
    assert [] == Release(node).pods()
    node.shell(f"kubectl label namespace {NAME} pod-security.kubernetes.io/enforce=privileged --overwrite")
    node.shell(f"kubectl -n {NAME} rollout status daemonset/{NAME} --timeout 300s")


def test_an_image_that_the_node_lacks_is_pulled_from_nowhere_and_loading_it_ends_that(node, privileged):
    node.ctr("images", "remove", "localhost/calico-bpf-exporter:dev")
    node.shell(HELM)
    state = wait_until(
        lambda: waiting(node) if waiting(node).get("reason") in ("ErrImagePull", "ImagePullBackOff") else None
    )
    assert "localhost/calico-bpf-exporter:dev" in state["message"]
    node.import_image(NAME)
    node.shell(f"kubectl -n {NAME} rollout status daemonset/{NAME} --timeout 120s")


def test_private_mounts_of_the_node_are_named_and_both_remedies_work(node, privileged):
    run("mount", "--make-private", "/sys/fs/bpf")
    try:
        node.shell(HELM)
        state = wait_until(lambda: waiting(node) if "mount" in waiting(node).get("message", "") else None)
        assert "CreateContainerError" == state["reason"]
        assert 'path "/sys/fs/bpf" is mounted on' in state["message"]
        node.shell(f"{HELM} {WAIT} --set bpffs.mountPropagation=None")
    finally:
        run("mount", "--make-rshared", "/")
    node.shell(f"{HELM} {WAIT} --set bpffs.mountPropagation=HostToContainer")


def test_a_memory_limit_below_the_need_is_named(node, privileged):
    node.shell(f"{HELM} --set resources.limits.memory=16Mi")
    assert "OOMKilled" == wait_until(lambda: ended(node))["reason"]


def ended(node):
    """How the release's only container ended, the last time that it did."""
    found = node.get("pods", f"--namespace={NAME}", f"--selector={LABEL}")["items"]
    each = [one for pod in found for one in pod["status"].get("containerStatuses", [])]
    states = [one[when]["terminated"] for one in each for when in ("state", "lastState") if "terminated" in one[when]]
    return states[0] if states else None


def test_a_taken_port_keeps_the_second_pod_pending_until_it_has_another(node, privileged):
    node.shell(f"{HELM} {WAIT}")
    node.shell("kubectl create namespace second")
    try:
        node.shell("kubectl label namespace second pod-security.kubernetes.io/enforce=privileged")
        second = "helm upgrade --install second ./chart --namespace second --set image.tag=dev"
        node.shell(second)
        messages = wait_until(lambda: events(node, "FailedScheduling", "second"))
        assert all("node(s) didn't have free ports" in each for each in messages), messages
        node.shell(f"{second} --set web.port=10043 {WAIT}")
    finally:
        node.shell("helm uninstall second --namespace second --ignore-not-found")
        node.api.kubectl("delete", "namespace", "second", "--timeout=50s")


QUOTA = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": NAME}}


@pytest.mark.parametrize(
    ("hard", "expected"),
    [({"limits.memory": "1Gi"}, "must specify limits"), ({"limits.memory": "100Mi"}, "exceeded quota")],
)
def test_a_quota_refuses_the_pod_and_sizes_end_that(node, privileged, hard, expected):
    node.api.create({**QUOTA, "spec": {"hard": hard}})
    sizes = "--set resources.requests.memory=80Mi,resources.limits.memory=160Mi"
    node.shell(HELM if expected.startswith("must") else f"{HELM} {sizes}")
    messages = wait_until(lambda: events(node, "FailedCreate"))
    assert all(expected in each for each in messages), messages
    enough = json.dumps({"spec": {"hard": {"limits.memory": "1Gi"}}})
    node.shell(f"kubectl -n {NAME} patch resourcequota small --patch '{enough}'")
    node.shell(f"{HELM} {sizes} {WAIT} --set podLabels.again=yes")
