"""Log lines for machines and people: logfmt or JSON on standard error, one line per event."""

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
    logging.raiseExceptions = False  # what cannot be written cannot be complained of there either
    handler = logging.StreamHandler(_unbuffered_errors())
    handler.setFormatter(_Formatter(as_json=style == "json"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("httpx2", "httpcore2", "pyroute2"):  # a line for every request, and more below
        logging.getLogger(library).setLevel(logging.WARNING)


def _unbuffered_errors() -> TextIO:
    # What a full disk or a closed pipe left in a buffer would fail once more at the end, and make the exit code 120.
    try:
        raw = io.FileIO(_never_waiting(sys.stderr.fileno()), "wb", closefd=False)
    except (AttributeError, OSError):
        return sys.stderr  # closed from the start, or a test's
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


def _never_waiting(descriptor: int) -> int:
    """One for the same file that is not waited for where it is a pipe: who reads it may have stopped.

    Of its own, so that the others who write to that pipe find it as they left it.
    """
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return descriptor  # nobody reads it: writing fails at once


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
        # A JSON string is also a quoted logfmt value: line breaks in a hostile name stay inside it.
        return " ".join(f"{key}={_value(value)}" for key, value in fields.items())


def _value(text: str) -> str:
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text)
