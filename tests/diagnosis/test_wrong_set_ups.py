"""Wrong set-ups of a node or of the exporter's pod, and the advice that each gets: its cause, and no other's."""

import errno
import json
import os
from dataclasses import replace
from unittest import mock

import pytest

from exporter.bpf.maps import MapDenied, MapMissing
from exporter.diagnosis.check import PARTS, findings
from exporter.node import NodeError
from exporter.node.api_server import ApiServer
from exporter.node.files import list_folder
from exporter.node.pod_watch import ListedPods
from exporter.node.pods import ClusterPod, ClusterPods
from exporter.snapshot.source import LiveNode

CLIENT = "calibf331a988cf"
STATUS = json.dumps({"ifaceName": CLIENT, "ipv4Nets": ["10.65.0.2/32"]}).encode()
POD = ClusterPod("ns-a", "client", ("10.65.0.2",))


@pytest.fixture
def node(make):
    """A node on which nothing is wrong; its API server is not asked."""
    return make.node(
        [
            make.counters("cali_counters6", 60, {(5, 0): {0: 11}, (5, 1): {0: 3}}),
            make.ifstate("cali_iface4", 40, {3: ("eth0", 0xE), 5: (CLIENT, 0x7)}),
            make.rules("cali_rule_ctrs2", 20, {}),
        ],
        links=[make.link(3, "eth0"), make.link(5, CLIENT)],
        host_routes=[make.route("10.65.0.2", 5)],
        endpoint_status=make.folder(**{"k8s ns-a%2Fclient eth0": STATUS}),
        policy_files=make.folder(**{f"{CLIENT}_egress_v4.json": b"{}"}),
    )


class Facts:
    """Changes facts of a node, or its maps, and says so in the name of a test."""

    def __init__(self, name, **facts):
        self.name, self.facts = name, facts

    def __call__(self, node, make, tmp_path):
        maps = self.facts.pop("maps", {})
        node.facts |= {name: fact(make, tmp_path) if callable(fact) else fact for name, fact in self.facts.items()}
        for name, change in maps.items():
            node.maps[name] = change(node.maps.get(name), make) if callable(change) else change


def folders_below(run_dir):
    """This directory and the two folders in it as the live node finds them."""

    def asked(name):
        def fact(_, tmp_path):
            class Reader:
                name = "none"

            try:
                return getattr(LiveNode(Reader(), tmp_path, run_dir(tmp_path)), name)()
            except NodeError as error:
                return error

        return fact

    folders = {name: asked(name) for name in ("endpoint_status", "policy_files")}
    return folders | {"run_dir": asked("check_run_dir")}


def nowhere(tmp_path):
    return tmp_path / "none"


def empty(tmp_path):
    return tmp_path


def without_debug(tmp_path):
    (tmp_path / "endpoint-status").mkdir(exist_ok=True)
    (tmp_path / "endpoint-status/k8s ns-a%2Fclient eth0").write_bytes(STATUS)
    return tmp_path


def unlisted(number):
    """A folder whose listing ends with this errno."""

    def fact(_, tmp_path):
        with mock.patch("os.scandir", side_effect=OSError(number, os.strerror(number))):
            try:
                return list_folder(tmp_path)
            except NodeError as error:
                return error

    return fact


def listed(kubeconfig=None):
    """The pods that a command gets from an API server that is not right."""

    def fact(_, tmp_path):
        file = tmp_path / "kubeconfig"
        if kubeconfig:
            file.write_text(kubeconfig)
        return ListedPods(
            lambda: ApiServer(file if kubeconfig else None, service_account=tmp_path / "no-account"), "n1"
        ).pods()

    return fact


UNREACHABLE_SERVER = """
clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: abc}}]
contexts: [{name: c, context: {cluster: a, user: u}}]
current-context: c
"""
NO_FILES = {"endpoint_status": lambda make, _: make.folder(), "host_routes": ()}
TURN_ON, DEBUG, RUN_DIR = "linuxDataplane: BPF", "bpfPolicyDebugEnabled", "--calico.run-dir"
MODES, LIMIT = "CAP_DAC_READ_SEARCH", "ulimit -n"
TOKEN, NETWORK, GRANT = "service account", "kubernetes.apiHost", "list and watch pods"
SET_UPS = [
    # Calico and its maps.
    (Facts("no eBPF dataplane", pin_names=()), "counter map", "missing", "has pinned no counters map", TURN_ON),
    (
        Facts("no BPF file system", pin_names=MapMissing("/sys/fs/bpf is not there")),
        "pinned maps",
        "missing",
        "/sys/fs/bpf",
        TURN_ON,
    ),
    (
        Facts("Calico v3.25", maps={"cali_counters6": MapMissing("gone")}, attach_point_folders=["eth0_igr"]),
        "counter map",
        "missing",
        "",
        TURN_ON,
    ),
    (
        Facts("no right to read", pin_names=MapDenied("refused", "run as root with CAP_BPF")),
        "pinned maps",
        "missing",
        "refused",
        "CAP_BPF",
    ),
    (
        Facts(
            "another program's map",
            maps={"cali_counters6": lambda dump, _: replace(dump, info=replace(dump.info, type="array"))},
        ),
        "counter map",
        "missing",
        "cannot be Calico's counters map",
        "which program has pinned it",
    ),
    (
        Facts(
            "an unknown layout",
            maps={"cali_counters6": lambda _, make: make.counters("cali_counters6", 60, {}, slots=15)},
        ),
        "counter layout",
        "ok",
        "see --calico.layout-file",
        "",
    ),
    (Facts("no rule counters", maps={"cali_rule_ctrs2": MapMissing("gone")}), "rule counters", "note", "gone", TURN_ON),
    (
        Facts("one map alone", pin_names=("cali_counters6",)),
        "interface state",
        "missing",
        "though others",
        "the log of calico-node",
    ),
    # The network namespace.
    (
        Facts("another network namespace", links=lambda make, _: [make.link(1, "lo"), make.link(2, "eth0")]),
        "namespace",
        "missing",
        "interfaces that Calico knows are here",
        "hostNetwork: true",
    ),
    (
        Facts("netlink refused", links=NodeError("links could not be listed")),
        "links",
        "missing",
        "could not be listed",
        "",
    ),
    # Calico's run directory.
    (Facts("no run directory", **folders_below(nowhere)), "policy debug", "note", "/none does not exist", RUN_DIR),
    (
        Facts("no run directory", **folders_below(nowhere)),
        "endpoint files",
        "note",
        "/none does not exist",
        "calico.runDir",
    ),
    (
        Facts("another directory mounted", **folders_below(empty)),
        "policy debug",
        "note",
        "has nothing of Calico's in it",
        "microk8s",
    ),
    (Facts("policy debug off", **folders_below(without_debug)), "policy debug", "note", "off: 0 policy files", DEBUG),
    (
        Facts("a folder of mode 0600", policy_files=unlisted(errno.EACCES)),
        "policy debug",
        "note",
        "could not be listed",
        MODES,
    ),
    (
        Facts("no file may be opened", endpoint_status=unlisted(errno.EMFILE)),
        "endpoint files",
        "note",
        "Too many open files",
        LIMIT,
    ),
    (Facts("a file in its place", policy_files=unlisted(errno.ENOTDIR)), "policy debug", "note", "Not a directory", ""),
    # The API server.
    (Facts("no token", cluster_pods=listed()), "API server", "note", "runs in no cluster", TOKEN),
    (Facts("no connection", cluster_pods=listed(UNREACHABLE_SERVER)), "API server", "note", "did not answer", NETWORK),
    (
        Facts("a broken kubeconfig", cluster_pods=listed("a: [")),
        "API server",
        "note",
        "cannot be used",
        "correct the kubeconfig",
    ),
    (Facts("no role", cluster_pods=ClusterPods(problem="403", advice=GRANT)), "API server", "note", "403", GRANT),
    (
        Facts("another node's name", cluster_pods=ClusterPods(node="n2", synced=1.0)),
        "API server",
        "note",
        "no pod with an interface of its own on node n2",
        "--kubernetes.node",
    ),
    # Names of pods.
    (
        Facts("nothing names the pods, and nobody is asked", **NO_FILES),
        "pod names",
        "note",
        "0 of 1 workload interfaces",
        "endpointStatusPathPrefix",
    ),
    (
        Facts("the API server knows none of the pods", **NO_FILES, cluster_pods=ClusterPods(node="n1", synced=1.0)),
        "pod names",
        "missing",
        "0 of 1 workload interfaces",
        "--kubernetes",
    ),
    (
        Facts("no run directory names the pods", **folders_below(nowhere), host_routes=()),
        "pod names",
        "missing",
        "0 of 1 workload interfaces",
        "--kubernetes",
    ),
]
ADVICE = (
    TURN_ON,
    DEBUG,
    RUN_DIR,
    TOKEN,
    NETWORK,
    GRANT,
    MODES,
    LIMIT,
    "hostNetwork: true",
    "which program has pinned it",
)
TOGETHER = [(RUN_DIR, "calico.runDir", "microk8s")]  # one advice, of which a row has a part


@pytest.mark.parametrize(
    ("change", "subject", "state", "found", "remedy"), SET_UPS, ids=[f"{one[0].name}: {one[1]}" for one in SET_UPS]
)
def test_a_wrong_set_up_gets_the_advice_for_it(node, make, tmp_path, change, subject, state, found, remedy):
    change(node, make, tmp_path)
    told = next(one for one in findings(make.snapshot(node, parts=PARTS)) if one.subject == subject)
    assert (state, True, True) == (told.state, found in told.found, remedy in told.remedy), told
    others = [one for one in ADVICE if one in told.remedy and (not remedy or remedy not in one)]
    assert [] == [one for one in others if not any(one in with_it and remedy in with_it for with_it in TOGETHER)]
