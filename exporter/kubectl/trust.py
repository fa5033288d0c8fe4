"""Which pods are taken for exporters: everybody who may create a pod may give it the exporter's labels.

A command that runs in such a pod could print anything. The chart's pods belong to a DaemonSet and are in the network of
their node, which clusters allow to few.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def split_trusted(pods: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The pods that can be exporters, and one sentence for each other."""
    trusted, problems = [], []
    for pod in pods:
        if why := _distrust(pod):
            metadata = _object(pod, "metadata")
            title = f"{metadata.get('namespace')}/{metadata.get('name')}"
            problems.append(f"pod {title} has the labels of an exporter, but {why}: it is left out")
        else:
            trusted.append(pod)
    return trusted, problems


def _distrust(pod: Mapping[str, Any]) -> str:
    """Why a pod can be no exporter; empty if it can."""
    owners = _object(pod, "metadata").get("ownerReferences")
    if not any(_is_daemon_set(one) for one in (owners if isinstance(owners, list) else ())):
        return "belongs to no DaemonSet"
    if _object(pod, "spec").get("hostNetwork") is not True:
        return "is not in the network of its node"
    return ""


def _is_daemon_set(owner: object) -> bool:
    return isinstance(owner, dict) and owner.get("kind") == "DaemonSet" and owner.get("controller") is True


def _object(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    return value if isinstance(value, dict) else {}
