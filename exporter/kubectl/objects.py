"""Reads the fields of Kubernetes objects as kubectl prints them: what is absent, or of another type, is empty."""

from collections.abc import Mapping
from typing import Any

from exporter.kubectl.kubectl import PodName


def name_of(found: Mapping[str, Any]) -> PodName:
    """The name in an object's metadata."""
    return PodName(text_at(found, "metadata", "namespace"), text_at(found, "metadata", "name"))


def text_at(found: Any, *path: str) -> str:
    """The text at this path of an object."""
    value = value_at(found, *path)
    return value if isinstance(value, str) else ""


def objects_at(found: Any, *path: str) -> list[dict[str, Any]]:
    """The objects in the list at this path."""
    value = value_at(found, *path)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def value_at(found: Any, *path: str) -> Any:
    """The value at this path of an object, None if there is none."""
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found
