"""Streams the JSON of a policy debug file: its instructions one by one, and its other fields.

`bpf.PolicyDebugInfo` in felix/bpf: `{ifacename, hook, policyInfo: [{inst, labels, comments, annotation}], error}`, with
absent fields left out. `policy_comments.py` parses the comments.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.errors import ExporterError

# A recorded file has 2 kB for each rule: this is enough for 7000 rules on one interface.
MAX_BYTES = 16 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class PolicyDebugError(ExporterError):
    """A file that is cut off, still being written, or no policy debug file. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One BPF instruction of 8 bytes and Felix's notes on it."""

    code: bytes
    labels: tuple[str, ...]
    comments: tuple[str, ...]
    annotation: str


class PolicyFile:
    """A file with this content, parsed an instruction at a time: as one value it would need twelve times its size
    in memory. Raises `PolicyDebugError` where it is incomplete.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content.decode("utf-8", "replace")
        self._offset = 0
        self._fields: dict[str, Any] = {}

    def instructions(self) -> Iterator[Instruction]:
        """Yields the instructions in order; call it once."""
        self._expect("{")
        while not self._skip("}"):
            key = self._value()
            self._expect(":")
            if key == "policyInfo" and self._skip("["):
                yield from self._elements()
            else:
                self._fields[str(key)] = self._value()
            if not self._skip(","):
                self._expect("}")
                break
        self._offset = self._after_space()
        if self._offset != len(self._content):
            raise PolicyDebugError("something follows its end")

    def text(self, key: str) -> str:
        """The text field `key`, empty where there is none; call it after `instructions`."""
        value = self._fields.get(key) or ""
        if not isinstance(value, str):
            raise PolicyDebugError(f"its field {key} is no text")
        return value

    def _elements(self) -> Iterator[Instruction]:
        if self._skip("]"):
            return
        while True:
            yield _instruction(self._value())
            if not self._skip(","):
                break
        self._expect("]")

    def _value(self) -> Any:  # JSON
        try:
            value, self._offset = _DECODER.raw_decode(self._content, self._after_space())
        except (ValueError, RecursionError) as error:
            raise PolicyDebugError("it is cut off, still being written or not JSON") from error
        return value

    def _after_space(self) -> int:
        match = _SPACE.match(self._content, self._offset)
        return match.end() if match else self._offset

    def _skip(self, mark: str) -> bool:
        offset = self._after_space()
        found = self._content.startswith(mark, offset)
        self._offset = offset + found
        return found

    def _expect(self, mark: str) -> None:
        if not self._skip(mark):
            raise PolicyDebugError("it is cut off, still being written or not JSON")


def _instruction(element: Any) -> Instruction:  # JSON
    if not isinstance(element, dict):
        raise PolicyDebugError("one of its instructions is no object")
    try:
        inst = element["inst"]
        code = base64.b64decode(inst, validate=True) if isinstance(inst, str) else bytes([*inst])
        labels, comments = tuple(element.get("labels") or ()), tuple(element.get("comments") or ())
        annotation = element.get("annotation") or ""
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyDebugError("one of its instructions has not the shape of one") from error
    if len(code) != 8 or not all(isinstance(one, str) for one in (*labels, *comments, annotation)):
        raise PolicyDebugError("one of its instructions has not the shape of one")
    return Instruction(code, labels, tuple(map(_writable, comments)), annotation)


def _writable(text: str) -> str:
    # JSON can contain lone surrogates, which cannot be encoded for output: they are escaped.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
