"""Typed access to the fields of a YAML mapping, with errors that name the line.

Works on nodes instead of loaded values: a loader has no lines, ignores duplicate keys and converts `on` and `0123`.
Knows no field by name.
"""

from typing import NoReturn

import yaml

from exporter.errors import ExporterError


class FieldError(ExporterError):
    """A field is invalid. The message is one sentence that begins with the line."""


class Fields:
    """A mapping called `name` in errors. A null value counts as absent."""

    def __init__(self, name: str, node: yaml.Node | None) -> None:
        self._name = name
        self._nodes: dict[str, yaml.Node] = {}
        self._lines: dict[str, int] = {}
        self._taken: set[str] = set()
        if node is None or _is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            raise FieldError(f"line {_line(node)}: {name or 'the file'} must be a mapping of names to values")
        for key, value in node.value:
            if not _is_text(key):
                raise FieldError(f"line {_line(key)}: a name must be a string")
            if key.value in self._nodes:
                raise FieldError(f"line {_line(key)}: {self._path(key.value)} is defined twice")
            self._nodes[key.value], self._lines[key.value] = value, _line(key)

    def names(self) -> list[str]:
        """All names in order, null or not."""
        return list(self._nodes)

    def given(self, *names: str) -> list[str]:
        """Those of these fields that are set."""
        return [name for name in names if name in self._nodes and not _is_null(self._nodes[name])]

    def fields(self, name: str) -> "Fields":
        """The mapping `name`, empty if absent."""
        node = self._take(name)
        if node is not None and not isinstance(node, yaml.MappingNode):
            self.refuse(name, "must be a mapping of names to values, each with a space after its colon")
        return Fields(self._path(name), node)

    def text(self, name: str) -> str | None:
        """The string `name`, as written."""
        node = self._take(name)
        if node is None:
            return None
        if not _is_text(node):
            self.refuse(name, "must be a string")
        return str(node.value)

    def boolean(self, name: str, *, default: bool) -> bool:
        """The boolean `name`."""
        node = self._take(name)
        if node is None:
            return default
        if node.tag != "tag:yaml.org,2002:bool":
            self.refuse(name, "must be true or false")
        return str(node.value).lower() in ("true", "yes", "on")

    def text_list(self, name: str) -> list[str] | None:
        """The list of strings `name`; None if absent."""
        node = self._take(name)
        if node is None:
            return None
        if not isinstance(node, yaml.SequenceNode) or not all(map(_is_text, node.value)):
            self.refuse(name, "must be a list of strings")
        return [str(one.value) for one in node.value]

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raises a `FieldError` about a field that is set."""
        raise FieldError(f"line {self._lines[name]}: {self._path(name)} {why}")

    def end(self) -> None:
        """Raises a `FieldError` if there is an unknown field."""
        for name in self._nodes:
            if name not in self._taken:
                self.refuse(name, "is not a known field")

    def _take(self, name: str) -> yaml.Node | None:
        self._taken.add(name)
        node = self._nodes.get(name)
        return None if node is None or _is_null(node) else node

    def _path(self, name: str) -> str:
        shown = name if name.isprintable() else ascii(name)
        return f"{self._name}.{shown}" if self._name else shown


def _is_text(node: yaml.Node) -> bool:
    # YAML's escapes can contain lone surrogates, which cannot be encoded.
    return isinstance(node, yaml.ScalarNode) and not any("\ud800" <= one <= "\udfff" for one in node.value)


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
