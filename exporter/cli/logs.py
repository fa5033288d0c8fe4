"""Log lines for machines and people: logfmt or JSON on standard error, one line per event."""

import json
import logging
import sys
from datetime import UTC, datetime


def set_up_logging(level: str, style: str) -> None:
    """Sends every record of `level` and above to standard error in `style`, `logfmt` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(as_json=style == "json"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("httpx2", "httpcore2", "pyroute2"):  # a line for every request, and more below
        logging.getLogger(library).setLevel(logging.WARNING)


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
