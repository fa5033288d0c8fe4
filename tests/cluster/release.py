"""The chart's release in the cluster, and what is known of its pod from the API server, the runtime and the kernel."""

import json
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

from exporter.demo.plan import NODE_ADDRESS, PODS
from tests.apiserver.cluster import KUBECTL, ROOT, wait_until
from tests.cluster.node import NODE, PAUSE
from tests.kernel.machine import run, samples_of

NAME = "calico-bpf-exporter"
LABEL = f"app.kubernetes.io/name={NAME}"
PORT = 10042


def block_after(line):
    """The block of commands that follows this line of docs/install.md."""
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^{re.escape(line)}\n\n```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found


class Release:
    """The release `NAME` in the namespace of that name."""

    def __init__(self, node):
        self._node = node

    def pods(self):
        """Its pods, without those that are being deleted."""
        found = self._node.get("pods", f"--namespace={NAME}", f"--selector={LABEL}")["items"]
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def pod(self):
        """Its only pod, once it is of the newest template and ready: helm's --wait can end before that."""
        return wait_until(self._newest, seconds=60)

    def _newest(self):
        release = self._node.get("daemonset", NAME, f"--namespace={NAME}")["metadata"]
        newest = release["annotations"]["deprecated.daemonset.template.generation"]
        found = [each for each in self.pods() if newest == each["metadata"]["labels"]["pod-template-generation"]]
        return found[0] if found and ready(found[0]) else None

    def process(self):
        """The id of the exporter's process, here and on the node."""
        container = self.pod()["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        lines = (line.split() for line in self._node.ctr("tasks", "list").splitlines())
        return next(int(words[1]) for words in lines if words[0] == container)

    def status(self):
        """What the kernel says of that process."""
        lines = Path(f"/proc/{self.process()}/status").read_text(encoding="ascii").splitlines()
        return dict(line.split(":\t", 1) for line in lines)

    def mounts(self):
        """Mount options and propagation of the container's mounts, by path."""
        lines = Path(f"/proc/{self.process()}/mountinfo").read_text(encoding="utf-8").splitlines()
        return {words[4]: (words[5].split(","), words[6]) for words in map(str.split, lines)}

    def memory(self):
        """The most bytes of memory that the container has taken, page cache included, and its limit."""
        groups = Path(f"/proc/{self.process()}/cgroup").read_text(encoding="ascii").splitlines()
        groups = {names: path for _, names, path in (line.split(":", 2) for line in groups)}
        if "memory" in groups:
            folder, files = f"memory{groups['memory']}", ("max_usage_in_bytes", "limit_in_bytes")
        else:
            folder, files = groups[""].strip("/"), ("peak", "max")
        read = (Path("/sys/fs/cgroup", folder, f"memory.{file}").read_text(encoding="ascii") for file in files)
        return tuple(map(int, read))

    def scrape(self):
        """The samples of a scrape at the node's address, as Prometheus asks."""
        return samples_of(run("curl", "-sSf", "--noproxy", "*", f"http://{NODE_ADDRESS}:{PORT}/metrics").stdout)

    def uninstall(self):
        """As docs/kubernetes.md says, and the namespace, until the pods are gone."""
        self._node.shell(f"helm uninstall {NAME} --namespace {NAME} --ignore-not-found")
        self._node.api.kubectl("delete", "namespace", NAME, "--ignore-not-found", "--timeout=50s")


def ready(pod):
    """Whether its containers are."""
    return all(each["ready"] for each in pod["status"].get("containerStatuses", [{"ready": False}]))


@contextmanager
def ending(node, folder, name):
    """Watches a pod to its end; gives a list that then has all of its states in order."""
    where = (f"--kubeconfig={node.config}", f"--namespace={NAME}", "--output=json")
    command = [KUBECTL, "get", "pod", name, *where, "--watch", "--output-watch-events"]
    states, file = [], folder / "watched.json"
    with file.open("wb") as output:
        watch = subprocess.Popen(command, stdout=output)
    try:
        wait_until(lambda: events_of(file), watch)
        yield states
        wait_until(lambda: "DELETED" == events_of(file)[-1]["type"], watch)
        states += events_of(file)
    finally:
        watch.kill()
        watch.wait()


def events_of(file):
    """The events that a watch has written so far; the last one may still be incomplete."""
    text, found = file.read_text(encoding="utf-8").lstrip(), []
    while text:
        try:
            event, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            break
        found.append(event)
        text = text[end:].lstrip()
    return found


def create_demo_pods(node):
    """Pods of the demo's names and addresses, which the kubelet runs; the demo sends their packets."""
    for namespace in {pod.namespace for pod in PODS}:
        node.api.kubectl("create", "namespace", namespace)
    tolerated = {"tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0}
    containers = [{"name": "main", "image": PAUSE, "imagePullPolicy": "Never"}]
    for pod in PODS:
        wait_until(lambda pod=pod: "default" in node.api.kubectl("get", "serviceaccounts", f"-n{pod.namespace}"))
    node.api.create(
        *(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": pod.name, "namespace": pod.namespace},
                "spec": {"nodeName": NODE, "containers": containers, **tolerated},
            }
            for pod in PODS
        )
    )
    for pod in PODS:
        node.api.kubectl("wait", "pod", pod.name, f"--namespace={pod.namespace}", "--for=condition=Ready")
