"""The two ends of a traced packet: a pod, a service or an address, with the node that knows it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from exporter.kubectl.kubectl import Kubectl, KubectlError, PodName
from exporter.kubectl.objects import name_of, objects_at, text_at, value_at
from exporter.kubectl.targets import NoTarget, pod_named, refuse_ended, split_name

_SERVICES = ("svc", "service", "services")


@dataclass(frozen=True, slots=True)
class End:
    """An end: how the user sees it, its addresses, and where it is.

    `node` is empty if no node of the cluster is known to have it, `problem` is then why the pods could not be searched;
    `pod` is None for what has no interface of its own there. `ports` are a service's: number and protocol.
    """

    title: str
    addresses: tuple[str, ...]
    node: str = ""
    pod: PodName | None = None
    ports: tuple[tuple[int, str], ...] = ()
    problem: str = ""

    def address(self, family: int) -> str:
        """Its address of an IP family. Raises `NoTarget`."""
        found = next((one for one in self.addresses if ip_address(one).version == family), "")
        if not found:
            raise NoTarget(f"{self.title} has no IPv{family} address")
        return found


def end_of(kubectl: Kubectl, wanted: str, namespace: str | None) -> End:
    """The end that the user names: [NAMESPACE/]NAME of a pod, svc/[NAMESPACE/]NAME, or an address.

    Raises `NoTarget` or `KubectlError`.
    """
    if _is_address(wanted):
        return ends_at(kubectl, [wanted])[wanted]
    kind, slash, rest = wanted.partition("/")
    if slash and kind in _SERVICES:
        return _service(kubectl, rest, namespace)
    pod = pod_named(kubectl, wanted, namespace)
    refuse_ended(pod)
    end = _end_of_pod(pod)
    if not end.node or not end.addresses:
        raise NoTarget(f"pod {end.title} has no node or no address yet")
    return end


def ends_at(kubectl: Kubectl, addresses: Iterable[str]) -> dict[str, End]:
    """The end with each of these addresses, as far as the cluster's pods tell. Raises `KubectlError`."""
    try:
        found = kubectl.get("pods", "--all-namespaces")
    except KubectlError as error:
        if error.reason != "Forbidden":
            raise
        problem = f"you may not list pods in all namespaces: {error}"
        return {one: replace(_with_address(one, None), problem=problem) for one in addresses}
    pods = [_end_of_pod(one) for one in objects_at(found, "items") if _is_running(one)]
    by_address = {ip_address(address): pod for pod in pods for address in pod.addresses}
    return {one: _with_address(one, by_address.get(ip_address(one))) for one in addresses}


def _with_address(address: str, pod: End | None) -> End:
    address = str(ip_address(address))
    if pod is None:
        return End(address, (address,))
    return End(pod.title if pod.pod else address, (address,), pod.node, pod.pod)


def _is_running(pod: Any) -> bool:
    """Whether its address is still its own."""
    return bool(text_at(pod, "spec", "nodeName")) and text_at(pod, "status", "phase") not in ("Succeeded", "Failed")


def _end_of_pod(pod: Mapping[str, Any]) -> End:
    name = name_of(pod)
    addresses = [text_at(one, "ip") for one in objects_at(pod, "status", "podIPs")] or [text_at(pod, "status", "podIP")]
    own = None if value_at(pod, "spec", "hostNetwork") else name
    return End(str(name), tuple(filter(_is_address, addresses)), text_at(pod, "spec", "nodeName"), own)


def _service(kubectl: Kubectl, wanted: str, namespace: str | None) -> End:
    namespace, name = split_name(wanted, namespace)
    service = kubectl.get(f"service/{name}", *([f"--namespace={namespace}"] if namespace else []))
    rows = value_at(service, "spec", "clusterIPs")
    listed = [str(one) for one in rows] if isinstance(rows, list) else [text_at(service, "spec", "clusterIP")]
    addresses = tuple(filter(_is_address, listed))
    if not addresses:
        raise NoTarget(f"service {name_of(service)} has no address of its own (headless): name one of its pods")
    pairs = [
        (value_at(one, "port"), (text_at(one, "protocol") or "TCP").lower())
        for one in objects_at(service, "spec", "ports")
    ]
    return End(f"svc/{name_of(service)}", addresses, ports=tuple(one for one in pairs if isinstance(one[0], int)))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text
