"""A server in a process of its own, whose descriptors, threads and memory can be inspected, and raw clients."""

import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import installed
from tests.stopwatch import Stopwatch, wait_for_end

TESTS = Path(__file__).parents[1]
RECORDING = TESTS / "recordings" / "v3.32.1" / "05-eot-egress-deny.after.tar.xz"


class Answer:
    """A whole response, from the bytes of a connection that was read to its end."""

    def __init__(self, raw):
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split(" ")[1]) if status.startswith("HTTP/1.1 ") else None
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def length(self):
        """The length of the body as the head announces it."""
        return int(self.headers.get("content-length", 1 << 62))

    @property
    def text(self):
        return self.body.decode()

    def value(self, series):
        """The value of the series written exactly so, None if it is not there."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.text, re.MULTILINE)
        return float(found[1]) if found else None

    def success(self, collector):
        return self.value(f'calico_bpf_scrape_collector_success{{collector="{collector}"}}')


class Running:
    """A server process and ways to talk to it."""

    def __init__(self, process, ports, log, trust=None):
        self.process = process
        self._tls = ssl.create_default_context(cafile=trust) if trust else None
        self.ports = ports
        self._log = log
        self._clients = []

    @property
    def pid(self):
        return self.process.pid

    def open(self, data=b"", port=None, host="127.0.0.1", receive_buffer=None, source=None):
        """A connection that has sent `data`, from the address `source`."""
        client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._clients.append(client)
        client.settimeout(10)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            client.bind((source, 0))
        client.connect((host, port or self.ports[0]))
        if self._tls:
            client = self._clients[-1] = self.secured(client)
        client.sendall(data)
        return client

    def secured(self, client):
        """TLS on a connection that was opened without it."""
        return self._tls.wrap_socket(client, server_hostname="127.0.0.1", suppress_ragged_eofs=True)

    def keep(self, client):
        """Closes `client` with the others in the end."""
        self._clients.append(client)

    def begin(self):
        """A connection that is being made and not waited for."""
        client = socket.socket()
        self._clients.append(client)
        client.settimeout(0)
        client.connect_ex(("127.0.0.1", self.ports[0]))
        return client

    def exchange(self, client, data):
        """Sends `data` on an open connection; the one answer to it."""
        client.sendall(data)
        said = b""
        while (piece := client.recv(1 << 16)) and len((one := Answer(said := said + piece)).body) < one.length:
            pass
        return Answer(said)

    def raw(self, data, **where):
        """All that the server says to `data` before it closes the connection."""
        with self.open(**where) as client:
            # It may close before all is sent, and says so in what can still be read.
            with suppress(ConnectionError, ssl.SSLError):
                client.sendall(data)
            return read_to_end(client)

    def ask(self, target="/metrics", method="GET", headers=None, **where):
        """The answer to one request on a connection of its own."""
        lines = [f"{name}: {value}\r\n" for name, value in (headers or {}).items()]
        head = f"{method} {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{''.join(lines)}\r\n"
        return Answer(self.raw(head.encode("latin-1"), **where))

    def descriptors(self):
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def threads(self):
        return sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir())

    def memory(self):
        """Resident bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def log(self):
        return self._log.read_text(encoding="utf-8")

    def leave(self):
        """Closes every connection that was opened here."""
        for client in self._clients:
            client.close()

    def stop(self):
        """Sends SIGTERM; the exit code and the seconds until it came, as a quiet machine would take them."""
        watch = self.stopwatch()
        self.process.send_signal(signal.SIGTERM)
        wait_for_end(self.pid)
        seconds = watch.seconds()
        return self.process.wait(), seconds

    def stopwatch(self):
        """Counts the seconds of an exchange with the server, from now on."""
        return Stopwatch(self.pid)


def read_to_end(client):
    """What comes until the other side closes; a reset ends it too."""
    pieces = []
    with suppress(ConnectionError, ssl.SSLError):
        while piece := client.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture(name="read_to_end", scope="session")
def _read_to_end():
    return read_to_end


@pytest.fixture(scope="session")
def answer():
    return Answer


@pytest.fixture(scope="session")
def until():
    """Waits until a condition holds; its last value. The time matters only to a test that fails."""

    def wait(condition, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not (value := condition()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return value

    return wait


@contextmanager
def starting(folder):
    """Starts servers that log into `folder`; ends them, and every connection to them, on the way out.

    With `trust` all connections that are opened here are in TLS and trust that authority.
    """
    started = []

    def run(trust=None, **options):
        log = folder / f"{len(started)}.log"
        settings = json.dumps({"recording": str(RECORDING), **options})
        environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
        with log.open("wb") as errors:
            program = [sys.executable, str(TESTS / "web" / "node_server.py"), settings]
            process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=errors, env=environment)
        one = Running(process, [], log, trust)
        started.append(one)
        ports = process.stdout.readline()
        assert ports, one.log()
        one.ports = json.loads(ports)
        return one

    try:
        yield run, started
    finally:
        for one in started:
            one.leave()
            installed.end(one.process)
            one.process.stdout.close()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    """Starts a server for all tests of a module, with options of `node_server.py`; none may log a traceback."""
    with starting(tmp_path_factory.mktemp("servers")) as (run, started):
        yield run
    assert not any("Traceback" in one.log() for one in started)


@pytest.fixture
def server(tmp_path):
    """Starts a server for one test, with options of `node_server.py`; none may log a traceback."""
    with starting(tmp_path) as (run, started):
        yield run
    assert not any("Traceback" in one.log() for one in started)


@pytest.fixture
def unchecked_server(tmp_path):
    """Starts a server for one test, with options of `node_server.py`; what it logs is the test's business."""
    with starting(tmp_path) as (run, _):
        yield run


@pytest.fixture
def many_descriptors():
    """Descriptors for more than 1024 connections in the process of the test."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2048:
        pytest.skip("this machine allows too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(2048, before), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
