"""What is kept of the pods of this node, as the cluster's API server knows them; `pod_watch.py` gets them from there.

Only pods with an interface of their own here: not those in the host's network, not those that have ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ClusterPod:
    """A pod with an interface of its own on this node; `owner_kind` and `owner` are empty for a bare one."""

    namespace: str
    pod: str
    addresses: tuple[str, ...] = ()
    owner_kind: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class ClusterPods:
    """What the API server said last of node `node`, as it calls it.

    `synced` is when it last said anything (Unix seconds), None before it did. `problem` is one sentence while it cannot
    be asked; `errors` counts by reason since the start.
    """

    pods: tuple[ClusterPod, ...] = ()
    synced: float | None = None
    problem: str | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    node: str = ""


class PodSource(Protocol):
    """Whoever knows the pods of this node from the API server."""

    def pods(self) -> ClusterPods:
        """What is known now, at once."""
