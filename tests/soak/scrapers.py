"""Clients of `serve`: scrapers at their own pace, each failure with its reason, and the faults that were injected."""

import base64
import http.client
import re
import socket
import ssl
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from functools import cache

from exporter.calico.names import workload_interface
from exporter.demo.namespace import enter_namespace
from tests.soak.changing_demo import LEFT_BEHIND

SUCCESS = re.compile(r'^calico_bpf_scrape_collector_success\{collector="([a-z]+)"\} ([01])$', re.MULTILINE)
_OWNED = re.compile(r'\{interface="(?P<interface>[^"]*)".*namespace="(?P<namespace>[^"]*)",pod="(?P<pod>[^"]+)"')
_LEFT_BEHIND = re.compile(rf"^calico_bpf_program_packets_total\{{.*\}} {LEFT_BEHIND}$", re.MULTILINE)
COLLECTORS = {"counters", "endpoints", "rules", "maps"}
RENAMED = "calirenamed"
USER, PASSWORD = "prometheus", "soak"


class Faults:
    """What was done to the node on purpose, when, and which collectors may fail of it."""

    def __init__(self):
        self._windows = deque(maxlen=100)

    @contextmanager
    def injected(self, what: str, *collectors: str):
        """A fault that lasts as long as this does."""
        window = [time.monotonic(), float("inf"), what, set(collectors)]
        self._windows.append(window)
        try:
            yield
        finally:
            window[1] = time.monotonic()

    def why(self, failed: set[str], start: float, end: float) -> str | None:
        """The fault by which these collectors can have failed in a scrape of that time."""
        for since, until, what, collectors in list(self._windows):
            if since <= end and until >= start and failed <= collectors:
                return what
        return None


class Client:
    """Requests to one server from the thread that made it, on a connection that is kept or opened for each."""

    def __init__(self, server, *, keep: bool):
        self._server, self._keep = server, keep
        self._connection = None
        self.reconnected = 0

    def get(self, path: str = "/metrics", password: str = PASSWORD) -> tuple[int, str]:
        """Status and body. Raises `OSError` or `HTTPException`."""
        headers = {}
        if self._server.tls:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
        kept = self._connection is not None
        try:
            return self._request(path, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError):
            # A server may close an idle connection: retry, as Prometheus does.
            if not kept:
                raise
            self.reconnected += 1
            return self._request(path, headers)

    def _request(self, path: str, headers: dict[str, str]) -> tuple[int, str]:
        self._connection = self._connection or self._server.connection()
        keep = False
        try:
            self._connection.request("GET", path, headers=headers)
            answer = self._connection.getresponse()
            result = answer.status, answer.read().decode()
            keep = self._keep
            return result
        finally:
            if not keep:
                self.close()

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None


class Server:
    """Where a server listens and whom its clients trust."""

    def __init__(self, name: str, process, port: int, authority=None):
        self.name, self.process, self.port = name, process, port
        self.tls = authority and ssl.create_default_context(cafile=authority.ca)

    def connection(self) -> http.client.HTTPConnection:
        if self.tls:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def annoy(self, chance) -> None:
        """A client that sends nothing, half a request or garbage, and disconnects."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(chance.choice((b"", b"GET /metrics HT", b"\x16\x03\x01\x02\x00\x01", b"\xff" * 100)))


class Scraper(threading.Thread):
    """Scrapes a server every `interval` seconds from within a namespace, and judges each scrape."""

    def __init__(self, namespace: str, server: Server, interval: float, faults: Faults, *, keep: bool):
        super().__init__(daemon=True)
        self.server, self.interval = server, interval
        self.made, self.injected, self.failures = 0, Counter(), Counter()
        self._namespace, self._faults = namespace, faults
        self._client = Client(server, keep=keep)
        self._over = threading.Event()

    def run(self) -> None:
        enter_namespace(self._namespace)
        while not self._over.wait(self.interval):
            self.made += 1
            start = time.monotonic()
            try:
                wrong, failed = judged(*self._client.get())
            except (OSError, http.client.HTTPException) as error:
                wrong, failed = f"{type(error).__name__}: {error}", set()
            if wrong:
                self.failures[wrong] += 1
            elif failed:
                why = self._faults.why(failed, start, time.monotonic())
                result = f"{', '.join(sorted(failed))} failed and nothing had been done to them"
                (self.injected if why else self.failures)[why or result] += 1
        self._client.close()

    @property
    def reconnected(self) -> int:
        return self._client.reconnected

    def end(self) -> None:
        self._over.set()
        self.join()


def judged(status: int, body: str) -> tuple[str | None, set[str]]:
    """What is wrong with a scrape whatever was done to the node; and which collectors failed in it."""
    if status != 200:
        return f"HTTP status {status}: {body.strip()[:80]}", set()
    success = dict(SUCCESS.findall(body))
    if COLLECTORS != set(success):
        return f"collectors {sorted(success)}", set()
    if _LEFT_BEHIND.search(body):
        return "counts of a map that was left behind", set()
    series = [line.rpartition(" ")[0] for line in body.splitlines() if not line.startswith("#")]
    if len(series) != len(set(series)):
        return "a series stands there twice", set()
    for owned in map(_OWNED.search, series):
        if owned and not _belongs(**owned.groupdict()):
            return f"{owned['interface']} is called the interface of {owned['namespace']}/{owned['pod']}", set()
    return None, {name for name, value in success.items() if value == "0"}


@cache
def _belongs(interface: str, namespace: str, pod: str) -> bool:
    return interface in (RENAMED, workload_interface("cali", namespace, pod))
