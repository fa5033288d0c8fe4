"""A release from its installation to its end: upgrades, late mounts, memory, termination, and what it leaves behind."""

import re
from datetime import datetime
from pathlib import Path

import pytest

from exporter import confine, privileges
from tests.apiserver.cluster import wait_until
from tests.cluster.release import NAME, Release, ending, ready
from tests.kernel.machine import run, sample, success

# The sizes of docs/kubernetes.md.
SIZES = "resources.requests.cpu=10m,resources.requests.memory=80Mi,resources.limits.memory=160Mi"
# As docs/guides/upgrade.md has it.
UPGRADE = f"helm upgrade {NAME} ./chart --namespace {NAME} --reset-then-reuse-values"
HELM = f"./chart --namespace {NAME} --set image.tag=dev --wait --timeout 90s"


@pytest.fixture
def release(node):
    """An installed release, for which helm has waited."""
    node.import_image(NAME)
    node.shell(f"kubectl create namespace {NAME}")
    node.shell(f"kubectl label namespace {NAME} pod-security.kubernetes.io/enforce=privileged")
    made = Release(node)
    node.shell(f"helm install {NAME} {HELM}")
    yield made
    made.uninstall()


def upgrade(node, release, values):
    """The pod that runs after an upgrade with these values."""
    node.shell(f"helm upgrade {NAME} {HELM} --set {values}")
    return release.pod()


def test_an_upgrade_replaces_the_pod_and_keeps_every_count(node, release, tmp_path):
    old = upgrade(node, release, f"{SIZES},priorityClassName=system-node-critical")
    counted = release.scrape()
    node.ctr("images", "tag", "--force", f"localhost/{NAME}:dev", f"localhost/{NAME}:next")
    with ending(node, tmp_path, old["metadata"]["name"]) as states:
        node.shell(f"{UPGRADE} --set image.tag=next --wait --timeout 90s")
    new = release.pod()
    assert old["metadata"]["uid"] != new["metadata"]["uid"]
    container = new["spec"]["containers"][0]
    assert (2000001000, "160Mi") == (new["spec"]["priority"], container["resources"]["limits"]["memory"])
    assert f"localhost/{NAME}:next" == container["image"]
    ended = final(states)
    assert ended["finishedAt"] <= new["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    totals = {key: value for key, value in counted.items() if key[0] == "calico_bpf_dropped_packets_total"}
    assert totals == {key: value for key, value in release.scrape().items() if key in totals}


def final(states):
    """How the pod's only container ended, from all that a watch saw of the pod."""
    found = (each["object"]["status"].get("containerStatuses", []) for each in states)
    return [each["state"]["terminated"] for one in found for each in one if "terminated" in each["state"]][-1]


def test_a_deleted_pod_ends_by_itself_and_at_once(node, release, tmp_path):
    name = release.pod()["metadata"]["name"]
    with ending(node, tmp_path, name) as states:
        node.api.kubectl("delete", "pod", name, f"--namespace={NAME}", "--wait=false")
    ended = final(states)
    assert (0, "Completed") == (ended["exitCode"], ended["reason"])
    marked = next(each["object"] for each in states if "deletionTimestamp" in each["object"]["metadata"])["metadata"]
    # The time in the object is the one at which its grace period ends.
    asked = seconds(marked["deletionTimestamp"]) - marked["deletionGracePeriodSeconds"]
    assert 2 >= seconds(ended["finishedAt"]) - asked
    wait_until(lambda: [True] == [ready(each) for each in release.pods()], seconds=60)


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


def test_the_documented_sizes_are_enough(node, release):
    upgrade(node, release, SIZES)
    for _ in range(5):
        release.scrape()
        node.shell(f"kubectl -n {NAME} exec daemonset/{NAME} -- calico-bpf-exporter counters")
    most, limit = release.memory()
    assert 160 << 20 == limit
    assert 80 << 20 > most
    assert 0 == release.pod()["status"]["containerStatuses"][0]["restartCount"]


@pytest.mark.parametrize(("profile", "kept"), [("sysadmin", privileges.SYS_ADMIN), ("capabilities", privileges.BPF)])
def test_less_than_privileged_is_enough_under_the_runtime_s_own_filter(node, release, profile, kept):
    upgrade(node, release, f"securityProfile={profile}")
    status = release.status()
    assert str(confine.USER) == status["Uid"].split()[0]
    assert (1 << kept) + (1 << privileges.DAC_READ_SEARCH) == int(status["CapEff"], 16)
    # The runtime's filter of system calls and the exporter's own.
    assert ("2", "2") == (status["Seccomp"], status["Seccomp_filters"])
    assert {1.0} == set(success(release.scrape()).values())


@pytest.mark.parametrize("profile", ["privileged", "sysadmin"])
def test_what_is_mounted_later_reaches_the_running_pod(node, release, profile):
    run("umount", "/sys/fs/bpf")
    try:
        upgrade(node, release, f"securityProfile={profile},podLabels.changed=yes")
        assert 0 == release.scrape()[sample("calico_bpf_dataplane_present")]
    finally:
        run("mount", "--bind", node.demo.bpf.path, "/sys/fs/bpf")
    wait_until(lambda: 1 == release.scrape()[sample("calico_bpf_dataplane_present")], seconds=30)
    assert 0 == release.pod()["status"]["containerStatuses"][0]["restartCount"]


def test_nothing_is_left_after_an_uninstallation(node, release):
    process, uid = release.process(), release.pod()["metadata"]["uid"]
    assert Path(f"/proc/{process}").exists()
    assert 4 <= len(list(traces(uid)))
    node.shell(f"helm uninstall {NAME} --namespace {NAME} --wait")
    wait_until(lambda: not Path(f"/proc/{process}").exists(), seconds=30)
    kinds = node.api.kubectl("api-resources", "--verbs=list", "--output=name").split()
    words = ("get", ",".join(kinds), "--all-namespaces", f"--selector=app.kubernetes.io/instance={NAME}")
    wait_until(lambda: "" == node.api.kubectl(*words, "--output=name", "--ignore-not-found"), seconds=30)
    owned = node.get("all,secrets,configmaps", f"--namespace={NAME}")["items"]
    assert ["kube-root-ca.crt"] == [each["metadata"]["name"] for each in owned]
    wait_until(lambda: [] == list(traces(uid)), seconds=60)


def traces(uid):
    """What is on the node of a pod: mounts, control groups, and files of the kubelet's and the runtime's."""
    yield from re.findall(rf".*{uid}.*", Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    for folder in ("/sys/fs/cgroup", "/var/lib/kubelet/pods", "/var/log/pods"):
        # A folder can go while it is searched.
        yield from run("find", folder, "-name", f"*{uid}*", check=False).stdout.split()
    yield from Path("/var/log/containers").glob(f"{NAME}*")
