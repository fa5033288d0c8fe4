"""Calico's endpoint-status files: one per local workload endpoint, naming its pod, interface and addresses.

Written by Felix under `<run dir>/endpoint-status/` (by default from v3.30 on). The file name is
`<orchestrator> <workload id> <endpoint>`, each part percent-encoded; for Kubernetes the workload id is
`<namespace>/<pod>`. The content is JSON with `ifaceName`, `ipv4Nets` and `ipv6Nets`.
"""

import ipaddress
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from exporter.errors import ExporterError

FOLDER = "endpoint-status"
# A recorded one has 122 bytes; one of a pod with a dozen addresses has less than a thousand.
MAX_BYTES = 1 << 16


class EndpointStatusError(ExporterError):
    """A status file from which the interface or its pod cannot be read. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """The workload behind `interface`: its pod, empty for another orchestrator than Kubernetes, and its addresses."""

    interface: str
    namespace: str
    pod: str
    addresses: tuple[str, ...]


def parse_endpoint_status(name: str, text: str) -> EndpointStatus:
    """The status file called `name` with content `text`. Raises `EndpointStatusError`."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EndpointStatusError(f"the endpoint-status file {name!r} is cut off or not JSON") from error
    interface = fields.get("ifaceName") if isinstance(fields, dict) else None
    if not isinstance(interface, str) or not interface or not _is_text(interface):
        raise EndpointStatusError(f"the endpoint-status file {name!r} names no interface")
    namespace, pod = _pod(name)
    addresses = tuple(address for key in ("ipv4Nets", "ipv6Nets") for address in _addresses(fields.get(key)))
    return EndpointStatus(interface, namespace, pod, addresses)


def _pod(name: str) -> tuple[str, str]:
    # A name that is not UTF-8 has surrogates, which cannot be encoded for output.
    printable = name.encode("utf-8", "backslashreplace").decode()
    parts = [unquote(part) for part in printable.split(" ")]
    if len(parts) != 3:
        raise EndpointStatusError(
            f"the endpoint-status file {name!r} is not named <orchestrator> <workload> <endpoint>"
        )
    orchestrator, workload, _ = parts
    namespace, slash, pod = workload.partition("/")
    return (namespace, pod) if orchestrator == "k8s" and slash and namespace and pod else ("", "")


def _addresses(nets: Any) -> list[str]:  # JSON
    found = []
    for net in nets if isinstance(nets, list) else ():
        # A malformed net must not hide the interface's pod.
        with suppress(ValueError):
            if isinstance(net, str):
                found.append(str(ipaddress.ip_interface(net).ip))
    return found


def _is_text(text: str) -> bool:
    # JSON can contain lone surrogates, which cannot be encoded for output and are in no interface name.
    return text.encode("utf-8", "ignore").decode() == text
