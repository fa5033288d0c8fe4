"""Attacks on the server, in the clear and in TLS: while one lasts, authorized clients are served in time.

What is measured is the server's, from outside: its peak of memory, its threads, descriptors and CPU, and its log.
"""

import base64
import gzip
import os
import re
import select
import socket
import ssl
import struct
import subprocess
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
    authority = Authority(tmp_path_factory.mktemp("attackers"))
    authority.issue("server", "IP:127.0.0.1", "DNS:localhost")
    authority.issue("scraper", "DNS:prometheus")
    return authority.folder


class Front:
    """A server, an authorized scraper, and what the attackers need."""

    def __init__(self, running, pki, *, tls, credentials):
        self.running, self.pki, self.tls, self.credentials = running, pki, tls, credentials
        self.pid = running.pid

    def context(self, *, certificate=False, max_version=ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=f"{self.pki}/authority.pem")
        context.maximum_version = max_version
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
        """A connection as the server expects it, in TLS or not, that has sent `data`."""
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
        watch = self.running.stopwatch()
        said = b""
        with suppress(*GONE):
            context = self.context(certificate=True) if self.tls else None
            said = self.say(self.head("/metrics") + NOW, context=context, source="127.0.0.1", seconds=2 * SOON)
        return (statuses(said) or [None])[0], watch.seconds()

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
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        memory, threads = self.running.memory(), self.running.threads()
        yield
        self.serves()
        assert self.peak() - memory < megabytes * 1e6
        assert threads == self.running.threads()
        assert self.running.descriptors() < 600
        self.running.leave()

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


@pytest.fixture(scope="module")
def fronts(pki, tmp_path_factory, shared_server):
    """Starts a server with this access mode, or returns the running one: `clear`, `users`, or both and TLS."""
    started = {}

    def start(mode="TLS", text="", cost=4, **options):
        tls = f"tls_server_config: {{cert_file: {pki}/server.pem, key_file: {pki}/server.key, "
        tls += f"client_auth_type: VerifyClientCertIfGiven, client_ca_file: {pki}/authority.pem}}\n"
        text = {"clear": "", "TLS": tls, "users": ""}[mode] + ("" if mode == "clear" else users(cost)) + text
        config = tmp_path_factory.mktemp("mode") / "web.yml"
        config.write_text(text, encoding="utf-8")
        running = shared_server(web_config=str(config), **options)
        return Front(running, pki, tls=mode == "TLS", credentials=b"" if mode == "clear" else BOB)

    def find(*mode, **options):
        key = repr((mode, options))
        started[key] = started.get(key) or start(*mode, **options)
        return started[key]

    yield find
    for front in started.values():
        front.running.leave()


@pytest.fixture
def front(fronts):
    """A server as `fronts` has it; afterwards nobody is connected to it."""
    used = []
    yield lambda *mode, **options: used.append(fronts(*mode, **options)) or used[-1]
    for front in used:
        front.running.leave()


both = pytest.mark.parametrize("mode", ["clear", "TLS"])


@cache
def hello():
    """The first message of a client of TLS, as the ssl library writes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def by_hand(front, max_version=ssl.TLSVersion.TLSv1_3):
    """A TCP connection after its handshake, its TLS, and the buffers in between."""
    client, incoming, outgoing = front.clear(), ssl.MemoryBIO(), ssl.MemoryBIO()
    wire = front.context(max_version=max_version).wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        with suppress(ssl.SSLWantReadError):
            wire.do_handshake()
            client.sendall(outgoing.read())
            return client, wire, incoming, outgoing
        client.sendall(outgoing.read())
        incoming.write(client.recv(1 << 16))


# --- many


CROWDS = {
    "silent": lambda front, _: front.clear(),
    "half a hello": lambda front, _: front.clear(hello()[:99]),
    "half a head": lambda front, context: front.open(GET, context),
    "one request": lambda front, context: front.open(GET + b"\r\n", context).recv(100),
}


@both
@pytest.mark.parametrize("come", CROWDS.values(), ids=CROWDS)
def test_a_thousand_slow_clients_keep_nobody_out(front, many_descriptors, mode, come):
    front = front(mode)
    context = front.context()
    with front.siege(60):
        for number in range(1000):
            with suppress(*GONE):  # the oldest are evicted for the max_version
                come(front, context)
            if not number % 300:
                front.serves()


@both
def test_a_flood_that_comes_and_goes_keeps_nobody_out(front, mode):
    front = front(mode)
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
def test_requests_that_come_faster_than_answers_go_are_left_in_the_kernel(front, mode):
    front = front(mode)
    with front.siege(20), meanwhile(pipelining(front, 1)):
        time.sleep(2)


@both
def test_a_queue_of_silent_clients_before_busy_ones_keeps_nobody_waiting(front, many_descriptors, mode):
    front = front(mode)
    silent = []

    def queue():
        silent.append(front.clear())
        if len(silent) > 600:
            silent.pop(0).close()

    with meanwhile(pipelining(front, 300), queue):
        time.sleep(2)
        front.serves()


# --- slow


@both
def test_what_is_said_while_an_answer_is_made_is_not_lost(front, mode):
    front = front(mode, real=False, extra=[{"name": "quick"}], limits={"opening": 2.0, "reading": 2.0})
    client = front.open()
    request, end, asked = front.head("/metrics?collect[]=quick") + b"\r\n", time.monotonic() + 2, 0
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
def test_who_has_only_closed_its_own_side_gets_its_answer(front, mode, seconds):
    front = front(mode, extra=[{"name": "slow", "seconds": seconds}])
    request = front.head("/metrics") + b"\r\n"
    if mode == "clear":
        client = front.clear(request)
        client.shutdown(socket.SHUT_WR)
        assert [200] == statuses(read(client))
        return
    client, wire, incoming, outgoing = by_hand(front)
    wire.write(request)
    with suppress(ssl.SSLWantReadError):
        wire.unwrap()  # says that nothing more comes, and waits for nothing
    client.sendall(outgoing.read())
    client.shutdown(socket.SHUT_WR)
    incoming.write(read(client))
    assert [200] == statuses(wire.read(1000))


def test_time_outs_that_nobody_can_keep_do_not_fill_the_log(front):
    front = front("clear")
    before = len(front.running.log().splitlines())
    with front.siege(20):
        for _ in range(300):
            front.say(front.head("/metrics") + b"X-Prometheus-Scrape-Timeout-Seconds: 1e-9\r\n" + NOW)
    assert len(front.running.log().splitlines()) - before < 50


# --- odd


HIDING = [
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 0",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked",
    b"Content-Length: 0\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 0",
    b"Content-Length: 0, 5",
    b"Content-Length: 05",
    b"Content-Length: 5;",
    b"Content-Length: 5_0",
    b"Content-Length: 5 5",
    b"Content-Length:",
    b"Content-Length: \xd9\xa5",
    b"Transfer-Encoding\t: chunked",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked\0",
    b"\0Transfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding\r\n : chunked",
    b"Transfer-Encoding: chunked\r\n , identity",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\n\tTransfer-Encoding: chunked",
    b"Content-Encoding: gzip\r\nTransfer-Encoding: gzip, chunked",
    b"Content-Length: 5\r\nExpect: 100-continue",
    b"Content-Length: 5\r\nConnection: Content-Length",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 5",
]


@both
def test_nothing_that_hides_in_a_body_is_answered(front, mode):
    front = front(mode)
    hidden = b"0\r\n\r\n" + front.head("/hidden") + b"\r\n"
    with front.siege(10):
        for method in ("GET", "POST"):
            for header in HIDING:
                said = front.say(front.head("/metrics", method) + header + b"\r\n\r\n" + hidden)
                assert statuses(said)[0] in (200, 400, 405, 501), header
                assert b"nothing is served" not in said, header


@both
def test_only_the_path_itself_is_the_metrics(front, mode):
    front = front(mode)
    lines = {
        "GET /metrics HTTP/1.1": 200,
        "GET /metrics HTTP/1.0": 200,
        "GET /metrics HTTP/9.9": 200,
        "GET http://evil/metrics HTTP/1.1": 200,
        "GET //evil/metrics HTTP/1.1": 200,
        "GET //metrics HTTP/1.1": 404,
        "GET //evil HTTP/1.1": 404,
        "GET /metrics/ HTTP/1.1": 404,
        "GET /./metrics HTTP/1.1": 404,
        "GET /x/../metrics HTTP/1.1": 404,
        "GET /%6detrics HTTP/1.1": 404,
        "GET /metrics%00 HTTP/1.1": 404,
        "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1": 404,
        "GET file:///etc/passwd HTTP/1.1": 404,
        "GET * HTTP/1.1": 404,
        "OPTIONS * HTTP/1.1": 404,
        "CONNECT evil:443 HTTP/1.1": 404,
        "TRACE /metrics HTTP/1.1": 405,
        "POST /metrics HTTP/1.1": 405,
        "get /metrics HTTP/1.1": 405,
        "GET /metrics\0 HTTP/1.1": 400,
        "GET /m\xe9trics HTTP/1.1": 400,
        "GET http://[/metrics HTTP/1.1": 400,
        "GET /metrics": 400,
        "GET /metrics HTTP/1.10": 400,
        "GET /metrics http/1.1": 400,
        "PRI * HTTP/2.0": 404,
    }
    with front.siege(10):
        rest = b"\r\nHost: node\r\n" + front.credentials + NOW
        got = {line: statuses(front.say(line.encode("latin-1") + rest)) for line in lines}
    assert {line: [status] for line, status in lines.items()} == got


@both
@pytest.mark.parametrize("length", [b"Content-Length: 99999999999", b"Transfer-Encoding: chunked"])
def test_a_bomb_in_a_body_is_not_unpacked(front, mode, length):
    front = front(mode)
    head = front.head("/metrics", "POST") + b"Content-Encoding: gzip\r\nExpect: 100-continue\r\n" + length
    bomb, sent = gzip.compress(bytes(1 << 24)), 0
    with front.siege(10), front.open(head + b"\r\n\r\n") as client:
        with suppress(*GONE):
            for _ in range(2000):
                client.sendall(b"%x\r\n%s\r\n" % (len(bomb), bomb))
                sent += 1
        assert sent < 2000, "30 MB of a body were taken"
        assert statuses(read(client)) in ([], [405])


# --- TLS


def test_what_is_no_tls_or_an_old_one_ends_soon_and_costs_nothing(front):
    front = front(limits={"opening": 1.0})
    old = bytearray(hello())
    old[9:11] = b"\x03\x02"  # the version asked for; what would allow a newer one is overwritten
    old = bytes(old).replace(b"\x00\x2b", b"\xff\x2b", 1)
    huge = b"\x01\x02\x00\x00\x03\x03" + bytes(1 << 17)
    noise = {
        "in the clear": front.head("/metrics") + NOW,
        "TLS 1.1": old,
        "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80" + bytes(32),
        "a hello of 128 KiB": b"".join(
            b"\x16\x03\x01\x40\x00" + huge[start : start + (1 << 14)] for start in range(0, 1 << 17, 1 << 14)
        ),
        "records without content": b"\x16\x03\x01\x00\x00" * 50_000,
        "alerts": b"\x15\x03\x01\x00\x02\x01\x5a" * 50_000,
        "changes of cipher": b"\x14\x03\x03\x00\x01\x01" * 50_000,
        "noise": os.urandom(1 << 20),
        "a hello, then noise": hello() + os.urandom(1 << 20),
        "hello, hello": hello() * 2000,
    }
    with front.siege(20):
        watch, clients = front.running.stopwatch(), []
        for said in noise.values():
            clients.append(front.clear())
            with suppress(*GONE):
                clients[-1].sendall(said)
        assert [] == [what for what, client in zip(noise, clients, strict=True) if b"calico" in read(client)]
        assert watch.seconds() < 2 * SOON
        for length in range(0, len(hello()), 7):
            with front.clear(hello()[:length]) as client:
                client.shutdown(socket.SHUT_WR)
                assert b"" == read(client)[7:]  # an alert at most


@pytest.mark.parametrize("key", ["K", "k"])
def test_new_keys_without_end_are_cut(front, key):
    front = front()
    command = ["openssl", "s_client", "-tls1_3", "-connect", f"localhost:{front.running.ports[0]}"]
    updates = 0
    with front.siege(10):
        with (
            suppress(BrokenPipeError),  # also when what the client never took is flushed at the end
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as client,
        ):
            while updates < 200_000:
                client.stdin.write(f"{key}\n".encode())
                client.stdin.flush()
                while (line := client.stderr.readline()) and b"KEYUPDATE" not in line:
                    pass
                if not line:
                    break
                updates += 1
            client.kill()
        # What the client sent before it saw the end is in the buffers of the sockets, more where the server is slow.
        assert 1000 < updates < 200_000


@pytest.mark.parametrize("max_version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_record_for_each_byte_changes_nothing(front, max_version):
    front = front()
    with front.siege(10):
        client, wire, _, outgoing = by_hand(front, max_version)
        for byte in front.head("/metrics"):
            wire.write(bytes([byte]))
        for _ in range(50_000):
            wire.write(b"a")
        with suppress(*GONE):
            client.sendall(outgoing.read())
        assert len(read(client)) < 1000


def test_a_session_that_is_over_leaves_nothing_behind(front):
    front = front()
    context = front.context(certificate=True, max_version=ssl.TLSVersion.TLSv1_2)

    def visit(times):
        for _ in range(times):
            with front.open(context=context) as client, suppress(*GONE):
                client.unwrap()
        front.serves()
        return front.running.memory()

    assert -visit(200) + visit(500) < 2e6


def test_a_session_of_tls_1_3_is_not_resumed(front):
    front = front()
    context = front.context(certificate=True, max_version=ssl.TLSVersion.TLSv1_3)
    with front.open(front.head("/metrics") + NOW, context) as client:
        assert [200] == statuses(read(client))
        session = client.session
    with context.wrap_socket(front.clear(), server_hostname="localhost", session=session) as client:
        assert not client.session_reused


# --- credentials


def brute_force(front, addresses, each=4, source="127.0.1"):
    """Guesses of a password, on each connection again as soon as the last was answered."""
    number = count()
    clients = [front.clear(source=f"{source}.{1 + one}") for one in range(addresses) for _ in range(each)]
    fresh = list(clients)

    def guess():
        ready = fresh or select.select(clients, [], [], 0.1)[0]
        for client in list(ready):
            if not fresh:
                client.recv(1 << 16)
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: node\r\n" + basic(b"bob", b"%d" % next(number)) + b"\r\n")
        fresh.clear()

    return guess


def test_brute_force_takes_a_tenth_of_a_cpu(front):
    front = front("users", cost=10)
    with front.siege(10), meanwhile(brute_force(front, 8)):
        time.sleep(0.5)
        start, before = time.monotonic(), front.cpu()
        time.sleep(3)
        assert 0.02 < (front.cpu() - before) / (time.monotonic() - start) < 0.3


@pytest.mark.parametrize("source", ["127.0.1", "127.0.0"], ids=["from elsewhere", "from its own address"])
def test_a_known_user_is_served_at_once_during_brute_force(front, source):
    front = front("users", cost=10)
    with front.siege(10), meanwhile(brute_force(front, 1, 30, source)):
        for _ in range(5):
            time.sleep(0.2)
            front.serves()


def test_checks_of_those_who_leave_are_forgotten(front):
    front = front("users", cost=12)
    said = b"GET /metrics HTTP/1.1\r\nHost: node\r\n" + basic(b"bob", b"x" * 11_000) + b"\r\n"

    def leave():
        client = front.clear(said)
        time.sleep(0.0005)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    with front.siege(20), meanwhile(leave):
        time.sleep(4)


@both
def test_what_is_no_password_is_refused(front, mode):
    front = front(mode if mode == "TLS" else "users")
    for header in (
        BOB + BOB,
        BOB + basic(b"bob", b"wrong"),
        BOB.replace(b"Basic ", b"Basic  Basic "),
        BOB.replace(b"Basic", b"Bearer"),
        BOB.replace(b"\r", b"=\r"),
        BOB.replace(b"Basic ", b"Basic \xff"),
        b"Authorization: Basic " + b"A" * 15_000 + b"\r\n",
        b"Authorization: Basic\r\n",
        b"Authorization: \r\n",
        basic(b"bob", b"secret\0"),
        basic(b"bob\0", b"secret"),
        basic(b"\xff\xfe", b"secret"),
        basic(b"bob", b""),
        basic(b"", b""),
    ):
        assert [401] == statuses(front.say(b"GET /metrics HTTP/1.1\r\nHost: node\r\n" + header + NOW)), header
    front.serves()


def test_unauthenticated_clients_use_up_nothing_of_the_rate(front):
    front = front(text="rate_limit: {interval: 1h, burst: 2}")
    for wrong in (b"", b"Authorization: Basic\r\n", *(basic(b"bob", b"%d" % one) for one in range(5))):
        for path in (b"/metrics", b"/", b"/nothing"):
            assert [401] == statuses(front.say(b"GET " + path + b" HTTP/1.1\r\nHost: node\r\n" + wrong + NOW))
    assert [200, 200, 429] == [front.scrape()[0] for _ in range(3)]
