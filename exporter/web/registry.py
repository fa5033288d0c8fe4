"""Self-metrics kept by prometheus-client: the process, and rejected requests.

Only its registry, metrics and collectors are imported: its renderers bring three HTTP servers.
"""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from exporter.light_imports import skip_init
from exporter.metrics.family import COUNTER, Family, Samples
from exporter.web.transport.log_throttle import LOG_INTERVAL, LogThrottle

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

    from exporter.web.access.live_config import LiveConfig

log = logging.getLogger("exporter.web")

REASONS = (
    *("max_requests", "rate_limit", "unauthorized", "forbidden", "auth_queue_full", "unavailable", "tls_handshake"),
    "host",
)
RELOADED = "calico_bpf_exporter_config_reload_success"
REJECTED = "calico_bpf_exporter_scrapes_rejected_total"


class Rejected:
    """Counts rejected requests and logs them, throttled."""

    def __init__(self, registry: "CollectorRegistry") -> None:
        skip_init("prometheus_client")
        from prometheus_client.metrics import Counter

        about = "Rejected requests, by reason; tls_handshake counts connections."
        self._counter = Counter(REJECTED.removesuffix("_total"), about, ["reason"], registry=registry)
        self._throttle = {reason: LogThrottle() for reason in REASONS}
        for reason in REASONS:
            self._counter.labels(reason)  # exposed from the start, so that increase() sees the first one

    def count(self, reason: str, client: str, why: str) -> None:
        """Counts a request or connection of `client`: one of `REASONS`, and why."""
        self._counter.labels(reason).inc()
        if self._throttle[reason].may_log():
            log.info("%s was rejected (%s): %s; not logged again for %.0f s", client, reason, why, LOG_INTERVAL)


def make_registry(*, process: bool, live: "LiveConfig | None" = None) -> "tuple[CollectorRegistry, Rejected]":
    """A registry with the counter of rejected requests, and that counter.

    `process` adds `process_*` and `python_*`, `live` a gauge for the last reload of the web configuration.
    """
    skip_init("prometheus_client")
    from prometheus_client.gc_collector import GCCollector
    from prometheus_client.metrics import Gauge, disable_created_metrics
    from prometheus_client.platform_collector import PlatformCollector
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import CollectorRegistry

    # In the text format they would be additional gauges.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    rejected = Rejected(registry)
    if live:
        about = (
            "1 if the last reload of the web configuration succeeded; 0 if it failed and the previous one is in use."
        )
        Gauge(RELOADED, about, registry=registry).set_function(lambda: not live.problem)
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
    return registry, rejected


def registry_samples(registry: "CollectorRegistry") -> Iterator[Samples]:
    """The metrics of a registry as samples."""
    for metric in registry.collect():
        family = _family(metric)
        rows = [(tuple(sample.labels.values()), sample.value) for sample in metric.samples]
        yield Samples(family, rows)


def _family(metric: "Metric") -> Family:
    name = f"{metric.name}_total" if metric.type == COUNTER else metric.name
    labels = metric.samples[0].labels if metric.samples else ()
    return Family(name, metric.type, metric.documentation, tuple(labels))
