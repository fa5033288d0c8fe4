"""The cost of HTTP and TLS, printed as a table with ratios: part of `make bench`.

A real server over a recording, once in the clear and once in TLS, and beside them asyncio's own TLS streams: resident
memory for each idle connection, CPU for each scrape on a connection kept open and on a new one. Then bcrypt: the CPU
of a first right password, of a remembered one, and what a flood of wrong ones takes of the machine in five seconds.
"""

import base64
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt

ROOT = Path(__file__).parents[1]
RECORDING = ROOT / "tests" / "recordings" / "v3.32.1" / "05-eot-egress-deny.after.tar.xz"
IDLE = 400
SCRAPES = 200
FLOOD_SECONDS = 5
ASYNCIO = """
import asyncio, json, ssl, sys
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:3])
    server = await asyncio.start_server(lambda reader, writer: reader.read(), "127.0.0.1", 0, ssl=context, backlog=512)
    print(json.dumps([server.sockets[0].getsockname()[1]]), flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


class Running:
    """A server in a separate process."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
        )
        assert self.process.stdout is not None  # noqa: S101  for the type
        self.port = json.loads(self.process.stdout.readline())[0]

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """Resident KiB."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1024


def main() -> None:
    """Prints the tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_certificate(folder)
        print(f"{'':>28}{'idle KiB each':>15}{'scrape ms':>12}{'new connection':>16}")
        cost: dict[str, float] = {}
        for kind, tls in (("in the clear", False), ("TLS", True)):
            with serving(folder, "" if not tls else pair(folder)) as running:
                kept, fresh = (per_scrape(running, folder, tls=tls, keep=keep) for keep in (True, False))
                cost[kind] = idle(running, folder, tls=tls)
            print(f"{kind:>28}{cost[kind]:>15.1f}{kept:>12.2f}{fresh:>16.2f}")
        with started([sys.executable, "-c", ASYNCIO, str(folder / "c.pem"), str(folder / "k.pem")]) as running:
            streams = idle(running, folder, tls=True)
        print(f"{'asyncio TLS streams':>28}{streams:>15.1f}")
        print(f"\nTLS / asyncio's TLS streams, memory: {cost['TLS'] / streams:.2f}\n")
        passwords(folder)


def make_certificate(folder: Path) -> None:
    """c.pem and k.pem."""
    subprocess.run(
        [
            *["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
            *["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
            *["-addext", "keyUsage=critical,digitalSignature,keyCertSign"],  # which Python 3.13 asks for
            *["-keyout", str(folder / "k.pem"), "-out", str(folder / "c.pem")],
        ],
        check=True,
        capture_output=True,
    )


def pair(folder: Path) -> str:
    """A web configuration with TLS."""
    return f"tls_server_config: {{cert_file: {folder}/c.pem, key_file: {folder}/k.pem}}\n"


@contextlib.contextmanager
def serving(folder: Path, config: str) -> Iterator[Running]:
    """The exporter's server behind this web configuration, after a first scrape."""
    (folder / "web.yml").write_text(config, encoding="utf-8")
    options = json.dumps({"recording": str(RECORDING), "web_config": str(folder / "web.yml")})
    with started([sys.executable, str(ROOT / "tests" / "web" / "node_server.py"), options]) as running:
        yield running


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[Running]:
    """A server that is ended afterwards."""
    running = Running(command)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def connect(running: Running, folder: Path, *, tls: bool) -> socket.socket:
    """A connection, with TLS agreed on if asked for."""
    client = socket.create_connection(("127.0.0.1", running.port))
    if not tls:
        return client
    context = ssl.create_default_context(cafile=str(folder / "c.pem"))
    return context.wrap_socket(client, server_hostname="localhost")


def ask(client: socket.socket, more: str = "") -> bytes:
    """One request; the head of its response, once all of it has come."""
    client.sendall(f"GET /metrics HTTP/1.1\r\nHost: node\r\n{more}\r\n".encode())
    said = b""
    while b"\r\n\r\n" not in said:
        said += client.recv(1 << 16)
    head, _, body = said.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(1 << 16)
    return head


def per_scrape(running: Running, folder: Path, *, tls: bool, keep: bool) -> float:
    """CPU milliseconds of the server for each scrape."""
    client = connect(running, folder, tls=tls)
    ask(client)
    before = running.cpu()
    for _ in range(SCRAPES):
        if not keep:
            client.close()
            client = connect(running, folder, tls=tls)
        ask(client)
    client.close()
    return (running.cpu() - before) / SCRAPES * 1000


def idle(running: Running, folder: Path, *, tls: bool) -> float:
    """Resident KiB that an open connection holds."""
    before = running.resident()
    clients = [connect(running, folder, tls=tls) for _ in range(IDLE)]
    time.sleep(1)
    held = (running.resident() - before) / IDLE
    for client in clients:
        client.close()
    return held


def passwords(folder: Path) -> None:
    """Prints the cost of passwords."""
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(10)).decode()
    with serving(folder, f"basic_auth_users: {{bob: {hashed}}}\n") as running:
        client = connect(running, folder, tls=False)
        right = header("secret")
        before = running.cpu()
        ask(client, right)
        first = (running.cpu() - before) * 1000
        before = running.cpu()
        for _ in range(SCRAPES):
            ask(client, right)
        known = (running.cpu() - before) / SCRAPES * 1000
        before, until = running.cpu(), time.monotonic() + FLOOD_SECONDS
        while time.monotonic() < until:
            ask(client, header(f"guess {time.monotonic()}"))
        flood = (running.cpu() - before) / FLOOD_SECONDS
    print(f"first scrape with a password of cost 10: {first:.0f} ms CPU; with it known: {known:.2f} ms")
    print(f"a brute-force client takes {flood:.2f} of one CPU")


def header(password: str) -> str:
    """The header of basic authentication."""
    return f"Authorization: Basic {base64.b64encode(f'bob:{password}'.encode()).decode()}\r\n"


if __name__ == "__main__":
    main()
