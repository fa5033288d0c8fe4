"""Renders views as HTML pages, with headers that allow only the page's own style and script.

Jinja escapes every value; `printable` also escapes characters that change the direction of writing. Style and script
are inline and allowed by digest, so that one path serves everything.
"""

import base64
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from exporter import __version__
from exporter.calico.reasons import page_of, reason_of
from exporter.hashes import sha256
from exporter.page.order import COLUMNS
from exporter.page.views import EndpointView, NodeView, Wanted
from exporter.printable import printable
from exporter.quantities import format_duration

_TEMPLATES = Path(__file__).parent / "templates"
_DOCS = "https://github.com/calico-bpf-exporter/calico-bpf-exporter/blob/main/docs"


def _safe(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def per_second(rate: float | None) -> str:
    """A rate with two significant digits below 10, else a whole number; a dash if unknown."""
    if rate is None:
        return "-"
    return "0" if not rate else f"{rate:.2g}" if rate < 10 else f"{rate:,.0f}"


def address(**query: str) -> str:
    """The relative address of the page with these parameters, valid behind any proxy's prefix."""
    return f"?{urlencode({key: value for key, value in query.items() if value}, errors='backslashreplace')}"


def _text(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  our own files


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


class Html:
    """Renders pages; `node` is the node's name, `telemetry_path` the path of its metrics."""

    def __init__(self, node: str, telemetry_path: str) -> None:
        self._style, self._script = _text("page.css"), _text("page.js")
        self._pages = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_safe,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters |= {"per_second": per_second, "duration": format_duration}
        self._pages.globals |= {
            "address": address,
            "columns": COLUMNS,
            "page_of": page_of,
            "reason_of": reason_of,
            "docs": _DOCS,
            "metrics": telemetry_path.removeprefix("/"),
            "node": node,
            "script": self._script,
            "style": self._style,
            "version": __version__,
        }

    @cached_property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of every page."""
        policy = (
            "default-src 'none'",
            f"style-src {_digest(self._style)}",
            f"script-src {_digest(self._script)}",
            "connect-src 'self'",
            "img-src data:",  # an empty icon, or the browser would ask for one
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
        return (
            ("Content-Security-Policy", "; ".join(policy)),
            ("X-Frame-Options", "deny"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        )

    def node_page(self, view: NodeView, wanted: Wanted) -> bytes:
        """The whole node."""
        return self._page("node.html", view=view, wanted=wanted, health=view.health)

    def endpoint_page(self, view: EndpointView) -> bytes:
        """One endpoint."""
        return self._page("endpoint.html", view=view, endpoint=view.endpoint)

    def error_page(self, sentence: str) -> bytes:
        """An error message as a page."""
        return self._page("error.html", sentence=sentence)

    def _page(self, name: str, **values: Any) -> bytes:
        return self._pages.get_template(name).render(**values).encode("utf-8", "replace")
