"""`serve`: builds the exporter's scrapes and HTTP server and runs them until SIGTERM."""

import asyncio
import logging
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.calico.layout_file import LayoutFileError
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.snapshots import node_name, open_source, settings_of
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.counters import ZEROS
from exporter.metrics.rule_hits import DETAILS
from exporter.metrics.rule_hits import ZEROS as RULES_ZEROS
from exporter.metrics.scrape import COLLECTOR_NAMES, COLLECTORS, ON_BY_DEFAULT

if TYPE_CHECKING:
    from exporter.web.access import Access
    from exporter.web.live_config import LiveConfig
    from exporter.web.registry import Rejected
    from exporter.web.routes import Routes
    from exporter.web.scrapes import Scrapes
    from exporter.web.server import Server

# A folder that hangs must not keep the other collectors from being served.
_WARM_UP_SECONDS = 2.0
# Counting takes at most this part of a core by default.
COUNT_SHARE = 0.002
_MIN_COUNT_INTERVAL = 15.0
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)

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


def _collector_flags(command: Any) -> Any:
    for one in reversed(COLLECTORS):
        command = flag(f"collector.{one.name}", one.about, command="serve", switch=True, default=None)(command)
    return command


@click.command("serve", short_help="Serve the metrics over HTTP until SIGTERM.")
@flag(
    "web.listen-address",
    "Address to listen on, HOST:PORT (can be repeated).",
    command="serve",
    multiple=True,
    default=(":10042",),
)
@flag(
    "web.config.file",
    "Path to the web configuration file (TLS, users, headers, rate limit).",
    command="serve",
    type=click.Path(path_type=Path),
)
@flag("web.telemetry-path", "Path under which to expose metrics.", command="serve", default="/metrics")
@flag(
    "web.max-requests",
    "Maximum concurrent requests (0 = unlimited).",
    command="serve",
    type=click.IntRange(0),
    default=40,
)
@flag(
    "web.timeout-offset",
    "Offset subtracted from Prometheus's scrape timeout, in seconds.",
    command="serve",
    type=click.FloatRange(0),
    default=0.5,
)
@flag("web.page", "Serve a page about this node at /.", command="serve", switch=True, default=True)
@flag(
    "web.allowed-hosts",
    "Name of this server in requests, besides its addresses, localhost and the node's names; if given, metrics and "
    "health checks require one of them too, as the page always does (can be repeated).",
    command="serve",
    multiple=True,
)
@flag("web.disable-exporter-metrics", "Exclude process_* and python_* metrics.", command="serve", is_flag=True)
@flag(
    "collector.counters.zeros",
    "Which zero-valued series to expose (core = those worth an alert).",
    command="serve",
    type=click.Choice(ZEROS),
    default="core",
)
@flag(
    "collector.counters.namespaces",
    "Namespace whose pods have series; all if not given (can be repeated).",
    command="serve",
    multiple=True,
)
@flag(
    "collector.counters.exclude-namespaces",
    "Namespace whose pods have no series (can be repeated).",
    command="serve",
    multiple=True,
)
@flag(
    "collector.rules.zeros",
    "Which zero-valued series of rules to expose (core = deny rules and tier ends).",
    command="serve",
    type=click.Choice(RULES_ZEROS),
    default="core",
)
@flag(
    "collector.rules.detail",
    "Expose a series for each rule, or one for each policy and action.",
    command="serve",
    type=click.Choice(DETAILS),
    default="rule",
)
@flag("collector.rules.unattributed", "Add a series for each rule ID in no policy file.", command="serve", is_flag=True)
@flag(
    "collector.maps.interval",
    "Seconds between counts of maps (default: as long as keeps counting below 0.2 % of a core).",
    command="serve",
    type=click.FloatRange(1),
    default=None,
)
@flag("collector.disable-defaults", "Disable all collectors by default.", command="serve", is_flag=True)
@_collector_flags
@flag("kubernetes.authorization", "Authorize bearer tokens through the API server.", command="serve", is_flag=True)
@flag("kubernetes.workload-labels", "Add a series with the owner of each pod.", command="serve", is_flag=True)
@flag(
    "security.drop-capabilities",
    "Drop root, capabilities and bpf(2) write commands before serving.",
    command="serve",
    switch=True,
    default=True,
)
@node_options(bundles=0)
def command(node: NodeOptions, web_listen_address: tuple[str, ...], web_telemetry_path: str, **given: Any) -> None:
    """Serve the metrics over HTTP until SIGTERM."""
    from exporter.web.server import open_listener

    if not _PATH.fullmatch(web_telemetry_path) or web_telemetry_path in ("/healthz", "/readyz"):
        raise click.UsageError(
            f"--web.telemetry-path {web_telemetry_path!r} must begin with / and not be /, /healthz or /readyz"
        )
    for name in ("web.timeout-offset", "collector.maps.interval"):
        if not math.isfinite(given[name.translate(str.maketrans(".-", "__"))] or 0):
            raise click.UsageError(f"--{name} must be a number of seconds")
    options = ServeOptions(
        telemetry_path=web_telemetry_path,
        max_requests=given["web_max_requests"],
        timeout_offset=given["web_timeout_offset"],
        page=given["web_page"],
        allowed_hosts=given["web_allowed_hosts"],
        exporter_metrics=not given["web_disable_exporter_metrics"],
        collectors=enabled_collectors(given),
        collector_options=collector_options(given),
        web_config=given["web_config_file"] if given["web_config_file"] != Path() else None,  # empty is none
        authorization=given["kubernetes_authorization"],
        confined=given["security_drop_capabilities"],
        maps_interval=given["collector_maps_interval"],
    )
    if not options.collectors:
        raise click.UsageError("every collector is switched off")
    listeners = [open_listener(address) for address in web_listen_address]
    serve(node, listeners, options)


def collector_options(given: dict[str, Any]) -> CollectorOptions:
    """What the flags say about the collectors' samples."""
    return CollectorOptions(
        zeros=given["collector_counters_zeros"],
        rules_zeros=given["collector_rules_zeros"],
        rules_detail=given["collector_rules_detail"],
        unattributed=given["collector_rules_unattributed"],
        workloads=given["kubernetes_workload_labels"],
        namespaces=frozenset(given["collector_counters_namespaces"]),
        exclude_namespaces=frozenset(given["collector_counters_exclude_namespaces"]),
    )


def enabled_collectors(given: dict[str, Any]) -> list[str]:
    """The enabled collectors: each by its flag, else by default."""
    default = () if given["collector_disable_defaults"] else ON_BY_DEFAULT
    chosen = {name: given[f"collector_{name}"] for name in COLLECTOR_NAMES}
    return [name for name, enabled in chosen.items() if (name in default if enabled is None else enabled)]


def serve(node: NodeOptions, listeners: Sequence[socket.socket], options: ServeOptions) -> None:
    """Serves on open listeners until SIGTERM or SIGINT."""
    from exporter.allocator import keep_memory_small
    from exporter.bpf.readers import open_reader
    from exporter.confine import confine
    from exporter.metrics.conntrack import ConntrackCollector
    from exporter.metrics.maps import MapsCollector
    from exporter.metrics.scrape import make_collectors
    from exporter.privileges import describe_privileges
    from exporter.snapshot.reading import Reading
    from exporter.web.hosts import Hosts
    from exporter.web.node_page import Page
    from exporter.web.registry import make_registry
    from exporter.web.routes import Routes
    from exporter.web.scrapes import Scrapes
    from exporter.web.server import Server

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
    limits = options.max_requests, options.timeout_offset
    routes = Routes(scrapes, rejected, options.telemetry_path, *limits, page, hosts)
    access = _access(routes, rejected, live, node, options)
    log.info("running with privileges: %s", describe_privileges())
    server = Server(
        listeners,
        access.handle,
        live=live,
        failed_handshake=partial(rejected.count, "tls_handshake"),
        reread=settings.reread,
        prepare=partial(_prepare, routes, partial(_say_where, listeners, live, source.reader_name)),
    )
    counts: list[Callable[[], Iterator[None]]] = []
    if MapsCollector.name in options.collectors:
        counts.append(partial(memory.map_counts.count_pinned, source))
    if ConntrackCollector.name in options.collectors:
        counts.append(lambda: Reading(source, settings.now, memory).count_conntrack())
    asyncio.run(_run(server, scrapes, counts, options.maps_interval))


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
    from exporter.web.live_config import LiveConfig

    live = LiveConfig(options.web_config, bearer=options.authorization)
    if live.config.users and not live.tls:
        log.warning("passwords cross the network in the clear: %s has no tls_server_config", options.web_config)
    return live


def _access(
    routes: "Routes", rejected: "Rejected", live: "LiveConfig | None", node: NodeOptions, options: ServeOptions
) -> "Access":
    from exporter.web.access import Access
    from exporter.web.auth_queue import AuthQueue

    auth_queue = AuthQueue()
    reviews = None
    if options.authorization:
        from exporter.node.api_server import ApiServer
        from exporter.web.reviews import Reviews

        reviews = Reviews(ApiServer(node.kubeconfig), auth_queue)
        if not (live and live.tls):
            log.warning("bearer tokens cross the network in the clear: there is no tls_server_config")
    return Access(routes.handle, rejected, auth_queue, live, reviews)


async def _run(
    server: "Server", scrapes: "Scrapes", counts: Sequence[Callable[[], Iterator[None]]], interval: float | None
) -> None:
    tasks = [asyncio.create_task(_collect_again(scrapes))]
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
    from exporter.web.connection import Request

    with suppress(TimeoutError):
        async with asyncio.timeout(_WARM_UP_SECONDS):
            for accept in ("text/plain", "application/openmetrics-text"):
                headers = {"accept": accept, "accept-encoding": "gzip"}
                await routes.handle(Request("GET", routes.telemetry_path, "", headers))
    say_where()


async def _collect_again(scrapes: "Scrapes") -> None:
    # Of several pinned versions, the live one changes between two snapshots; the first scrape should know it.
    await asyncio.sleep(1)
    await scrapes.collect()
