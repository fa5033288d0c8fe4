"""`serve`: builds the exporter's scrapes and HTTP server and runs them until SIGTERM."""

import asyncio
import logging
import math
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.node import node_name, open_source, settings_of
from exporter.cli.options import NodeOptions, flag, node_options
from exporter.metrics.collector import CollectorOptions
from exporter.metrics.counters import ZEROS
from exporter.metrics.scrape import COLLECTORS, ON_BY_DEFAULT

if TYPE_CHECKING:
    from exporter.web.access import Access
    from exporter.web.live_config import LiveConfig
    from exporter.web.registry import Rejected
    from exporter.web.routes import Routes
    from exporter.web.scrapes import Scrapes

_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)

log = logging.getLogger("exporter.serve")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What to serve and how: HTTP path and limits, collectors and their options."""

    telemetry_path: str = "/metrics"
    max_requests: int = 40
    timeout_offset: float = 0.5
    page: bool = True
    exporter_metrics: bool = True
    collectors: Sequence[str] = ON_BY_DEFAULT
    collector_options: CollectorOptions = field(default_factory=CollectorOptions)
    web_config: Path | None = None
    authorization: bool = False
    confined: bool = False


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
@flag("web.disable-exporter-metrics", "Exclude process_* and python_* metrics.", command="serve", is_flag=True)
@flag(
    "collector.counters.zeros",
    "Which zero-valued series to expose (core = those worth an alert).",
    command="serve",
    type=click.Choice(ZEROS),
    default="core",
)
@flag("collector.rules.unattributed", "Add a series for each rule ID in no policy file.", command="serve", is_flag=True)
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
    if not math.isfinite(given["web_timeout_offset"]):
        raise click.UsageError("--web.timeout-offset must be a number of seconds")
    options = ServeOptions(
        telemetry_path=web_telemetry_path,
        max_requests=given["web_max_requests"],
        timeout_offset=given["web_timeout_offset"],
        page=given["web_page"],
        exporter_metrics=not given["web_disable_exporter_metrics"],
        collectors=enabled_collectors(given),
        collector_options=CollectorOptions(
            zeros=given["collector_counters_zeros"],
            unattributed=given["collector_rules_unattributed"],
            workloads=given["kubernetes_workload_labels"],
        ),
        web_config=given["web_config_file"] if given["web_config_file"] != Path() else None,  # empty is none
        authorization=given["kubernetes_authorization"],
        confined=given["security_drop_capabilities"],
    )
    if not options.collectors:
        raise click.UsageError("every collector is switched off")
    listeners = [open_listener(address) for address in web_listen_address]
    serve(node, listeners, options)


def enabled_collectors(given: dict[str, Any]) -> list[str]:
    """The enabled collectors: each by its flag, else by default."""
    default = () if given["collector_disable_defaults"] else ON_BY_DEFAULT
    chosen = {name: given[f"collector_{name}"] for name in (one.name for one in COLLECTORS)}
    return [name for name, enabled in chosen.items() if (name in default if enabled is None else enabled)]


def serve(node: NodeOptions, listeners: Sequence[socket.socket], options: ServeOptions) -> None:
    """Serves on open listeners until SIGTERM or SIGINT."""
    from exporter.allocator import keep_memory_small
    from exporter.bpf.readers import open_reader
    from exporter.confine import confine
    from exporter.metrics.scrape import make_collectors
    from exporter.privileges import describe_privileges
    from exporter.snapshot.reading import Reading
    from exporter.web.node_page import Page
    from exporter.web.registry import make_registry
    from exporter.web.routes import Routes
    from exporter.web.scrapes import Scrapes

    keep_memory_small()
    reader = open_reader(node.reader)
    # Before the first thread and before the first file that only root may read.
    for error in confine(bpftool=reader.name == "bpftool") if options.confined else ():
        log.warning("%s", error)
    live = _live_config(options)
    source, memory = open_source(node, follow=reader)
    settings = settings_of(node)
    registry, rejected = make_registry(process=options.exporter_metrics, live=live)
    collectors = make_collectors(options.collectors, options.collector_options)
    scrapes = Scrapes(lambda: Reading(source, settings, memory), collectors, registry)
    page = Page(scrapes, node_name(node), options.telemetry_path) if options.page else None
    routes = Routes(scrapes, rejected, options.telemetry_path, options.max_requests, options.timeout_offset, page)
    access = _access(routes, rejected, live, node, options)
    log.info("serving with what this process may do: %s", describe_privileges())
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        scheme = "https" if live and live.tls else "http"
        log.info("listening on %s port %s for %s with reader %s", host, port, scheme, source.reader_name)
    asyncio.run(_run(scrapes, access, listeners, live, rejected))


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
    scrapes: "Scrapes",
    access: "Access",
    listeners: Sequence[socket.socket],
    live: "LiveConfig | None",
    rejected: "Rejected",
) -> None:
    from exporter.web.server import Server

    warm_up = asyncio.create_task(_collect_twice(scrapes))
    await Server(listeners, access.handle, live=live, failed_handshake=partial(rejected.count, "tls_handshake")).run()
    warm_up.cancel()


async def _collect_twice(scrapes: "Scrapes") -> None:
    # Of several pinned versions, the live one changes between two snapshots; the first scrape should know it.
    await scrapes.collect()
    await asyncio.sleep(1)
    await scrapes.collect()
