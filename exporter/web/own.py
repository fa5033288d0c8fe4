"""The metrics that prometheus-client keeps for us: about this process, and scrapes turned away."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

REJECTED = "calico_bpf_exporter_scrapes_rejected_total"


def make_registry(*, process: bool) -> tuple[CollectorRegistry, Counter]:
    """A registry with the rejected scrapes in it, and `process_*` and `python_*` if asked for; and that counter."""
    # They would be extra gauges in the text format that nobody asked for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    rejected = Counter(
        REJECTED.removesuffix("_total"), "Scrapes turned away, by reason.", ["reason"], registry=registry
    )
    rejected.labels("max_requests")  # exists from the start, so that its first increase is seen
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
    return registry, rejected
