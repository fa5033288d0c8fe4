"""The fields of a YAML mapping, taken one by one by those who know their kinds; a sentence with its line for the rest.

Works on YAML's nodes and not on loaded values, for the lines, and because a loader drops what stands twice and turns
`on` and `0123` into something else. Knows no field by name.
"""

from typing import NoReturn

import yaml

from exporter.errors import ExporterError


class FieldError(ExporterError):
    """A field is not what it must be. The message is one sentence that begins with the line."""


class Fields:
    """A mapping called `name` in sentences. What is null counts as not there."""

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
                raise FieldError(f"line {_line(key)}: a name must be plain text")
            if key.value in self._nodes:
                raise FieldError(f"line {_line(key)}: {self._path(key.value)} is there twice")
            self._nodes[key.value], self._lines[key.value] = value, _line(key)

    def names(self) -> list[str]:
        """All names of the mapping, in the order of the file, null or not."""
        return list(self._nodes)

    def given(self, *names: str) -> list[str]:
        """Those of these fields that are there."""
        return [name for name in names if name in self._nodes and not _is_null(self._nodes[name])]

    def fields(self, name: str) -> "Fields":
        """The mapping of this name, empty when it is not there."""
        node = self._take(name)
        if node is not None and not isinstance(node, yaml.MappingNode):
            self.refuse(name, "must be a mapping of names to values, each with a space after its colon")
        return Fields(self._path(name), node)

    def text(self, name: str) -> str | None:
        """The text of this name, as it is written."""
        node = self._take(name)
        if node is None:
            return None
        if not _is_text(node):
            self.refuse(name, "must be text")
        return str(node.value)

    def truth(self, name: str, *, default: bool) -> bool:
        """The truth value of this name."""
        node = self._take(name)
        if node is None:
            return default
        if node.tag != "tag:yaml.org,2002:bool":
            self.refuse(name, "must be true or false")
        return str(node.value).lower() in ("true", "yes", "on")

    def texts(self, name: str) -> list[str] | None:
        """The list of texts of this name; an empty list is not the same as none."""
        node = self._take(name)
        if node is None:
            return None
        if not isinstance(node, yaml.SequenceNode) or not all(map(_is_text, node.value)):
            self.refuse(name, "must be a list of texts")
        return [str(one.value) for one in node.value]

    def refuse(self, name: str, why: str) -> NoReturn:
        """Raises a `FieldError` about a field that is there."""
        raise FieldError(f"line {self._lines[name]}: {self._path(name)} {why}")

    def end(self) -> None:
        """Refuses what nobody took."""
        for name in self._nodes:
            if name not in self._taken:
                self.refuse(name, "is no field of this file")

    def _take(self, name: str) -> yaml.Node | None:
        self._taken.add(name)
        node = self._nodes.get(name)
        return None if node is None or _is_null(node) else node

    def _path(self, name: str) -> str:
        shown = name if name.isprintable() else ascii(name)
        return f"{self._name}.{shown}" if self._name else shown


def _is_text(node: yaml.Node) -> bool:
    # YAML's escapes can spell halves of characters, which no file, password or header can hold.
    return isinstance(node, yaml.ScalarNode) and not any("\ud800" <= one <= "\udfff" for one in node.value)


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
