"""The layout file: an operator's names for slots that no open-source release of Calico has.

YAML of the form `{when_slots: 15, slots: {14: {category: accepted, reason: egress_gateway}}}`. Anything else is
an error at startup: a wrong name would make a metric wrong permanently.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exporter.calico.counters import ACCEPTED, DROPPED, REDIRECTED, UNKNOWN, Slot, layout_of
from exporter.errors import ExporterError

CATEGORIES = (ACCEPTED, DROPPED, REDIRECTED)
_REASON = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)


class LayoutFileError(ExporterError):
    """The layout file is invalid. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class LayoutFile:
    """Names for slots of maps with exactly `when_slots` slots."""

    when_slots: int
    slots: Mapping[int, Slot]

    def named_for(self, count: int) -> Mapping[int, Slot]:
        """The names for a map with `count` slots: all or none."""
        return self.slots if count == self.when_slots else {}


def parse_layout_file(text: str) -> LayoutFile:
    """The layout file in `text`. Raises `LayoutFileError`."""
    fields = _mapping(_load(text), "the layout file", {"when_slots", "slots"})
    count = _number(fields.get("when_slots"), 1, 1024)
    if count is None:
        raise LayoutFileError("when_slots must be the number of slots of the map, for example 15")
    named = fields.get("slots")
    if not isinstance(named, dict) or not named:
        raise LayoutFileError("slots must map slot numbers to their category and reason")
    slots = {slot.number: slot for slot in (_slot(number, entry, count) for number, entry in named.items())}
    _refuse_collisions(count, slots)
    return LayoutFile(count, slots)


def _load(text: str) -> object:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses duplicate keys, which YAML forbids and PyYAML accepts, taking the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise LayoutFileError(f"the layout file has {key} twice")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506  it is a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise LayoutFileError(f"the layout file is not YAML: {str(error).partition(chr(10))[0]}") from error


def _slot(name: object, entry: object, count: int) -> Slot:
    number = _number(name, 0, count - 1)
    if number is None:
        raise LayoutFileError(f"slot {name!r} is not a number from 0 to {count - 1}")
    if layout_of(count).slots[number].category != UNKNOWN:
        raise LayoutFileError(f"slot {number} of {count} has a known meaning and cannot be renamed")
    fields = _mapping(entry, f"slot {number}", {"category", "reason"})
    category, reason = fields.get("category"), fields.get("reason")
    if category not in CATEGORIES:
        raise LayoutFileError(f"slot {number}: category must be one of {', '.join(CATEGORIES)}")
    if not isinstance(reason, str) or not _REASON.fullmatch(reason):
        raise LayoutFileError(f"slot {number}: reason must be a word of lower-case letters, digits and underscores")
    return Slot(number, category, reason, reason.replace("_", " "))


def _refuse_collisions(count: int, slots: Mapping[int, Slot]) -> None:
    seen: set[tuple[str, str]] = set()
    for slot in layout_of(count, slots).slots:
        name = (slot.category, slot.reason)
        if name in seen:
            raise LayoutFileError(f"slot {slot.number}: another slot is already {slot.category} {slot.reason}")
        seen.add(name)


def _mapping(value: object, what: str, allowed: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LayoutFileError(f"{what} must be a mapping with {' and '.join(sorted(allowed))}")
    unknown = [key for key in value if key not in allowed]
    if unknown:
        raise LayoutFileError(f"{what} has an unknown key: {unknown[0]!r}")
    return value


def _number(value: object, minimum: int, maximum: int) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and isinstance(value, int) and minimum <= value <= maximum else None
