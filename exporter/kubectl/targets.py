"""Finds targets: the node of a pod, and the exporter's pod on that node. An error is one sentence.

Everybody who may create a pod may give it the exporter's labels, and a command that runs there could print anything:
taken for exporters are pods as the chart's, of a DaemonSet and in the network of their node, which clusters allow to
few.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import ExporterError
from exporter.kubectl.kubectl import Kubectl, KubectlError, PodName
from exporter.kubectl.objects import name_of, objects_at, text_at, value_at

DEFAULT_SELECTOR = "app.kubernetes.io/name=calico-bpf-exporter"
# The kind as kubectl's own commands take it before a pod's name.
_KINDS = ("pod", "pods", "po")


class NoTarget(ExporterError):
    """No exporter can be queried. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class Exporters:
    """How the exporter's pods are found: by labels, in one namespace or in all (None)."""

    selector: str = DEFAULT_SELECTOR
    namespace: str | None = None

    def pods(self, kubectl: Kubectl, *words: str) -> list[dict[str, Any]]:
        """The exporter's pods, filtered by `words`. Raises `KubectlError`, or `NoTarget` for several namespaces."""
        where = f"--namespace={self.namespace}" if self.namespace else "--all-namespaces"
        try:
            found = kubectl.get("pods", where, f"--selector={self.selector}", *words)
        except KubectlError as error:
            if error.reason == "Forbidden" and not self.namespace:
                remedy = "you may not list pods in all namespaces; name the exporter's with --exporter-namespace"
                raise KubectlError(f"{remedy}: {error}", error.reason) from error
            raise
        pods = objects_at(found, "items")
        if len(spaces := sorted({name_of(one).namespace for one in pods})) > 1:
            raise NoTarget(
                f"pods labelled {self.selector} are in the namespaces {', '.join(spaces)}; name the exporter's with "
                "--exporter-namespace"
            )
        return pods

    def __str__(self) -> str:
        where = f"namespace {self.namespace}" if self.namespace else "any namespace"
        return f"pods labelled {self.selector} in {where}"


@dataclass(frozen=True, slots=True)
class Target:
    """The exporter's pod on a node, and the pod that is asked about (None: the whole node)."""

    node: str
    exporter: PodName
    pod: PodName | None = None

    def __str__(self) -> str:
        subject = f"pod {self.pod} is on node {self.node}" if self.pod else f"node {self.node}"
        return f"{subject}, asking {self.exporter} there"


def target_of_pod(
    kubectl: Kubectl, exporters: Exporters, wanted: str, namespace: str | None, *, needs_interface: bool = True
) -> Target:
    """The target for pod `wanted`, [NAMESPACE/]NAME; `needs_interface` says whether the pod must have one.

    Raises `NoTarget` or `KubectlError`.
    """
    pod = pod_named(kubectl, wanted, namespace)
    title = name_of(pod)
    node = text_at(pod, "spec", "nodeName")
    if not node:
        raise NoTarget(f"pod {title} is on no node yet: {_not_scheduled(pod)}")
    if needs_interface and value_at(pod, "spec", "hostNetwork"):
        raise NoTarget(
            f"pod {title} is in the network of its node (hostNetwork) and has no interface of its own; see the "
            f"node's interfaces with --node {node}"
        )
    if needs_interface and text_at(pod, "status", "phase") == "Pending" and not text_at(pod, "status", "podIP"):
        raise NoTarget(f"pod {title} is on node {node} and has no interface yet: {_why_not_running(pod)}")
    if needs_interface:
        refuse_ended(pod)
    return Target(node, target_of_node(kubectl, exporters, node).exporter, title)


def refuse_ended(pod: Mapping[str, Any]) -> None:
    """Raises `NoTarget` for a pod that has ended."""
    phase = text_at(pod, "status", "phase")
    if phase in ("Succeeded", "Failed"):
        raise NoTarget(f"pod {name_of(pod)} has ended ({phase}): its interface is gone")


def pod_named(kubectl: Kubectl, wanted: str, namespace: str | None) -> Mapping[str, Any]:
    """The pod `wanted`, [NAMESPACE/]NAME, as the API returns it. Raises `NoTarget` or `KubectlError`."""
    namespace, name = split_name(wanted, namespace)
    try:
        return kubectl.get(f"pod/{name}", *([f"--namespace={namespace}"] if namespace else []))
    except KubectlError as error:
        if error.reason == "NotFound" and str(error).startswith('pods "'):
            where = f"namespace {namespace}" if namespace else "the namespace of your kubectl context"
            remedy = (
                f"{wanted} is read as NAMESPACE/NAME of a pod" if "/" in wanted else "name another namespace with -n"
            )
            raise NoTarget(f"there is no pod {name} in {where}; {remedy}") from error
        raise


def target_of_node(kubectl: Kubectl, exporters: Exporters, node: str) -> Target:
    """The target for a whole node. Raises `NoTarget` or `KubectlError`."""
    targets, problems = _best_targets(exporters.pods(kubectl, f"--field-selector=spec.nodeName={node}"))
    if targets:
        return targets[0]
    if problems:
        raise NoTarget(problems[0])
    raise NoTarget(
        f"no calico-bpf-exporter is on node {node} (searched for {exporters}): install it there, or see whether its "
        "DaemonSet tolerates the node's taints"
    )


def all_targets(kubectl: Kubectl, exporters: Exporters) -> tuple[list[Target], list[str]]:
    """One target per node with an exporter, and the problems of other nodes.

    Raises `NoTarget` if there is no exporter at all, or `KubectlError`.
    """
    found = exporters.pods(kubectl)
    if not found:
        raise NoTarget(f"no calico-bpf-exporter is in this cluster (searched for {exporters})")
    targets, problems = _best_targets(found)
    if not targets:
        raise NoTarget("; ".join(problems))
    return targets, problems


def _best_targets(pods: Iterable[Mapping[str, Any]]) -> tuple[list[Target], list[str]]:
    """The best exporter of each node, and one sentence per node without a running one."""
    best: dict[str, Mapping[str, Any]] = {}
    targets, problems, trusted = [], [], []
    for pod in pods:
        if why := _distrust(pod):
            problems.append(f"pod {name_of(pod)} has the labels of an exporter, but {why}: it is left out")
        else:
            trusted.append(pod)
    for pod in trusted:
        node = text_at(pod, "spec", "nodeName")
        if not node:
            problems.append(f"an exporter, pod {name_of(pod)}, is on no node yet: {_not_scheduled(pod)}")
        elif node not in best or _rank(pod) > _rank(best[node]):
            best[node] = pod
    for node, pod in sorted(best.items()):
        if _rank(pod)[0]:
            targets.append(Target(node, name_of(pod)))
        else:
            problems.append(f"the exporter on node {node}, pod {name_of(pod)}, does not run: {_why_not_running(pod)}")
    return targets, problems


def _distrust(pod: Mapping[str, Any]) -> str:
    """Why a pod can be no exporter; empty if it can."""
    owners = objects_at(pod, "metadata", "ownerReferences")
    if not any(one.get("kind") == "DaemonSet" and one.get("controller") is True for one in owners):
        return "belongs to no DaemonSet"
    if value_at(pod, "spec", "hostNetwork") is not True:
        return "is not in the network of its node"
    return ""


def _rank(pod: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    """Running, not terminating, ready: during a rollout a node can have two."""
    conditions = objects_at(pod, "status", "conditions")
    ready = any(text_at(one, "type") == "Ready" and text_at(one, "status") == "True" for one in conditions)
    running = text_at(pod, "status", "phase") == "Running" and not _waiting(pod)
    return running, not value_at(pod, "metadata", "deletionTimestamp"), ready


def _waiting(pod: Mapping[str, Any]) -> str:
    """Why a container is waiting, such as CrashLoopBackOff; empty if none is."""
    statuses = objects_at(pod, "status", "containerStatuses")
    reasons = (text_at(one, "state", "waiting", "reason") for one in statuses)
    return next(filter(None, reasons), "")


def _why_not_running(pod: Mapping[str, Any]) -> str:
    return _waiting(pod) or text_at(pod, "status", "phase") or "its status is empty"


def _not_scheduled(pod: Mapping[str, Any]) -> str:
    for one in objects_at(pod, "status", "conditions"):
        if text_at(one, "type") == "PodScheduled" and text_at(one, "message"):
            return text_at(one, "message")
    return "it waits for the scheduler"


def split_name(wanted: str, namespace: str | None) -> tuple[str | None, str]:
    """The namespace and the name in [NAMESPACE/]NAME. Raises `NoTarget`."""
    prefix, slash, name = wanted.rpartition("/")
    if not name or "/" in prefix or name.startswith("-") or (slash and not prefix):
        raise NoTarget(f"{wanted!r} is no pod's name: [NAMESPACE/]NAME")
    return (namespace if prefix in _KINDS else prefix or namespace), name
