"""What decoders may meet: any JSON, and a right document in which anything anywhere is something else or missing."""

import json

from hypothesis import strategies as st

_LEAVES = (
    st.none() | st.booleans() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([10**400, -(10**400), 2**64, -1, "\0\n\x1b[2J", ""])
)  # fmt: skip
# Python writes and reads these as JSON; others may refuse them.
_ODD = st.sampled_from(["\ud800", float("inf"), float("-inf"), float("nan")])


def _nested(leaves):
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


STRICT = _nested(_LEAVES)
ANYTHING = _nested(_LEAVES | _ODD)
# What no JSON decoder makes a document of.
BROKEN = st.binary() | st.sampled_from(
    [b"", b"[" * 100_000, b"9" * 5000, b'"\xff"', b'"\\ud800"', b"{}{}", b"\xef\xbb\xbf{}"]
)


def _places(document, path=()):
    yield path
    if isinstance(document, dict):
        for name, value in document.items():
            yield from _places(value, (*path, name))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from _places(value, (*path, number))


def _with(document, path, value):
    if not path:
        return value
    made = document.copy()
    made[path[0]] = _with(document[path[0]], path[1:], value)
    return made


def _without(document, path):
    if len(path) > 1:
        return _with(document, path[:1], _without(document[path[0]], path[1:]))
    made = document.copy()
    del made[path[0]]
    return made


@st.composite
def changed(draw, document, most=2, anything=ANYTHING):
    """The document with up to `most` changes."""
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(list(_places(document))))
        less = path and draw(st.booleans())
        document = _without(document, path) if less else _with(document, path, draw(anything))
    return document


def encoded(document):
    """The changed document as JSON bytes, or bytes that are no JSON."""
    return changed(document).map(lambda one: json.dumps(one).encode()) | BROKEN
