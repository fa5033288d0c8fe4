"""`serve`: its flags, and what they say; `serving.py` does it."""

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import click

from exporter.cli.options import NodeOptions, flag, node_options
from exporter.cli.serving import ServeOptions, serve
from exporter.metrics.collector import ZEROS, CollectorOptions
from exporter.metrics.rule_hits import DETAILS
from exporter.metrics.scrape import COLLECTOR_NAMES, COLLECTORS, ON_BY_DEFAULT

_flag = partial(flag, command="serve")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+", re.ASCII)


def _collector_flags(command: Any) -> Any:
    for one in reversed(COLLECTORS):
        about = f"{one.about.removesuffix('.')} (default: {'on' if one.on_by_default else 'off'})."
        command = _flag(f"collector.{one.name}", about, switch=True, default=None)(command)
    return command


@click.command("serve", short_help="Serve the metrics over HTTP until SIGTERM.")
@_flag("web.listen-address", "Address to listen on, HOST:PORT (can be repeated).", multiple=True, default=(":10042",))
@_flag(
    "web.config.file",
    "Path to the web configuration file (TLS, users, headers, rate limit).",
    type=click.Path(path_type=Path),
)
@_flag("web.telemetry-path", "Path under which to expose metrics.", default="/metrics")
@_flag("web.max-requests", "Maximum concurrent requests (0 = unlimited).", type=click.IntRange(0), default=40)
@_flag(
    "web.timeout-offset",
    "Offset subtracted from Prometheus's scrape timeout, in seconds.",
    type=click.FloatRange(0),
    default=0.5,
)
@_flag("web.page", "Serve a page about this node at / (default: on).", switch=True, default=True, show_default=False)
@_flag(
    "web.allowed-hosts",
    "Name of this server in requests, besides its addresses, localhost and the node's names; if given, metrics and "
    "health checks require one of them too, as the page always does (can be repeated).",
    multiple=True,
)
@_flag("web.disable-exporter-metrics", "Exclude process_* and python_* metrics.", is_flag=True)
@_flag(
    "collector.counters.zeros",
    "Which zero-valued series to expose (core = those worth an alert).",
    type=click.Choice(ZEROS),
    default="core",
)
@_flag(
    "collector.counters.namespaces",
    "Namespace whose pods have series; all if not given (can be repeated).",
    multiple=True,
)
@_flag("collector.counters.exclude-namespaces", "Namespace whose pods have no series (can be repeated).", multiple=True)
@_flag(
    "collector.rules.zeros",
    "Which zero-valued series of rules to expose (core = deny rules and tier ends).",
    type=click.Choice(ZEROS),
    default="core",
)
@_flag(
    "collector.rules.detail",
    "Expose a series for each rule, or one for each policy and action.",
    type=click.Choice(DETAILS),
    default="rule",
)
@_flag("collector.rules.unattributed", "Add a series for each rule ID in no policy file.", is_flag=True)
@_flag(
    "collector.maps.interval",
    "Seconds between counts of maps (default: as long as keeps counting below 0.2 % of a core).",
    type=click.FloatRange(1),
    default=None,
)
@_flag("collector.disable-defaults", "Disable all collectors by default.", is_flag=True)
@_collector_flags
@_flag("kubernetes.authorization", "Authorize bearer tokens through the API server.", is_flag=True)
@_flag("kubernetes.workload-labels", "Add a series with the owner of each pod.", is_flag=True)
@_flag(
    "security.drop-capabilities",
    "Drop root, capabilities and bpf(2) write commands before serving (default: on).",
    switch=True,
    default=True,
    show_default=False,
)
@node_options(bundles=0)
def command(node: NodeOptions, web_listen_address: tuple[str, ...], web_telemetry_path: str, **given: Any) -> None:
    """Serve the metrics over HTTP until SIGTERM."""
    from exporter.web.transport.listener import open_listener

    if not _PATH.fullmatch(web_telemetry_path) or web_telemetry_path in ("/healthz", "/readyz"):
        raise click.UsageError(
            f"--web.telemetry-path {web_telemetry_path!r} must begin with / and not be /, /healthz or /readyz"
        )
    offset, interval = given["web_timeout_offset"], given["collector_maps_interval"]
    for name, seconds in {"web.timeout-offset": offset, "collector.maps.interval": interval or 0}.items():
        if not math.isfinite(seconds):
            raise click.UsageError(f"--{name} must be a number of seconds")
    options = ServeOptions(
        telemetry_path=web_telemetry_path,
        max_requests=given["web_max_requests"],
        timeout_offset=offset,
        page=given["web_page"],
        allowed_hosts=given["web_allowed_hosts"],
        exporter_metrics=not given["web_disable_exporter_metrics"],
        collectors=enabled_collectors(given),
        collector_options=collector_options(given),
        web_config=given["web_config_file"] if given["web_config_file"] != Path() else None,  # empty is none
        authorization=given["kubernetes_authorization"],
        confined=given["security_drop_capabilities"],
        maps_interval=interval,
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
