"""Parses a JSON array of objects that arrives in pieces, object by object: the whole text is never held."""

import re
from collections.abc import Iterable, Iterator
from json import JSONDecoder
from typing import Any

_BETWEEN = re.compile(r"[\s,\[]*")
_MAX_OBJECT = 1 << 22


def objects_of(pieces: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The objects of the array. Raises ValueError if the text ends before the array does, or is something else."""
    decode, text, at = JSONDecoder().raw_decode, "", 0
    for piece in pieces:
        text, at = text[at:] + piece, 0
        while found := _object_at(decode, text, at):
            at = found[1]
            yield found[0]
        if len(text) - at > _MAX_OBJECT + len(piece):
            raise ValueError(f"an object of more than {_MAX_OBJECT} bytes")
    rest = text[at:].strip()
    if rest not in {"]", "[]"}:
        raise ValueError(f"no array of objects: it ends with {rest[:40]!r}")


def _object_at(decode: Any, text: str, at: int) -> tuple[dict[str, Any], int] | None:
    start = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches anything
    if not text.startswith("{", start):
        return None
    try:
        found: tuple[dict[str, Any], int] = decode(text, start)
    except ValueError:
        return None  # the rest of it comes with the next piece
    except RecursionError as error:
        raise ValueError("an object that is nested too deep") from error
    return found
