# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "aiohttp==3.14.5", "granian==2.8.9", "h11==0.16.0", "hypercorn==0.18.0", "uvicorn==0.54.0", "cryptography>=45",
# ]
# ///
"""What HTTP servers for Python promise, measured for decision 1: `uv run bench/http_servers.py`.

Each server has TLS and an application with a small and a large response. Connections may be idle for 75 seconds, as
Prometheus keeps them between scrapes; where there is an option for another time limit, that is 2 seconds. Printed is,
for a connection in TLS: when it is closed if a request's head stops, if it comes byte by byte without an end, and if
nobody reads the response; whether it stays open when idle; whether the application can see the names of the client's
certificate; and the resident memory that an idle connection takes.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]
SERVERS = ("ours", "uvicorn", "hypercorn", "granian", "aiohttp")
SHORT, LONG, PATIENCE = 2, 75, 8
IDLE = 200
NAME = "prometheus.monitoring.svc"
BODIES = {"/large": bytes(32 << 20), "/small": b"small\n"}
REQUEST = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The application of uvicorn, hypercorn and granian; `/names` is all that it can see of a request."""
    del receive
    if scope["type"] == "http":
        body = BODIES.get(scope["path"]) or repr(scope).encode()
        head = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})


def serve_uvicorn(folder: Path, port: int, seconds: int) -> None:
    """Serves with h11."""
    import uvicorn

    del seconds  # it has no option for another limit

    uvicorn.run(
        asgi, host="127.0.0.1", port=port, http="h11", lifespan="off", timeout_keep_alive=LONG, log_level="error",
        ssl_certfile=str(folder / "server.pem"), ssl_keyfile=str(folder / "server.key"),
        ssl_ca_certs=str(folder / "authority.pem"), ssl_cert_reqs=ssl.CERT_OPTIONAL,
    )  # fmt: skip


def serve_hypercorn(folder: Path, port: int, seconds: int) -> None:
    """Serves on asyncio."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile, config.keyfile = str(folder / "server.pem"), str(folder / "server.key")
    config.ca_certs, config.verify_mode = str(folder / "authority.pem"), ssl.CERT_OPTIONAL
    config.keep_alive_timeout, config.ssl_handshake_timeout = LONG, seconds
    config.read_timeout = seconds
    asyncio.run(serve(asgi, config))  # type: ignore[arg-type]


def serve_granian(folder: Path, port: int, seconds: int) -> None:
    """Serves in one worker, with as few threads as it has."""
    from granian import Granian
    from granian.constants import Interfaces
    from granian.http import HTTP1Settings

    Granian(
        "http_servers:asgi", address="127.0.0.1", port=port, interface=Interfaces.ASGI, websockets=False,
        ssl_cert=folder / "server.pem", ssl_key=folder / "server.pkcs8", ssl_ca=folder / "authority.pem",
        http1_settings=HTTP1Settings(header_read_timeout=seconds * 1000), log_enabled=False,
    ).serve()  # fmt: skip


def serve_aiohttp(folder: Path, port: int, seconds: int) -> None:
    """Serves with its own parser."""
    from aiohttp import web

    del seconds  # it has no option for another limit

    async def handle(request: web.Request) -> web.Response:
        transport = request.transport
        body = BODIES.get(request.path) or repr(transport and transport.get_extra_info("peercert")).encode()
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    web.run_app(
        app, host="127.0.0.1", port=port, ssl_context=server_context(folder), keepalive_timeout=LONG, print=None
    )


def serve_ours(folder: Path, port: int, seconds: int) -> None:
    """Serves with the exporter's transport, whose names of clients are seen once for each connection."""
    from http import HTTPStatus

    from exporter.web.transport.listener import open_listener
    from exporter.web.transport.messages import Request, Response
    from exporter.web.transport.phases import SECONDS, Limits, Phase
    from exporter.web.transport.server import Server
    from exporter.web.transport.tls import Certificate, Tls

    seen = []

    def refusal(certificate: Certificate | None) -> None:
        seen[:] = [repr(certificate)]

    async def handle(request: Request) -> Response:
        return Response(HTTPStatus.OK, BODIES.get(request.path) or seen[0].encode())

    limits = Limits({**dict.fromkeys(SECONDS, seconds), Phase.IDLE: LONG})
    tls = Tls(lambda: server_context(folder), refusal)
    asyncio.run(Server([open_listener(f"127.0.0.1:{port}")], handle, limits, lambda: tls).run())


def server_context(folder: Path) -> ssl.SSLContext:
    """A context that asks clients for a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "authority.pem"))
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


class Running:
    """A server in a process of its own, with TLS clients."""

    def __init__(self, name: str, folder: Path, seconds: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        command = [sys.executable, __file__, name, str(folder), str(self.port), str(seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
        self._context.load_cert_chain(folder / "client.pem", folder / "client.key")
        self.clients: list[ssl.SSLSocket] = []
        until = time.monotonic() + 30
        while True:
            try:
                self.ask("/small")
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                break

    def open(self) -> ssl.SSLSocket:
        """A connection whose client reads little at once."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", self.port))
        self.clients.append(self._context.wrap_socket(client, server_hostname="localhost"))
        return self.clients[-1]

    def ask(self, path: str) -> bytes:
        """The first bytes of a response on a connection that stays open."""
        client = self.open()
        client.sendall(REQUEST % path.encode())
        said = b""
        while len(said.partition(b"\r\n\r\n")[2]) < len(BODIES["/small"]):
            said += client.recv(1 << 16)
        return said

    def processes(self) -> list[int]:
        """The server's process and its workers."""
        found = [self.process.pid]
        for number in found:
            for children in Path(f"/proc/{number}/task").glob("*/children"):
                found += map(int, children.read_text(encoding="ascii").split())
        return found

    def holds(self, client: socket.socket) -> bool:
        """Whether the server's end of this connection is open: it belongs to a process then, and has an inode."""
        mine = f":{self.port:04X}", f":{client.getsockname()[1]:04X}"
        for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(mine[0]) and fields[2].endswith(mine[1]):
                return fields[9] != "0"
        return False

    def resident(self) -> float:
        """Resident KiB of all its processes."""
        pages = [Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1] for one in self.processes()]
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE") / 1024

    def leave(self) -> None:
        """Closes every client."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        time.sleep(1)


@contextlib.contextmanager
def running(name: str, folder: Path, seconds: int) -> Iterator[Running]:
    """A server that is ended afterwards, with its workers."""
    one = Running(name, folder, seconds)
    try:
        yield one
    finally:
        workers = one.processes()[1:]
        one.process.kill()
        one.process.wait()
        for number in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, 9)


def head_limit(server: Running, drop: bytes) -> str:
    """When a connection is closed that begins a head and then sends `drop` again and again."""
    client = server.open()
    client.settimeout(0.25)
    start = time.monotonic()
    client.sendall(b"GET /small HTTP/1.1\r\nX: ")
    while time.monotonic() < start + PATIENCE:
        with contextlib.suppress(TimeoutError):
            if not heard(client):
                return f"{time.monotonic() - start:.0f} s"
        with contextlib.suppress(OSError):
            client.sendall(drop)
    return "no"


def heard(client: socket.socket) -> bytes:
    """What comes next, empty at an end of any kind."""
    try:
        return client.recv(1 << 16)
    except TimeoutError:
        raise
    except OSError:
        return b""


def unread_limit(server: Running) -> str:
    """When a connection is closed whose client does not read."""
    client = server.open()
    client.sendall(REQUEST % b"/large")
    start = time.monotonic()
    while time.monotonic() < start + PATIENCE:
        if not server.holds(client):
            return f"{time.monotonic() - start:.0f} s"
        time.sleep(0.25)
    return "no"


def stays_idle(server: Running) -> str:
    """Whether a connection without a request stays open for longer than the other limits."""
    server.ask("/small")
    server.clients[-1].settimeout(PATIENCE / 2)
    try:
        heard(server.clients[-1])
    except TimeoutError:
        return "yes"
    return "no"


def idle(server: Running) -> float:
    """Resident KiB that a connection holds after one request."""
    for _ in range(20):
        server.ask("/small")
    server.leave()
    before = server.resident()
    for _ in range(IDLE):
        server.ask("/small")
    time.sleep(1)
    assert all(map(server.holds, server.clients))  # noqa: S101  else nothing is measured
    return (server.resident() - before) / IDLE


def certificates(folder: Path) -> None:
    """An authority, and the certificates of the server and of a client."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    from tests.web.authority import Authority

    authority = Authority(folder)
    authority.issue("server", "DNS:localhost")
    authority.issue("client", f"DNS:{NAME}")
    key = load_pem_private_key((folder / "server.key").read_bytes(), None)
    (folder / "server.pkcs8").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates(folder)
        print(f"Python {sys.version.split()[0]}, {ssl.OPENSSL_VERSION}; a limit is {SHORT} s where there is one")
        print(f"{'':>12}{'head stops':>12}{'head drips':>12}{'unread':>8}{'idle':>6}{'names':>8}{'KiB':>8}")
        for server in SERVERS:
            with running(server, folder, SHORT) as one:
                limits = head_limit(one, b""), head_limit(one, b"a"), unread_limit(one), stays_idle(one)
            with running(server, folder, LONG) as one:
                names = "yes" if NAME.encode() in one.ask("/names") else "no"
                memory = idle(one)
            stops, drips, unread, kept = limits
            print(f"{server:>12}{stops:>12}{drips:>12}{unread:>8}{kept:>6}{names:>8}{memory:>8.1f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        globals()[f"serve_{sys.argv[1]}"](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
