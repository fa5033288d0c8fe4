"""Sieges of the front door, in the clear and in TLS: while one lasts, whoever may come in is served in time.

What is measured is the server's, from outside: its peak of memory, its threads, descriptors and CPU, and its log.
"""

import base64
import os
import re
import socket
import ssl
import struct
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

import bcrypt
import pytest

from tests.web.authority import Authority

SOON = 5  # seconds: what a scraper may have to wait for, on a busy machine
ENEMY = "127.0.0.66"
GONE = (OSError,)  # resets, time-outs and all errors of TLS
GET = b"GET /healthz HTTP/1.1\r\nHost: node\r\n"
NOW = b"Connection: close\r\n\r\n"


def basic(user, password):
    return b"Authorization: Basic " + base64.b64encode(user + b":" + password) + b"\r\n"


BOB = basic(b"bob", b"secret")


def users(cost=4):
    return f"basic_auth_users: {{bob: {bcrypt.hashpw(b'secret', bcrypt.gensalt(cost)).decode()}}}\n"


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("enemies"))
    authority.issue("server", "IP:127.0.0.1", "DNS:localhost")
    authority.issue("scraper", "DNS:prometheus")
    return authority.folder


class Front:
    """A server, the scraper that may come in, and what the scraper's enemies need."""

    def __init__(self, running, pki, *, tls, credentials):
        self.running, self.pki, self.tls, self.credentials = running, pki, tls, credentials
        self.pid = running.pid

    def context(self, *, certificate=False, newest=ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=f"{self.pki}/authority.pem")
        context.maximum_version = newest
        if certificate:
            context.load_cert_chain(f"{self.pki}/scraper.pem", f"{self.pki}/scraper.key")
        return context

    def clear(self, data=b"", source=ENEMY, receive_buffer=0, seconds=20):
        """A TCP connection that has sent `data` as it is; closed in the end."""
        client = socket.socket()
        self.running.keep(client)
        client.settimeout(seconds)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.bind((source, 0))
        client.connect(("127.0.0.1", self.running.ports[0]))
        client.sendall(data)
        return client

    def open(self, data=b"", context=None, **how):
        """A connection as the door wants it, in TLS or not, that has sent `data`."""
        client = self.clear(b"" if self.tls else data, **how)
        if self.tls:
            client = (context or self.context()).wrap_socket(client, server_hostname="localhost")
            self.running.keep(client)
            client.sendall(data)
        return client

    def say(self, data, **how):
        """All that is answered to `data`, until the server ends it."""
        with self.open(**how) as client:
            with suppress(*GONE):
                client.sendall(data)
            return read(client)

    def scrape(self):
        """The scraper with all that it has, on a new connection; its status and the seconds it took."""
        start = time.monotonic()
        said = b""
        with suppress(*GONE):
            context = self.context(certificate=True) if self.tls else None
            said = self.say(self.head("/metrics") + NOW, context=context, source="127.0.0.1", seconds=2 * SOON)
        return (statuses(said) or [None])[0], time.monotonic() - start

    def head(self, target, method="GET"):
        return f"{method} {target} HTTP/1.1\r\nHost: node\r\n".encode() + self.credentials

    def peak(self):
        """The most resident bytes since `siege` began."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10

    def cpu(self):
        """Seconds of CPU, user and system, since the start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextmanager
    def siege(self, megabytes):
        """Whatever happens meanwhile: scrapes are answered in the midst of it, and little is taken for it."""
        assert 200 == self.scrape()[0]
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        memory, threads = self.running.memory(), self.running.threads()
        yield
        self.serves()
        assert self.peak() - memory < megabytes * 1e6
        assert threads == self.running.threads()
        assert self.running.descriptors() < 600
        self.running.leave()
        assert "Traceback" not in self.running.log()

    def serves(self):
        status, seconds = self.scrape()
        assert 200 == status
        assert seconds < SOON


def read(client):
    pieces = []
    with suppress(*GONE):
        while piece := client.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


def statuses(raw):
    return [int(one) for one in re.findall(rb"HTTP/1\.1 (\d{3}) ", raw)]


@contextmanager
def meanwhile(*attacks):
    """Does each again and again in a thread of its own, whatever the server makes of it."""
    stop = threading.Event()

    def run(attack):
        while not stop.is_set():
            with suppress(*GONE):
                attack()

    threads = [threading.Thread(target=run, args=(attack,)) for attack in attacks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def front(pki, tmp_path, server):
    """Starts a server behind a door: clear and open to all, or TLS, where one comes in with a password."""

    def start(door="TLS", text="", cost=4, **options):
        tls = f"tls_server_config: {{cert_file: {pki}/server.pem, key_file: {pki}/server.key, "
        tls += f"client_auth_type: VerifyClientCertIfGiven, client_ca_file: {pki}/authority.pem}}\n"
        config = tmp_path / "web.yml"
        config.write_text({"clear": "", "TLS": tls + users(cost), "users": users(cost)}[door] + text, encoding="utf-8")
        running = server(web_config=str(config), **options)
        return Front(running, pki, tls=door == "TLS", credentials=b"" if door == "clear" else BOB)

    return start


both = pytest.mark.parametrize("door", ["clear", "TLS"])


@cache
def hello():
    """The first message of a client of TLS, as the ssl library writes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


# --- many


CROWDS = {
    "silent": lambda front, _: front.clear(),
    "half a hello": lambda front, _: front.clear(hello()[:99]),
    "half a head": lambda front, context: front.open(GET, context),
    "one request": lambda front, context: front.open(GET + b"\r\n", context).recv(100),
}


@both
@pytest.mark.parametrize("come", CROWDS.values(), ids=CROWDS)
def test_a_thousand_who_stay_and_dawdle_keep_nobody_out(front, many_descriptors, door, come):
    front = front(door)
    context = front.context()
    with front.siege(60):
        for number in range(1000):
            with suppress(*GONE):  # the oldest make room for the youngest
                come(front, context)
            if not number % 300:
                front.serves()


@both
def test_a_flood_that_comes_and_goes_keeps_nobody_out(front, door):
    front = front(door)
    said = [b"", hello(), hello()[:50], GET, GET + b"\r\n", b"\0" * 2000]
    number = count()

    def visit():
        one = next(number)
        with front.clear(said[one % len(said)]) as client:
            if one % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with front.siege(30):
        with meanwhile(visit, visit):
            for _ in range(5):
                time.sleep(0.3)
                front.serves()
        assert next(number) > 300


def pipelining(front, connections):
    """Asks without end on each connection, and reads what comes."""
    context = front.context()
    clients = [front.open(context=context) for _ in range(connections)]
    for client in clients:
        client.settimeout(0)

    def ask():
        for client in clients:
            with suppress(*GONE):
                client.send((GET + b"\r\n") * 400)
            with suppress(*GONE):
                client.recv(1 << 18)

    return ask


@both
def test_requests_that_come_faster_than_answers_go_are_left_in_the_kernel(front, door):
    front = front(door)
    with front.siege(20), meanwhile(pipelining(front, 1)):
        time.sleep(4)


@both
def test_a_queue_of_silent_clients_before_busy_ones_keeps_nobody_waiting(front, many_descriptors, door):
    front = front(door)
    silent = []

    def queue():
        silent.append(front.clear())
        if len(silent) > 600:
            silent.pop(0).close()

    with meanwhile(pipelining(front, 300), queue):
        time.sleep(3)
        front.serves()


# --- slow


@both
def test_a_byte_now_and_then_is_no_request_and_no_handshake(front, door):
    front = front(door, limits={"head": 1.0})
    said = hello() if door == "TLS" else GET
    with front.siege(10):
        clients, start = [front.clear() for _ in range(50)], time.monotonic()
        while clients and time.monotonic() - start < 10:
            for client in list(clients):
                try:
                    client.sendall(said[:1])
                except OSError:
                    clients.remove(client)
            said = said[1:]
            time.sleep(0.1)
        assert 0.8 < time.monotonic() - start < 8
        front.serves()


@both
def test_those_who_never_read_hold_little_however_they_take_turns(front, door):
    front = front(door, real=False, extra=[{"name": "big", "rows": 10_000}])  # some 5 MB
    context = front.context()
    assert 200 == front.scrape()[0]
    with front.siege(100):
        for _ in range(40):
            with suppress(*GONE):  # one that was cut for another
                front.open(front.head("/metrics") + b"\r\n", context, receive_buffer=4096).recv(1)


@both
def test_what_is_said_while_an_answer_is_made_is_not_lost(front, door):
    front = front(door, real=False, extra=[{"name": "quick"}], limits={"head": 2.0})
    client = front.open()
    request, end, asked = front.head("/metrics?collect[]=quick") + b"\r\n", time.monotonic() + 4, 0
    client.sendall(request)
    while time.monotonic() < end:
        asked += 1
        for byte in request[:-1]:  # of the next one, while this one's answer is made
            client.sendall(bytes([byte]))
            time.sleep(0.0001)
        assert 200 == front.running.exchange(client, b"").status, f"{asked=}"
        client.sendall(request[-1:])


@both
@pytest.mark.parametrize("seconds", [0, 0.4])
def test_who_has_only_closed_its_own_side_gets_its_answer(front, door, seconds):
    front = front(door, extra=[{"name": "slow", "seconds": seconds}])
    with front.clear() as client:
        if door == "clear":
            client.sendall(front.head("/metrics") + b"\r\n")
            client.shutdown(socket.SHUT_WR)
            assert [200] == statuses(read(client))
            return
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        wire = front.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            with suppress(ssl.SSLWantReadError):
                wire.do_handshake()
                break
            client.sendall(outgoing.read())
            incoming.write(client.recv(1 << 16))
        wire.write(front.head("/metrics") + b"\r\n")
        with suppress(ssl.SSLWantReadError):
            wire.unwrap()  # says that nothing more comes, and waits for nothing
        client.sendall(outgoing.read())
        client.shutdown(socket.SHUT_WR)
        incoming.write(read(client))
        assert [200] == statuses(wire.read(1000))


def test_time_outs_that_nobody_can_keep_do_not_fill_the_log(front):
    front = front("clear")
    with front.siege(20):
        for _ in range(300):
            front.say(front.head("/metrics") + b"X-Prometheus-Scrape-Timeout-Seconds: 1e-9\r\n" + NOW)
    assert front.running.log().count("\n") < 50
