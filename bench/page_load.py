"""Scrapes beside connections that request the page without a pause, printed as a table: part of `make bench`.

A real server over a recording. Quiet rounds and rounds with 60 connections alternate, so that both meet the same
machine; docs/security.md promises a 95th percentile of at most twice the quiet one.
"""

import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.web.conftest import starting  # noqa: E402  found by the path above
from tests.web.test_starving import durations, page_clients  # noqa: E402

CONNECTIONS, ROUNDS, SCRAPES = 60, 6, 60


def main() -> None:
    """Prints the table."""
    print(f"{'milliseconds of a scrape':>28}{'median':>8}{'p95':>8}{'longest':>9}")
    for name, query in (("the same page", ""), ("a page for each", "?reason=%d")):
        quiet, loaded = measure(query)
        for kind, times in ((f"quiet, before {name}", quiet), (f"{CONNECTIONS} of {name}", loaded)):
            print(f"{kind:>28}{statistics.median(times):>8.1f}{p95(times):>8.1f}{max(times):>9.1f}")
        print(f"{'ratio of p95':>28}{'':>8}{p95(loaded) / p95(quiet):>8.2f}")


def measure(query: str) -> tuple[list[float], list[float]]:
    """Milliseconds of quiet scrapes, and of those beside the connections."""
    quiet: list[float] = []
    loaded: list[float] = []
    with tempfile.TemporaryDirectory() as folder, starting(Path(folder)) as (run, _):
        running = run()
        durations(running, 20)
        with page_clients(running, CONNECTIONS, query) as clients:
            for _ in range(ROUNDS):
                time.sleep(1.5)
                loaded += durations(running, SCRAPES)
                clients.send_signal(signal.SIGSTOP)
                time.sleep(1.5)
                quiet += durations(running, SCRAPES)
                clients.send_signal(signal.SIGCONT)
    return [one * 1000 for one in quiet], [one * 1000 for one in loaded]


def p95(times: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(times, n=20)[-1]


if __name__ == "__main__":
    main()
