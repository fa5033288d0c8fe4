"""The API's objects that are about pods: the few fields that are used, everything else is ignored.

Values come decoded from JSON and may be anything. Null means absent: Go encodes empty lists as null.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.node.json_stream import MalformedError
from exporter.node.pods import ClusterPod

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class PodObject:
    """A pod or a bookmark: its uid, its resource version, and the pod, None for one without an interface here."""

    uid: str
    version: str
    pod: ClusterPod | None


def parse_pod(value: Any, node: str) -> PodObject:  # JSON
    """The pod in an object, as the node of this name sees it. Raises `MalformedError` for what is no pod."""
    metadata, spec, status = (_object(value, name) for name in ("metadata", "spec", "status"))
    if not metadata:
        raise MalformedError("it has no metadata")
    phase, place = _text(status, "phase"), _text(spec, "nodeName")
    elsewhere = _flag(spec, "hostNetwork") or phase in _ENDED or place not in ("", node)
    pod = _pod(metadata, status)
    return PodObject(_text(metadata, "uid"), resource_version(value), None if elsewhere else pod)


def resource_version(value: Any) -> str:  # JSON
    """The version of an object or of a list, empty without one. Raises `MalformedError`."""
    return _text(_object(value, "metadata"), "resourceVersion")


def parse_status(value: Any) -> tuple[int, str]:  # JSON
    """Code and message of a `Status`, 0 and empty where it has none. Raises `MalformedError`."""
    code = value.get("code") if isinstance(value, dict) else None
    number = int(code) if isinstance(code, float) and 0 <= code < 1000 else 0
    return number, _text(value if isinstance(value, dict) else {}, "message")


def parse_event(value: Any) -> tuple[str, Any]:  # JSON
    """Type and object of a watch event. Raises `MalformedError`."""
    kind = _text(value, "type") if isinstance(value, dict) else ""
    if not kind or "object" not in value:
        raise MalformedError("it is no watch event")
    return kind, value["object"]


def _pod(metadata: dict[str, Any], status: dict[str, Any]) -> ClusterPod:
    owners = [one for one in _objects(metadata, "ownerReferences") if _flag(one, "controller")]
    addresses = [_text(one, "ip") for one in _objects(status, "podIPs")] or [_text(status, "podIP")]
    return ClusterPod(
        _text(metadata, "namespace"),
        _text(metadata, "name"),
        tuple(filter(None, dict.fromkeys(addresses))),
        _text(owners[0], "kind") if owners else "",
        _text(owners[0], "name") if owners else "",
    )


def _object(value: Any, name: str) -> dict[str, Any]:  # JSON
    found = value.get(name) if isinstance(value, dict) else value
    if found is None:
        return {}
    if not isinstance(found, dict) or not isinstance(value, dict):
        raise MalformedError(f"its {name} is no object")
    return found


def _objects(value: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    found = value.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise MalformedError(f"its {name} is no list of objects")
    yield from found


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str) or not (found.isascii() or _is_unicode(found)):
        raise MalformedError(f"its {name} is no text")
    return found


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _flag(value: dict[str, Any], name: str) -> bool:
    found = value.get(name)
    if not isinstance(found, bool | None):
        raise MalformedError(f"its {name} is neither true nor false")
    return bool(found)
