"""The page at `/`: takes snapshots of the node and keeps recent ones to show what changed.

The thread of scrapes reads the snapshots. The first request waits a second, so that the page can show current drops;
while the page is open, rates cover up to half a minute.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs

from exporter.snapshot.reading import Reading
from exporter.snapshot.snapshot import Snapshot
from exporter.web.scrapes import Scrapes
from exporter.web.transport.messages import Response

if TYPE_CHECKING:
    from exporter.node.endpoints import Endpoint
    from exporter.page.history import History
    from exporter.page.html import Html
    from exporter.page.trace import Evaluated

log = logging.getLogger("exporter.web")

_T = TypeVar("_T")

_FIRST_WAIT = 1.0
# All requests of about a second share one snapshot, and what was rendered of it.
_SHARED = 0.9
_MAX_RENDERED = 16
# The thread of scrapes works for the page a twentieth of the time, or a page each half second: scrapes go before it.
_PAUSE_FACTOR, _MIN_PAUSE, _MAX_PAUSE = 19, 0.05, 0.5
_MIN_INTERVAL = 5.0
_MAX_AGE = 35.0
# Numbers only, for the graphs: so long after the last request.
_HISTORY_AGE = 600.0
_TIMEOUT = 10.0


class Page:
    """The page of `node`. Keeps snapshots of the last half minute, `_MIN_INTERVAL` s apart, while in use, and the
    number of drops of the last ten.

    Methods that take a snapshot run in the worker's thread, the others on the event loop.
    """

    def __init__(self, scrapes: Scrapes, node: str, telemetry_path: str) -> None:
        self._scrapes = scrapes
        self._about = (node, telemetry_path)
        # Oldest first. Replaced, never modified: both threads use it.
        self._snapshots: tuple[Snapshot, ...] = ()
        self._history: History | None = None
        self._started = time.monotonic()
        self._current: Snapshot | None = None
        self._read_at = 0.0
        self._rendered: dict[str, tuple[HTTPStatus, bytes]] = {}
        self._turn, self._next_turn, self._busy = asyncio.Lock(), 0.0, 0.0
        self._expiry: tuple[asyncio.TimerHandle, ...] = ()
        self._evaluating = False

    async def answer(self, query: str) -> Response:
        """The page with these parameters. Raises `ValueError` if there are too many."""
        asked = {name: values[0] for name, values in parse_qs(query, max_num_fields=20).items()}
        try:
            async with asyncio.timeout(_TIMEOUT):
                if await self._query(self._is_first):
                    await asyncio.sleep(_FIRST_WAIT)
                status, body = await self._ask(query, asked)
        except TimeoutError:
            sentence = f"No snapshot of the node completed within {_TIMEOUT:.0f} seconds; the log may say why"
            status, body = HTTPStatus.SERVICE_UNAVAILABLE, self._html.error_page(sentence)
        except Exception as error:  # a bug in the page must not close the connection without a response
            log.exception("unexpected error on the page")
            sentence = f"Unexpected error ({type(error).__name__}), please report it"
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, self._html.error_page(sentence)
        self._renew_expiry()
        return Response(status, body, "text/html; charset=utf-8", self._html.headers)

    async def _query(self, question: Callable[[Snapshot], _T]) -> _T:
        """The answer to `question` about the current snapshot, when it is this request's turn."""
        return await self._in_turn(lambda reading: question(self._snapshot(reading)))

    async def _in_turn(self, question: Callable[[Reading], _T]) -> _T:
        """The answer to `question` by a new reading, after those before it and a pause for scrapes."""
        clock = asyncio.get_running_loop().time

        def work(reading: Reading) -> _T:
            start = time.thread_time()
            try:
                return question(reading)
            finally:
                self._busy = time.thread_time() - start

        async with self._turn:
            await asyncio.sleep(self._next_turn - clock())
            try:
                return await self._scrapes.read(work)
            finally:
                self._next_turn = clock() + min(max(_MIN_PAUSE, _PAUSE_FACTOR * self._busy), _MAX_PAUSE)

    def _snapshot(self, reading: Reading) -> Snapshot:
        from exporter.page.views import PARTS

        if self._current is None or time.monotonic() - self._read_at > _SHARED:
            self._current, self._rendered = None, {}
            self._current, self._read_at = reading.read(PARTS), time.monotonic()
        return self._current

    async def _ask(self, query: str, asked: dict[str, str]) -> tuple[HTTPStatus, bytes]:
        """The page; about a packet, one at a time is evaluated."""
        if not (asked.get("peer") and "interface" in asked):
            return await self._query(lambda now: self._shared_render(now, query, asked))
        if self._evaluating:
            return await self._query(lambda now: self._render(now, asked, is_busy=True))
        self._evaluating = True
        try:
            return await self._in_turn(lambda reading: self._evaluate(reading, asked))
        finally:
            self._evaluating = False

    def _evaluate(self, reading: Reading, asked: dict[str, str]) -> tuple[HTTPStatus, bytes]:
        """The endpoint's page with the answer about a packet. Its snapshot is large, and is not kept."""
        from exporter.page.trace import MAX_SECONDS, TRACE_PARTS, Asked, evaluate
        from exporter.page.views import PARTS, endpoint_named

        now = reading.read(PARTS | TRACE_PARTS)
        if now.counters.error or now.endpoints.error:
            return self._render(now, asked)
        endpoint = endpoint_named(now, asked["interface"])
        if endpoint is None:
            return self._not_found(asked)
        form, start = Asked.of(asked), time.monotonic()
        found = evaluate(now, endpoint, form, reading, lambda: time.monotonic() - start > MAX_SECONDS)
        return self._endpoint(now, endpoint, found)

    @cached_property
    def _html(self) -> "Html":
        from exporter.page.html import Html  # loaded only if the page is used

        return Html(*self._about)

    def _is_first(self, now: Snapshot) -> bool:
        """Whether there is no earlier snapshot; this one is then kept for comparison."""
        oldest = time.monotonic() - _MAX_AGE
        self._snapshots = tuple(one for one in self._snapshots if one.at is not None and one.at > oldest)
        if not self._snapshots:
            self._keep(now)
        return self._snapshots in ((), (now,))

    def _shared_render(self, now: Snapshot, query: str, asked: dict[str, str]) -> tuple[HTTPStatus, bytes]:
        if query not in self._rendered:
            if len(self._rendered) >= _MAX_RENDERED:
                self._rendered.clear()
            self._rendered[query] = self._render(now, asked)
        return self._rendered[query]

    def _render(self, now: Snapshot, asked: dict[str, str], *, is_busy: bool = False) -> tuple[HTTPStatus, bytes]:
        from exporter.page.trace import Asked, busy
        from exporter.page.views import Wanted, endpoint_named, node_view

        if now.counters.error or now.endpoints.error or "interface" not in asked:
            wanted = Wanted.of(asked)
            view = node_view(self._reference(now), now, wanted, self._recorded(now), self._scrapes.failures)
            self._keep(now)
            return HTTPStatus.OK, self._html.node_page(view, wanted)
        endpoint = endpoint_named(now, asked["interface"])
        if endpoint is None:
            return self._not_found(asked)
        found = self._endpoint(now, endpoint, busy(Asked.of(asked)) if is_busy else None)
        self._keep(now)
        return found

    def _endpoint(self, now: Snapshot, endpoint: "Endpoint", found: "Evaluated | None") -> tuple[HTTPStatus, bytes]:
        from exporter.page.views import endpoint_view

        view = endpoint_view(next(iter(self._snapshots), None), now, endpoint, found, self._recorded(now))
        return HTTPStatus.OK, self._html.endpoint_page(view)

    def _not_found(self, asked: dict[str, str]) -> tuple[HTTPStatus, bytes]:
        sentence = f"There is no interface {asked['interface']} on this node now, or nothing knows it"
        return HTTPStatus.NOT_FOUND, self._html.error_page(sentence)

    def _reference(self, now: Snapshot) -> Snapshot | None:
        """The snapshot to compare with: the newest that is some seconds old, else the oldest."""
        kept = tuple(one for one in self._snapshots if one is not now)  # once: the event loop may replace it
        if now.counters.error or not kept:
            return None
        long_ago = [one for one in kept if (now.seconds_since(one) or 0.0) >= _MIN_INTERVAL]
        return long_ago[-1] if long_ago else kept[0]

    def _keep(self, now: Snapshot) -> None:
        kept = self._snapshots
        if not now.counters.error and not (kept and (now.seconds_since(kept[-1]) or 0.0) < _MIN_INTERVAL):
            self._snapshots = (*kept, now)
            if kept:
                self._record(kept[-1], now)

    def _record(self, before: Snapshot, now: Snapshot) -> None:
        from exporter.page.history import History

        # Once: the event loop may forget it.
        history = self._history or History(self._started, time.time() - time.monotonic())
        history.add(before, now)
        self._history = history

    def _recorded(self, now: Snapshot) -> "History | None":
        """The drops of the ten minutes before `now`."""
        history = self._history
        if history and now.at is not None:
            history.forget_before(now.at - _HISTORY_AGE)
        return history

    def _renew_expiry(self) -> None:
        for handle in self._expiry:
            handle.cancel()
        later = asyncio.get_running_loop().call_later
        self._expiry = later(_MAX_AGE, self._forget), later(_HISTORY_AGE, self._forget_history)

    def _forget(self) -> None:
        self._snapshots, self._current, self._rendered = (), None, {}

    def _forget_history(self) -> None:
        self._history = None
