"""The pods of this node, from Calico's endpoint-status files: the source that needs no Kubernetes API.

Turns the folder's content into `LocalPod`s; a file that says nothing usable becomes a sentence and not a failure.
"""

from dataclasses import dataclass

from exporter.calico.endpoint_status import EndpointStatusError, parse_endpoint_status
from exporter.node.files import Folder


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A pod that lives on this node: its name, the host side of its interface, and its addresses."""

    namespace: str
    pod: str
    interface: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LocalPods:
    """The pods that a source knows, and one sentence for each that it could not make out."""

    pods: tuple[LocalPod, ...]
    problems: tuple[str, ...]


def pods_of(folder: Folder) -> LocalPods:
    """The pods that the endpoint-status files in `folder` name."""
    pods: list[LocalPod] = []
    problems = list(folder.problems)
    for name, content in folder.files.items():
        try:
            status = parse_endpoint_status(name, content.decode("utf-8", "replace"))
        except EndpointStatusError as error:
            problems.append(str(error))
            continue
        pods.append(LocalPod(status.namespace, status.pod, status.interface, status.addresses))
    return LocalPods(tuple(pods), tuple(problems))
