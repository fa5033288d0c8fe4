"""Reads samples back from their lines: the label values and the value of each, for tests that ask what was written."""

import re

_LABEL = re.compile(r'[a-z_]+="((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)|%%", re.DOTALL)


def rows_of(samples):
    """(label values, value) of each sample, values as they went in and not as text."""
    lines = "".join(samples.pieces).split("\n")[:-1]
    return [(_labels(line), value) for line, value in zip(lines, samples.values, strict=True)]


def _labels(line):
    return tuple(_ESCAPE.sub(_unescaped, value) for value in _LABEL.findall(line))


def _unescaped(match):
    return "%" if match[1] is None else {"n": "\n"}.get(match[1], match[1])
