"""The commands of the README, the quick start and the installation run, as copied and in order, beside a running demo.

A block marked `sh` is commands, one marked `console` commands after `$ ` with what they print; what is here called
`LISTED` is printed with its reason instead. helm renders the chart as `install` does and talks to no cluster; kubectl
is real, before the tests' API server, whose node is a demo node with the pods of the text.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from exporter.demo.node import Node
from exporter.demo.plan import DATABASE, PROBE
from tests import installed
from tests.kernel.machine import ROOT
from tests.kernel.test_demo_command import LAST, Terminal, earlier  # noqa: F401  a fixture
from tests.kubectl.cluster import exporter, pod
from tests.kubectl.conftest import TOOLS, api, authority, cluster, environment  # noqa: F401  fixtures

PAGES = ("README.md", "docs/quick-start.md", "docs/install.md")
# The beginning of a command, and why it is not run here.
LISTED = {
    "make demo": "runs beside these commands, as tests/kernel/test_demo_command.py starts it",
    "make image": "takes minutes and a container engine: make test-image builds the image",
    "docker push": "there is no registry",
    "docker save": "needs docker's daemon",
    "buildah push": "needs the image: make test-image builds it",
    "kind load": "needs kind, and docker's daemon",
    "helm test": "needs a cluster that runs pods: tests/cluster runs it",
    "pipx install .": "pipx is no part of the set-up: tests/kubectl/test_laptop.py installs the same wheel",
    "kubectl -n calico-bpf-exporter exec daemonset/": "the tests' API server has pods and no DaemonSets",
    "kubectl -n calico-bpf-exporter port-forward": "the tests' API server forwards no ports",
    "xdg-open": "opens a browser",
}
ENDLESS = re.compile(r"--watch\b|exporter serve$")
PROGRAMS = (
    "make",
    "curl",
    "helm",
    "kubectl",
    "docker",
    "python3",
    "pip",
    "pipx",
    "uvx",
    "calico-bpf-exporter",
    "$",
    "/",
)


def blocks(page):
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(language, text):
    """The commands of a block, continued lines as one, without what is printed."""
    if language == "console":
        return re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    return text.replace("\\\n", "").splitlines() if language == "sh" else []


def script_of(block):
    """What a shell runs of a block: each command must succeed, `why` may find drops, and what does not end is ended."""
    lines = []
    for command in commands(*block):
        if "--bundle tests/recordings" in command:
            continue  # tests/cli/test_pages.py compares what these print
        reason = next((why for start, why in LISTED.items() if command.startswith(start)), None)
        bare = command.partition(" #")[0].strip()
        if reason:
            sys.stdout.write(f"not run: {bare}: {reason}\n")
            continue
        allowed = "0|3" if " why " in command else "0"
        if ENDLESS.search(bare):
            bare, allowed = f"timeout --signal INT 4 {bare}", "124"
        lines += [bare, f"case $? in {allowed}) ;; *) echo 'failed: {bare.replace(chr(39), '')}' >&2; exit 1 ;; esac"]
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_commands_is_marked_as_one(page):
    unmarked = [text for language, text in blocks(page) if not language]
    assert [] == [text for text in unmarked if text.startswith(tuple(f"{one} " for one in PROGRAMS))]


def test_the_pages_install_in_a_cluster_by_the_same_block():
    pages = ("README.md", "docs/quick-start.md", "docs/install.md", "chart/README.md")
    found = {page: [text for _, text in blocks(page) if "docker push" in text] for page in pages}
    assert all(found["README.md"] == same for same in found.values()), found
    assert 1 == len(found["README.md"])


def test_the_namespace_that_a_page_makes_may_have_the_pods(shell, cluster):  # noqa: F811
    (install,) = (block for block in blocks("README.md") if "docker push" in block[1])
    done = subprocess.run(["bash", "-c", script_of(install)], env=shell, capture_output=True, cwd=ROOT, check=False)
    assert 0 == done.returncode, done.stderr
    labels = cluster.namespaces["calico-bpf-exporter"]["metadata"]["labels"]
    assert {"pod-security.kubernetes.io/enforce": "privileged"} == labels
    assert b"image: registry.example.org/calico-bpf-exporter:dev" in done.stdout.replace(b'"', b"")


def test_what_is_not_run_is_in_the_pages():
    told = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [] == [start for start in LISTED if f"\n{start}" not in told]


@pytest.fixture
def node_pods(machine, tmp_path):
    """A demo node whose pods are called as the README calls them."""
    node = Node(f"r{os.getpid()}", tmp_path / "node")
    pods = (replace(DATABASE, namespace="ns-b", name="server"), replace(PROBE, namespace="ns-c", name="plain"))
    cart = replace(DATABASE, namespace="shop", name="cart", number=77)
    try:
        node.build((*pods, cart))
        yield node, (*pods, cart)
    finally:
        node.close()


@pytest.fixture
def shell(node_pods, cluster, environment, tmp_path):  # noqa: F811
    """A shell's environment, on a node and before a cluster at once, and what `opt` is there."""
    node, pods = node_pods
    there = exporter("n1")
    cluster.pods += [there, *(pod(one.name, "n1", one.namespace) for one in pods)]
    where = {
        "CALICO_BPF_EXPORTER_BPF_FS": str(node.bpf.path),
        "CALICO_BPF_EXPORTER_CALICO_RUN_DIR": str(node.run_dir),
        "CALICO_BPF_EXPORTER_WHY_FOR": "2s",
    }
    inside = ["ip", "netns", "exec", node.namespace]
    cluster.runs(there, [*inside, installed.program()], **where)
    shims = tmp_path / "shims"
    shims.mkdir()
    on_node = f'exec {" ".join(inside)} /opt/calico-bpf-exporter/bin/calico-bpf-exporter "$@"'
    words = {
        "calico-bpf-exporter": f"[ -x /opt/calico-bpf-exporter/bin/calico-bpf-exporter ] || exit 9\n{on_node}",
        "helm": f'exec {TOOLS}/helm "$@" --dry-run=client',
        "uvx": f'exec {TOOLS.parent}/uv/bin/uvx --python {sys.executable} "$@"',
        "python3": f'exec {sys.executable} "$@"',
    }
    for name, script in words.items():
        (shims / name).write_text(f"#!/bin/sh\n{script}\n")
        (shims / name).chmod(0o755)
    return {**environment, **where, "PATH": f"{shims}:{environment['PATH']}"}


@pytest.mark.timeout(400)
def test_the_commands_run_as_they_stand(earlier, shell, tmp_path):  # noqa: F811
    """In a mount namespace whose /opt is empty and lasts for all blocks; in a clone that takes their files."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    scripts = [script_of(block) for page in PAGES for block in blocks(page) if commands(*block)]
    begin = f"trap 'jobs -p | xargs -r kill' EXIT; mount -t tmpfs tmpfs /opt; cd {clone}; ln -s {ROOT}/.tools .tools"
    dropping = (
        "until curl -s http://localhost:10042/metrics | grep -q '^calico_bpf_dropped.* [1-9]'; do sleep 0.2; done"
    )
    end_of_block = "jobs -p | xargs -r kill; wait"
    whole = "\n".join([begin, dropping, *(f"{script}\n{end_of_block}" for script in scripts)])
    terminal = Terminal()
    try:
        terminal.read_until(LAST)
        command = ["unshare", "--mount", "bash", "-c", whole]
        done = subprocess.run(command, env=shell, capture_output=True, text=True, timeout=350, check=False)
    finally:
        terminal.press_ctrl_c()
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-3000:]
    assert "calico_bpf_dropped_packets_total" in done.stdout
