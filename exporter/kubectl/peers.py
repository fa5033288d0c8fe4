"""Names for the peers in an exporter's `why`: an exporter knows the pods of its own node, the cluster knows all.

Asks with the user's permissions, and only about the addresses that the exporter has no name for. What may not be read,
or is too large, is one sentence, and its addresses stay.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from exporter.kubectl.kubectl import Kubectl, KubectlError
from exporter.kubectl.objects import objects_at

# So many addresses are asked for one by one, which is cheap in a large cluster; for more, all pods are listed.
_MAX_SELECTED, _PARALLEL = 16, 8
_POD = re.compile(r"[^\s/]+/[^\s/]+")
# What an exporter calls an address that it has no name for.
_THIS_NODE, _NODE, _SERVICE, _POD_ELSEWHERE = "this node", "another node", "a service", "a pod of "
_POD_FIELDS = (
    *(".metadata.namespace", ".metadata.name", ".spec.nodeName", ".spec.hostNetwork", ".status.phase"),
    *(".status.podIP", ".status.podIPs[*].ip"),
)
_OWN = r".metadata.annotations.projectcalico\.org/"
_TUNNELS = ("IPv4VXLANTunnelAddr", "IPv6VXLANTunnelAddr", "IPv4IPIPTunnelAddr", "IPv4WireguardInterfaceAddr")
_NODE_FIELDS = (".metadata.name", ".status.addresses[*].address", *(f"{_OWN}{one}" for one in _TUNNELS))
_SERVICE_FIELDS = (
    *(".metadata.namespace", ".metadata.name", ".spec.clusterIPs[*]", ".spec.externalIPs[*]"),
    ".status.loadBalancer.ingress[*].ip",
)


@dataclass(slots=True)
class _Wanted:
    """The addresses to name: of pods or nodes, each with what the exporter calls it, and of services."""

    ends: dict[str, str] = field(default_factory=dict)
    services: set[str] = field(default_factory=set)


def name_peers(kubectl: Kubectl, node: str, found: dict[str, Any]) -> list[str]:
    """Puts the names into the text and the peers of the response of the exporter on this node.

    Returns a sentence for each kind of object that could not be read.
    """
    wanted = _wanted(found)
    names = {address: f"node {node}" for address, said in wanted.ends.items() if said == _THIS_NODE}
    problems: list[str] = []
    for kind, ask in (("pods", _pods), ("services", _services), ("nodes", _nodes)):
        try:
            names |= ask(kubectl, wanted, names)
        except KubectlError as error:
            what = f"you may not list {kind}" if error.reason == "Forbidden" else f"the {kind} could not be listed"
            problems.append(f"some peers have no name: {what} in the whole cluster: {error}")
    _put(found, wanted, names)
    return problems


def _wanted(found: dict[str, Any]) -> _Wanted:
    wanted = _Wanted()
    for one in objects_at(found, "denied_flows"):
        if not one.get("peer_pod"):
            wanted.ends |= _address(one.get("peer"), "")
        wanted.services |= _service_of(one).keys()
    for one in objects_at(found, "packets", "groups"):
        said = str(one.get("peer_name"))
        if one.get("verdict") != "denied":
            continue
        if said == _SERVICE:
            wanted.services |= _address(one.get("peer")).keys()
        elif not _POD.fullmatch(said):
            wanted.ends |= _address(one.get("peer"), said)
        if one.get("backend"):
            wanted.services |= _address(one.get("destination")).keys()
    return wanted


def _address(text: object, said: str = "") -> dict[str, str]:
    """The address in its usual form, with what the exporter calls it; empty if it is none."""
    try:
        return {str(ip_address(text)): said} if isinstance(text, str) and "%" not in text else {}
    except ValueError:
        return {}


def _service_of(flow: Mapping[str, Any]) -> dict[str, str]:
    """The address of the service that was asked for, as in `10.96.0.1:80` or `[fd00::1]:80`."""
    return _address(str(flow.get("service")).rpartition(":")[0].strip("[]"))


def _pods(kubectl: Kubectl, wanted: _Wanted, names: Mapping[str, str]) -> dict[str, str]:
    """The pods with the wanted addresses, and nodes by the pods in their network."""
    asked = [one for one in wanted.ends if one not in names]
    if len(asked) > _MAX_SELECTED:
        return _pods_of(kubectl, asked)
    with ThreadPoolExecutor(_PARALLEL) as threads:
        each = threads.map(lambda one: _pods_of(kubectl, [one], f"--field-selector=status.podIP={one}"), asked)
        found = {address: name for one in each for address, name in one.items()}
    # The selector knows the first address of a pod only.
    missing = [one for one in asked if one not in found and wanted.ends[one].startswith(_POD_ELSEWHERE)]
    return found | (_pods_of(kubectl, missing) if missing else {})


def _pods_of(kubectl: Kubectl, asked: Collection[str], *words: str) -> dict[str, str]:
    names = {}
    for row in kubectl.rows("pods", "--all-namespaces", *words, fields=_POD_FIELDS):
        namespace, name, node, shares, phase, *addresses = row
        if phase not in ("Succeeded", "Failed"):  # whose address may be another's by now
            for one in _known(addresses, asked):
                names[one] = f"node {node}" if shares == "true" else f"{namespace}/{name}"
    return names


def _services(kubectl: Kubectl, wanted: _Wanted, _: Mapping[str, str]) -> dict[str, str]:
    rows = kubectl.rows("services", "--all-namespaces", fields=_SERVICE_FIELDS) if wanted.services else ()
    return {
        one: f"service {namespace}/{name}"
        for namespace, name, *addresses in rows
        for one in _known(addresses, wanted.services)
    }


def _nodes(kubectl: Kubectl, wanted: _Wanted, names: Mapping[str, str]) -> dict[str, str]:
    asked = {one for one, said in wanted.ends.items() if said == _NODE and one not in names}
    rows = kubectl.rows("nodes", fields=_NODE_FIELDS) if asked else ()
    return {one: f"node {name}" for name, *addresses in rows for one in _known(addresses, asked)}


def _known(fields: Iterable[str], asked: Collection[str]) -> set[str]:
    """Those of the addresses in these fields, separated by spaces, that are asked for."""
    return {one for text in fields for each in text.split() for one in _address(each)} & {*asked}


def _put(found: dict[str, Any], wanted: _Wanted, names: Mapping[str, str]) -> None:
    """Puts names into the rows and lines."""
    for one in objects_at(found, "denied_flows"):
        for address in _address(one.get("peer")):
            one["peer_name"] = one.get("peer_pod") or names.get(address, "")
        for address in _service_of(one):
            one["service_name"] = names.get(address, "")
    for one in objects_at(found, "packets", "groups"):
        for name, key in (("peer", "peer_name"), ("destination", "destination_name")):
            for address in _address(one.get(name)):
                one[key] = names.get(address, one.get(key, ""))
    if isinstance(found.get("text"), list):
        found["text"] = [_renamed(str(line), wanted, names) for line in found["text"]]


def _renamed(line: str, wanted: _Wanted, names: Mapping[str, str]) -> str:
    """The line with each address behind its name, in the place of what the exporter called it."""
    for address, name in names.items():
        said = wanted.ends.get(address) or (_SERVICE if address in wanted.services else "")
        own, after = re.escape(address), name.replace("\\", "")  # no name of an object has a backslash
        alone = rf"(?<![\w.:(\[/-]){own}(?![\w/\])]|[.:][\w:])"
        called = rf"{re.escape(said)} \({own}\)|{alone}" if said else alone
        line = re.sub(called, rf"{after} ({address})", line)
        line = re.sub(rf"service (\[?{own}\]?:\d+)", rf"{after} (\1)", line)
    return line
