"""The metrics that prometheus-client keeps for us: about this process, and scrapes turned away."""

import logging
import time
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

if TYPE_CHECKING:
    from exporter.web.live_config import LiveConfig

log = logging.getLogger("exporter.web")

REASONS = ("max_requests", "rate_limit", "unauthorized", "forbidden", "auth_queue_full", "unavailable", "tls_handshake")
SECONDS = 10.0
RELOADED = "calico_bpf_exporter_web_config_last_reload_successful"
REJECTED = "calico_bpf_exporter_scrapes_rejected_total"


class LogThrottle:
    """Answers whether to speak; after a yes it is no for `SECONDS`."""

    def __init__(self) -> None:
        self._until = 0.0

    def may_log(self) -> bool:
        """Whether the last line is long enough ago; the caller then writes one."""
        now = time.monotonic()
        if now < self._until:
            return False
        self._until = now + SECONDS
        return True


class Rejected:
    """Counts requests that were turned away, and says now and then in the log who they came from."""

    def __init__(self, registry: CollectorRegistry) -> None:
        about = "Requests turned away, by reason; tls_handshake counts connections."
        self._counter = Counter(REJECTED.removesuffix("_total"), about, ["reason"], registry=registry)
        self._throttle = {reason: LogThrottle() for reason in REASONS}
        for reason in REASONS:
            self._counter.labels(reason)  # exists from the start, so that its first increase is seen

    def count(self, reason: str, client: str, why: str) -> None:
        """One request or connection from `client`, for one of `REASONS` and in words."""
        self._counter.labels(reason).inc()
        if self._throttle[reason].may_log():
            log.info("%s was turned away (%s): %s; the next %.0f s are counted only", client, reason, why, SECONDS)


def make_registry(*, process: bool, live: "LiveConfig | None" = None) -> tuple[CollectorRegistry, Rejected]:
    """A registry with the rejected scrapes in it, and `process_*` and `python_*` if asked for; and that counter.

    With a web configuration there is a gauge that tells whether what its file says now is what is served.
    """
    # They would be extra gauges in the text format that nobody asked for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    rejected = Rejected(registry)
    if live:
        about = "1 when the web configuration is served as its files are now; 0 when they could not be, and older is."
        Gauge(RELOADED, about, registry=registry).set_function(lambda: not live.problem)
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
    return registry, rejected
