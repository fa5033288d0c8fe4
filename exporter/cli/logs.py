"""Logging: logfmt or JSON on standard error, one line per event."""

import io
import json
import logging
import os
import stat
import sys
from datetime import UTC, datetime
from typing import TextIO


def set_up_logging(level: str, style: str) -> None:
    """Sends every record of `level` and above to standard error in `style`, `logfmt` or `json`."""
    logging.raiseExceptions = False  # a failed write could only be reported to the same stream
    handler = logging.StreamHandler(_unbuffered_stderr())
    handler.setFormatter(_Formatter(as_json=style == "json"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)


def _unbuffered_stderr() -> TextIO:
    # Data that a full disk or closed pipe left in a buffer would fail again at exit, with exit code 120.
    try:
        raw = io.FileIO(_nonblocking(sys.stderr.fileno()), "wb", closefd=False)
    except (AttributeError, OSError):
        return sys.stderr  # closed at start, or replaced by a test
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


def _nonblocking(descriptor: int) -> int:
    """A descriptor of the same file that does not block if it is a pipe whose reader has stopped.

    It is opened separately: the pipe's other writers must not become non-blocking.
    """
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return descriptor  # no reader: writing fails at once


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps(fields)
        # A JSON string is also a quoted logfmt value: line breaks in a malicious name stay escaped.
        return " ".join(f"{key}={_value(value)}" for key, value in fields.items())


def _value(text: str) -> str:
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text)
