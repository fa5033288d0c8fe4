"""The page at `/`: takes snapshots of the node, and keeps some for a while to show what changed since.

Snapshots are read by the same thread as those of scrapes. Somebody who comes first waits a second, for a page that
cannot tell what is dropped now is of no use; who stays sees up to half a minute.
"""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from exporter.snapshot.snapshot import Snapshot
from exporter.web.connection import Response
from exporter.web.scrapes import Scrapes

if TYPE_CHECKING:
    from exporter.page.html import Html

log = logging.getLogger("exporter.web")

_FIRST_WAIT = 1.0
_APART = 5.0
_KEPT = 35.0
_PATIENCE = 10.0


class Page:
    """Answers for `/` on this `node`. Keeps snapshots of the last half minute, `_APART` s apart, while in use.

    What happens in the worker's thread is in methods that take a snapshot; the others run on the event loop.
    """

    def __init__(self, scrapes: Scrapes, node: str, telemetry_path: str) -> None:
        self._scrapes = scrapes
        self._about = (node, telemetry_path)
        self._made: Html | None = None
        # The oldest first. Never changed in place: one thread may forget them while the other reads.
        self._snapshots: tuple[Snapshot, ...] = ()
        self._forgetting: asyncio.TimerHandle | None = None

    async def answer(self, query: str) -> Response:
        """The page with these parameters. Raises `ValueError` when there are too many of them."""
        from exporter.page.views import PARTS

        asked = {name: values[0] for name, values in parse_qs(query, max_num_fields=20).items()}
        try:
            async with asyncio.timeout(_PATIENCE):
                if await self._scrapes.ask(self._begins, PARTS):
                    await asyncio.sleep(_FIRST_WAIT)
                status, body = await self._scrapes.ask(lambda now: self._written(now, asked), PARTS)
        except TimeoutError:
            sentence = f"No snapshot of the node completed within {_PATIENCE:.0f} seconds; the log may say why"
            status, body = HTTPStatus.SERVICE_UNAVAILABLE, self._html.error_page(sentence)
        except Exception as error:  # the boundary: a page's fault must not cut a connection without a word
            log.exception("the page met an unforeseen error")
            sentence = f"Unforeseen error ({type(error).__name__}), please report it"
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, self._html.error_page(sentence)
        self._forget_later()
        return Response(status, body, "text/html; charset=utf-8", self._html.headers)

    @property
    def _html(self) -> "Html":
        if self._made is None:
            from exporter.page.html import Html  # a node whose page nobody opens does not pay for it

            self._made = Html(*self._about)
        return self._made

    def _begins(self, now: Snapshot) -> bool:
        """Whether nothing is known yet of the time before; then this snapshot is what the next is compared with."""
        oldest = time.monotonic() - _KEPT
        self._snapshots = tuple(one for one in self._snapshots if one.at is not None and one.at > oldest)
        if self._snapshots:
            return False
        self._keep(now)
        return True

    def _written(self, now: Snapshot, asked: dict[str, str]) -> tuple[HTTPStatus, bytes]:
        from exporter.page.views import Wanted, endpoint_named, endpoint_view, node_view

        if now.counters.error or "interface" not in asked:
            wanted = Wanted(asked.get("namespace", ""), asked.get("pod", ""), asked.get("reason", ""))
            view = node_view(self._lately(now), now, wanted)
            self._keep(now)
            return HTTPStatus.OK, self._html.node_page(view, wanted, self._scrapes.failures)
        endpoint = endpoint_named(now, asked["interface"])
        if endpoint is None:
            sentence = f"There is no interface {asked['interface']} on this node now, or nothing knows it"
            return HTTPStatus.NOT_FOUND, self._html.error_page(sentence)
        body = self._html.endpoint_page(endpoint_view(next(iter(self._snapshots), None), now, endpoint))
        self._keep(now)
        return HTTPStatus.OK, body

    def _lately(self, now: Snapshot) -> Snapshot | None:
        """The newest kept snapshot that tells of some seconds, else the oldest."""
        kept = self._snapshots  # once: the event loop may empty it meanwhile
        if now.counters.error or not kept:
            return None
        long_ago = [one for one in kept if (now.seconds_since(one) or 0.0) >= _APART]
        return long_ago[-1] if long_ago else kept[0]

    def _keep(self, now: Snapshot) -> None:
        kept = self._snapshots
        if not now.counters.error and not (kept and (now.seconds_since(kept[-1]) or 0.0) < _APART):
            self._snapshots = (*kept, now)

    def _forget_later(self) -> None:
        if self._forgetting:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(_KEPT, self._forget)

    def _forget(self) -> None:
        self._snapshots = ()
