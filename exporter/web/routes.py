"""What is served where: the page at `/`, the metrics, and the two health checks.

Turns requests into responses; knows paths, parameters and headers of HTTP, and asks `scrapes.py` for everything else.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import parse_qs

from exporter.errors import ExporterError
from exporter.metrics.exposition import negotiate
from exporter.privileges import describe_privileges
from exporter.web.access.hosts import Hosts
from exporter.web.node_page import Page
from exporter.web.registry import Rejected
from exporter.web.scrapes import Scrapes, compressed_body
from exporter.web.transport.messages import Request, Response
from exporter.web.transport.places import UNLIMITED, Places

_PROBE_SECONDS = 5
_PAGES, _PAGE_PATIENCE = 4, 1.0


class BadRequest(ExporterError):
    """The client asked for something that does not exist. The message is one sentence."""


@dataclass
class Routes:
    """The handler of all requests. `max_requests` scrapes are worked on at once (0: no limit), others get a 503; the
    page has few places of its own, and waits for scrapes.

    `timeout_offset` seconds are taken off the scrape time-out that Prometheus announces, for the way back. Without a
    `page` nothing is served at `/`. `hosts` are the names that the server may be called by.
    """

    scrapes: Scrapes
    rejected: Rejected
    telemetry_path: str = "/metrics"
    max_requests: int = 40
    timeout_offset: float = 0.5
    page: Page | None = None
    hosts: Hosts | None = None

    def __post_init__(self) -> None:
        self._scrape_places = Places(self.max_requests or UNLIMITED)
        # Who finds no place waits a moment: a refusal at once would only be followed by the next request.
        self._page_places = Places(_PAGES, patience=_PAGE_PATIENCE)

    async def handle(self, request: Request) -> Response:
        """The response to one request."""
        serve = self._route(request.path)
        if serve is None:
            return self._not_found()
        if request.method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, b"GET and HEAD only\n", headers=(("Allow", "GET, HEAD"),))
        return self._misdirected(request) or await serve(request)

    def _misdirected(self, request: Request) -> Response | None:
        """The rejection of a request by a name that is none of this server's."""
        host = request.headers.get("host", "")
        if self.hosts is None or not (request.path == "/" or self.hosts.everywhere) or self.hosts.allow(host):
            return None
        self.rejected.count("host", request.client, f"the server is not called {host!a}")
        sentence = "this server is not known by that name: use its address, or allow the name with --web.allowed-hosts"
        return _sentence(HTTPStatus.MISDIRECTED_REQUEST, sentence)

    def _route(self, path: str) -> Callable[[Request], Awaitable[Response]] | None:
        return {
            "/": self._page,
            self.telemetry_path: self._metrics,
            "/healthz": self._healthy,
            "/readyz": self._ready,
        }.get(path)

    async def _metrics(self, request: Request) -> Response:
        try:
            names = self._selected(request.query)
        except BadRequest as error:
            return _sentence(HTTPStatus.BAD_REQUEST, str(error))
        text_format = negotiate(request.headers.get("accept", ""))
        async with self._scrape_places.taken(request.client) as admitted:
            if not admitted:
                return self._refused(self._scrape_places, request, "requests")
            body, compressed = await self.scrapes.body(
                names, text_format, compress=_accepts_gzip(request), seconds=self._timeout(request)
            )
        headers = [("Vary", "Accept, Accept-Encoding")]
        if compressed:
            headers.append(("Content-Encoding", "gzip"))
        return Response(HTTPStatus.OK, body, text_format.content_type, tuple(headers))

    async def _page(self, request: Request) -> Response:
        if self.page is None:
            return self._not_found()
        async with self._page_places.taken(request.client) as admitted:
            if not admitted:
                return self._refused(self._page_places, request, "requests for the page")
            try:
                response = await self.page.answer(request.query)
            except ValueError:
                return _sentence(HTTPStatus.BAD_REQUEST, "too many parameters")
        if not _accepts_gzip(request):
            return replace(response, headers=(*response.headers, ("Vary", "Accept-Encoding")))
        headers = (*response.headers, ("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip"))
        return replace(response, body=compressed_body(response.body), headers=headers)

    def _not_found(self) -> Response:
        return _sentence(HTTPStatus.NOT_FOUND, f"nothing is served here; metrics are at {self.telemetry_path}")

    def _refused(self, places: Places, request: Request, what: str) -> Response:
        sentence = f"more than {places.number} {what} at once, or three quarters of them from one address; try again"
        self.rejected.count("max_requests", request.client, sentence)
        return replace(_sentence(HTTPStatus.SERVICE_UNAVAILABLE, sentence), headers=(("Retry-After", "1"),))

    def _selected(self, query: str) -> frozenset[str]:
        """The collectors that `collect[]` names, or all but those that `exclude[]` names, as node_exporter does it."""
        try:
            asked = parse_qs(query, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise BadRequest("more than 100 parameters") from None
        collect, exclude = asked.get("collect[]", []), asked.get("exclude[]", [])
        if collect and exclude:
            raise BadRequest("collect[] and exclude[] cannot be combined")
        for name in (*collect, *exclude):
            if name not in self.scrapes.names:
                raise BadRequest(
                    f"there is no enabled collector {name!r}; there are {', '.join(sorted(self.scrapes.names))}"
                )
        return frozenset(collect) if collect else self.scrapes.names - set(exclude)

    def _timeout(self, request: Request) -> float | None:
        try:
            announced = float(request.headers.get("x-prometheus-scrape-timeout-seconds", ""))
        except ValueError:
            return None
        if not 0 < announced < float("inf"):
            return None
        # A scrape time-out at or below the offset leaves no way to keep both; half of it is better than none.
        return announced - self.timeout_offset if announced > self.timeout_offset else announced / 2

    async def _healthy(self, _: Request) -> Response:
        return Response(HTTPStatus.OK, b"ok\n")

    async def _ready(self, _: Request) -> Response:
        if self.scrapes.ready:
            return Response(HTTPStatus.OK, b"ready\n")
        try:
            failures = await asyncio.wait_for(self.scrapes.collect(), _PROBE_SECONDS)
        except TimeoutError:
            return _sentence(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: no snapshot completed in {_PROBE_SECONDS} s")
        if self.scrapes.ready:
            return Response(HTTPStatus.OK, b"ready\n")
        sentences = [f"{name}: {failure}" for name, failure in failures.items() if failure]
        return _sentence(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(["not ready", *sentences, describe_privileges()]))


def _accepts_gzip(request: Request) -> bool:
    for offer in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, quality = offer.partition(";")
        if coding.strip() == "gzip":
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _sentence(status: HTTPStatus, sentence: str) -> Response:
    return Response(status, f"{sentence}\n".encode("utf-8", "backslashreplace"))
