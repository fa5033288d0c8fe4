"""The pods of this node, from Calico's endpoint-status files, without the Kubernetes API.

An unusable file is reported as a problem and not a failure; `calico/endpoint_status.py` parses one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.calico.endpoint_status import EndpointStatus, EndpointStatusError, parse_endpoint_status
from exporter.node.files import Folder


@dataclass(frozen=True, slots=True)
class LocalPods:
    """The pods of a source, and one sentence for each file that could not be parsed.

    `parsed` caches each file's pod, or why there is none, by name and content: few change
    between two snapshots.
    """

    pods: tuple[EndpointStatus, ...]
    problems: tuple[str, ...]
    parsed: Mapping[tuple[str, bytes], EndpointStatus | str] = field(default_factory=dict, compare=False)


def pods_of(folder: Folder[bytes], before: LocalPods | None = None) -> LocalPods:
    """The pods that the endpoint-status files in `folder` name; files in `before` are not parsed again."""
    known = before.parsed if before else {}
    parsed = {file: known.get(file) or _pod(*file) for file in folder.files.items()}
    problems = (*folder.problems, *(one for one in parsed.values() if isinstance(one, str)))
    if before and parsed == known and problems == before.problems:
        return before
    pods = tuple(one for one in parsed.values() if isinstance(one, EndpointStatus))
    return LocalPods(pods, problems, parsed)


def _pod(name: str, content: bytes) -> EndpointStatus | str:
    try:
        return parse_endpoint_status(name, content.decode("utf-8", "replace"))
    except EndpointStatusError as error:
        return str(error)
