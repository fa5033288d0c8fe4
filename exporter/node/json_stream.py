"""Decodes a large JSON object while it arrives: of its list `items`, one item at a time is in memory.

Knows JSON, but not what the object is. A list of pods is some 10 kB for each pod, of which 200 bytes are read.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_DELIMITERS = frozenset(" \t\n\r,:]}")
# No integer of an object is used as one, and one of thousands of digits would be an error.
_DECODER = json.JSONDecoder(parse_int=float)


class MalformedError(ValueError):
    """JSON that is not what it should be. The message is a clause."""


def decode(document: bytes) -> Any:  # JSON
    """The value of a whole document. Raises ValueError and RecursionError."""
    return _DECODER.decode(document.decode("utf-8"))


def members(pieces: Iterable[bytes], max_value: int) -> Iterator[tuple[str, Any]]:
    """Yields name and value of each member of the JSON object in `pieces`; `items` once for each of its items.

    Raises ValueError for anything else and for a value of more than `max_value` characters, and RecursionError.
    """
    text = _Text(pieces, max_value)
    for name in text.names():
        if name != "items" or text.next() != "[":
            yield name, text.value()
            continue
        for _ in text.places("[", "]"):
            yield name, text.value()
    if text.next():
        raise MalformedError("something follows the object")


class _Text:
    """The text that has arrived and is not decoded yet."""

    def __init__(self, pieces: Iterable[bytes], max_value: int) -> None:
        self._pieces = iter(pieces)
        self._max_value = max_value
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._ended = False

    def names(self) -> Iterator[str]:
        """Yields the names of the members of an object; the caller takes each value."""
        for _ in self.places("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise MalformedError("a member has no name")
            self._take(":")
            yield name

    def places(self, opening: str, closing: str) -> Iterator[None]:
        """Yields before each element between two brackets; the caller takes the element."""
        self._take(opening)
        if self.next() != closing:
            yield
            while self.next() == ",":
                self._take(",")
                yield
        self._take(closing)

    def next(self) -> str:
        """The next character that is no white space, empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches everywhere
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read(1)

    def value(self) -> Any:  # JSON
        """Decodes the next value."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError:
                if self._ended:
                    raise
            else:
                # Anything else may be the rest of a number.
                if self._ended or self._text[end : end + 1] in _DELIMITERS:
                    self._at = end
                    return value
            # Twice as much each time, or a large value that arrives in small pieces would take quadratic time.
            self._read(2 * (len(self._text) - self._at))

    def _take(self, character: str) -> None:
        if self.next() != character:
            raise MalformedError(f"{character} is missing")
        self._at += 1

    def _read(self, wanted: int) -> None:
        """Reads until `wanted` characters are there, or all."""
        parts = [self._text[self._at :]]
        there = len(parts[0])
        while there < wanted and not self._ended:
            piece = next(self._pieces, None)
            self._ended = piece is None
            parts.append(self._utf8.decode(piece or b"", final=self._ended))
            there += len(parts[-1])
        if there > self._max_value and wanted > self._max_value:
            raise MalformedError(f"a value is longer than {self._max_value >> 20} MiB")
        self._text, self._at = "".join(parts), 0
