"""Builds the exporter's scrapes and HTTP server, and runs them until SIGTERM."""

import logging
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.calico.layout_file import LayoutFileError
from exporter.cli.options import NodeOptions
from exporter.cli.snapshots import node_name, open_source, settings_of
from exporter.event_loop import asyncio
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.scrape import ON_BY_DEFAULT
from exporter.snapshot.parts import MAP_PARTS

if TYPE_CHECKING:
    from exporter.snapshot.memory import Memory
    from exporter.snapshot.reading import Reading
    from exporter.snapshot.source import NodeSource
    from exporter.web.access.handler import Access
    from exporter.web.access.live_config import LiveConfig
    from exporter.web.registry import Rejected
    from exporter.web.routes import Routes
    from exporter.web.scrapes import Scrapes
    from exporter.web.transport.server import Server

# A folder that hangs must not keep the other collectors from being served.
_WARM_UP_SECONDS = 2.0
# Counting takes at most this part of a core by default.
COUNT_SHARE = 0.002
_MIN_COUNT_INTERVAL = 15.0

log = logging.getLogger("exporter.serve")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What to serve and how: HTTP path and limits, collectors and their options."""

    telemetry_path: str = "/metrics"
    max_requests: int = 40
    timeout_offset: float = 0.5
    page: bool = True
    allowed_hosts: Sequence[str] = ()
    exporter_metrics: bool = True
    collectors: Sequence[str] = ON_BY_DEFAULT
    collector_options: CollectorOptions = field(default_factory=CollectorOptions)
    web_config: Path | None = None
    authorization: bool = False
    confined: bool = False
    maps_interval: float | None = None


def serve(node: NodeOptions, listeners: Sequence[socket.socket], options: ServeOptions) -> None:
    """Serves on open listeners until SIGTERM or SIGINT."""
    from exporter.allocator import keep_memory_small
    from exporter.bpf.readers import open_reader
    from exporter.confine import confine
    from exporter.metrics.scrape import make_collectors
    from exporter.privileges import describe_privileges
    from exporter.snapshot.reading import Reading
    from exporter.web.access.hosts import Hosts
    from exporter.web.node_page import Page
    from exporter.web.registry import make_registry
    from exporter.web.routes import Routes
    from exporter.web.scrapes import Scrapes
    from exporter.web.transport.server import Server

    keep_memory_small()
    reader = open_reader(node.reader)
    # Before the first thread and before the first file that only root may read.
    for error in confine(bpftool=reader.name == "bpftool") if options.confined else ():
        log.warning("%s", error)
    live = _live_config(options)
    source, memory = open_source(node, follow=reader)
    memory.map_counts.background = True
    settings = LiveSettings(node, live)
    registry, rejected = make_registry(process=options.exporter_metrics, live=live)
    collectors = make_collectors(options.collectors, options.collector_options)
    scrapes = Scrapes(lambda: Reading(source, settings.now, memory), collectors, registry)
    page = Page(scrapes, node_name(node), options.telemetry_path) if options.page else None
    hosts = Hosts.of({node_name(node), os.uname().nodename}, options.allowed_hosts)
    routes = Routes(
        scrapes, rejected, options.telemetry_path, options.max_requests, options.timeout_offset, page, hosts
    )
    access = _access(routes, rejected, live, node, options)
    log.info("running with privileges: %s", describe_privileges())
    server = Server(
        listeners,
        access.handle,
        tls=live.current_tls if live else lambda: None,
        failed_handshake=partial(rejected.count, "tls_handshake"),
        reread=settings.reread,
        prepare=partial(_prepare, routes, partial(_say_where, listeners, live, source.reader_name)),
    )
    counts = background_counts(options.collectors, lambda: Reading(source, settings.now, memory), source, memory)
    asyncio.run(_run(server, scrapes, counts, options.maps_interval))


def background_counts(
    collectors: Collection[str], reading: Callable[[], "Reading"], source: "NodeSource", memory: "Memory"
) -> list[Callable[[], Iterator[None]]]:
    """What counts maps for these collectors, in slices."""
    from exporter.metrics.conntrack import ConntrackCollector
    from exporter.metrics.maps import MapsCollector

    decoded = ConntrackCollector.name in collectors

    def count_maps() -> Iterator[None]:
        # Connection tracking is read once: its entries are counted while they are decoded, unless they cannot be.
        without = frozenset({"conntrack"}) if decoded and not memory.conntrack_count.error else frozenset[str]()
        return memory.map_counts.count_pinned(source, without)

    found = [count_maps] if MapsCollector.name in collectors else []
    return [*found, lambda: reading().count_conntrack()] if decoded else found


class LiveSettings:
    """The settings of snapshots, reloaded together with the web configuration `live`."""

    def __init__(self, node: NodeOptions, live: "LiveConfig | None") -> None:
        self.now = settings_of(node)
        self._node = node
        self._live = live

    def reread(self) -> None:
        """Reloads the files; keeps the previous settings and logs an error if one is invalid."""
        if self._live:
            self._live.refresh(at_once=True)
        try:
            self.now = settings_of(self._node)
        except LayoutFileError as error:
            log.error("layout file: reload failed, keeping the previous one: %s", error)  # noqa: TRY400  a sentence


def _say_where(listeners: Sequence[socket.socket], live: "LiveConfig | None", reader: str) -> None:
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        scheme = "https" if live and live.tls else "http"
        log.info("listening on %s port %s for %s with reader %s", host, port, scheme, reader)


def _live_config(options: ServeOptions) -> "LiveConfig | None":
    if options.web_config is None:
        return None
    from exporter.web.access.live_config import LiveConfig

    live = LiveConfig(options.web_config, bearer=options.authorization)
    if live.config.users and not live.tls:
        log.warning("passwords cross the network in the clear: %s has no tls_server_config", options.web_config)
    return live


def _access(
    routes: "Routes", rejected: "Rejected", live: "LiveConfig | None", node: NodeOptions, options: ServeOptions
) -> "Access":
    from exporter.web.access.auth_queue import AuthQueue
    from exporter.web.access.handler import Access

    auth_queue = AuthQueue()
    reviews = None
    if options.authorization:
        from exporter.node.api_server import ApiServer
        from exporter.web.access.reviews import Reviews

        reviews = Reviews(ApiServer(node.kubeconfig), auth_queue)
        if not (live and live.tls):
            log.warning("bearer tokens cross the network in the clear: there is no tls_server_config")
    return Access(routes.handle, rejected.count, auth_queue, live, reviews)


async def _run(
    server: "Server", scrapes: "Scrapes", counts: Sequence[Callable[[], Iterator[None]]], interval: float | None
) -> None:
    tasks = [asyncio.create_task(_read_maps_again(scrapes))]
    if counts:
        tasks.append(asyncio.create_task(_count_maps(scrapes, counts, interval)))
    await server.run()
    for task in tasks:
        task.cancel()


async def _count_maps(
    scrapes: "Scrapes", counts: Sequence[Callable[[], Iterator[None]]], interval: float | None
) -> None:
    while True:
        seconds = await scrapes.run_slices(chain.from_iterable(count() for count in counts))
        await asyncio.sleep(interval or count_interval(seconds))


def count_interval(seconds: float) -> float:
    """How long to wait after a count that took so long."""
    return max(_MIN_COUNT_INTERVAL, seconds / COUNT_SHARE)


async def _prepare(routes: "Routes", say_where: Callable[[], None]) -> None:
    # The first scrape of a process imports, parses and builds what later ones find: nobody is to wait for that.
    from exporter.web.transport.messages import Request

    with suppress(TimeoutError):
        async with asyncio.timeout(_WARM_UP_SECONDS):
            for accept in ("text/plain", "application/openmetrics-text"):
                headers = {"accept": accept, "accept-encoding": "gzip"}
                await routes.handle(Request("GET", routes.telemetry_path, "", headers))
    say_where()


async def _read_maps_again(scrapes: "Scrapes") -> None:
    # Of several pinned versions, the live one changes between two snapshots; the first scrape should know it. Without
    # the collectors: some compare a scrape with the one before.
    await asyncio.sleep(1)
    await scrapes.read(lambda reading: reading.read(MAP_PARTS))
