"""The real routes and the real server over a recording, as a program of its own: python node_server.py '{...}'.

Beside the exporter's collectors there are some whose behaviour a test needs; each writes the number of the snapshot
that it was given. Prints the ports it listens on, as JSON, and serves until SIGTERM.
"""

import asyncio
import builtins
import json
import logging
import resource
import ssl
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

from exporter.metrics.family import GAUGE, Family, Samples
from exporter.metrics.scrape import ON_BY_DEFAULT, make_collectors
from exporter.node.api_server import ApiServer
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading
from exporter.snapshot.settings import Settings
from exporter.web.access.auth_queue import AuthQueue
from exporter.web.access.handler import Access
from exporter.web.access.hosts import Hosts
from exporter.web.access.live_config import LiveConfig
from exporter.web.access.reviews import Reviews
from exporter.web.node_page import Page
from exporter.web.registry import make_registry
from exporter.web.routes import Routes
from exporter.web.scrapes import Scrapes
from exporter.web.transport.listener import open_listener
from exporter.web.transport.phases import SECONDS, Limits, Phase
from exporter.web.transport.server import Server


class Numbered(Reading):
    """A reading that writes its number where a snapshot has the name of its node."""

    def __init__(self, number, *given):
        super().__init__(*given)
        self._number = number

    def read(self, parts):
        return replace(super().read(parts), node=str(self._number))


@dataclass
class Extra:
    """Sleeps, raises or writes much, and says with which snapshot it did."""

    parts: ClassVar = frozenset({"links"})  # no map: it runs after the collectors that need only maps
    name: str
    seconds: float = 0
    once: bool = False
    error: str = ""
    rows: int = 1

    def collect(self, snapshot):
        time.sleep(self.seconds)
        if self.once:
            self.seconds = 0
        if self.error:
            raise RuntimeError(self.error)
        family = Family(f"test_{self.name}_snapshot", GAUGE, "The number of the snapshot.", ("row",))
        number = int(snapshot.node)
        return [
            Samples(family, [((str(row).zfill(500) if self.rows > 1 else "",), number) for row in range(self.rows)])
        ]


def main(
    recording,
    *,
    listen=("127.0.0.1:0",),
    real=True,
    extra=(),
    limits=None,
    descriptors=0,
    process=False,
    web_config=None,
    kubeconfig=None,
    page=True,
    failing=None,
    allowed_hosts=None,
    **routes,
):
    if descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    bundle, memory, numbers = read_bundle(Path(recording)), Memory(), count(1)
    memory.counters.proven = bundle.proven_live()

    def begin():
        return Numbered(next(numbers), bundle, Settings(), memory)

    collectors = [*(make_collectors(ON_BY_DEFAULT) if real else ()), *(Extra(**one) for one in extra)]
    live = LiveConfig(Path(web_config), bearer=bool(kubeconfig)) if web_config else None
    registry, rejected = make_registry(process=process, live=live)
    auth_queue = AuthQueue()
    reviews = Reviews(ApiServer(Path(kubeconfig)), auth_queue) if kubeconfig else None
    scrapes = Scrapes(begin, collectors, registry)
    shown = Page(scrapes, "node-1", routes.get("telemetry_path", "/metrics")) if page else None
    routes["hosts"] = None if allowed_hosts is None else Hosts.of({"node-1"}, allowed_hosts)
    access = Access(Routes(scrapes, rejected, page=shown, **routes).handle, rejected.count, auth_queue, live, reviews)
    listeners = [open_listener(address) for address in listen]
    handler = access.handle if failing is None else partial(fail, failing)
    tls = live.current_tls if live else lambda: None
    failed = partial(rejected.count, "tls_handshake")
    seconds = {**SECONDS, **{Phase(name): limit for name, limit in (limits or {}).items()}}
    asyncio.run(serve(Server(listeners, handler, Limits(seconds), tls, failed), listeners))


async def fail(name, request):
    """A handler that does not answer but raises this error."""
    raise getattr(ssl, name, None) or getattr(builtins, name)


async def serve(server, listeners):
    # From within the event loop: a test that counts descriptors must find the loop's among them.
    print(json.dumps([one.getsockname()[1] for one in listeners]), flush=True)  # noqa: T201  read by the test
    await server.run()


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    main(**json.loads(sys.argv[1]))
