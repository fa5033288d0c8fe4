"""The pods of this node as the cluster's API server reports them; `pod_watch.py` reads them.

Only running pods with an interface on this node: none with hostNetwork, none that has terminated.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ClusterPod:
    """A pod with an interface on this node; `owner_kind` and `owner` are empty for a bare pod."""

    namespace: str
    pod: str
    addresses: tuple[str, ...] = ()
    owner_kind: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class ClusterPods:
    """The API server's latest pods of the node that it calls `node`.

    `synced` is the time of the last list or watch event (Unix seconds), None before the first. `problem` is one
    sentence while the API server fails, and `advice` what to do about it; `errors` counts failures by reason since the
    start.
    """

    pods: tuple[ClusterPod, ...] = ()
    synced: float | None = None
    problem: str | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    node: str = ""
    advice: str = ""


class PodSource(Protocol):
    """A source of this node's pods from the API server."""

    def pods(self) -> ClusterPods:
        """The pods known now, without waiting."""


def in_cluster() -> bool:
    """Whether this process runs in a pod with a service account."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists()
