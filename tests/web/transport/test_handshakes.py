"""Malicious clients before or beside HTTP, in TLS: bounded in memory, threads and time; a scrape goes through."""

import random
import socket
import ssl
import subprocess
import time
from contextlib import suppress

import pytest

from tests.web.authority import Authority

GET = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("pki"))
    authority.issue("server", "IP:127.0.0.1", "DNS:localhost")
    return authority


@pytest.fixture
def secure(authority, tmp_path, server):
    """Starts a server in TLS; `raw` connections to it are in the clear, `ask` is in TLS."""

    def start(fields="", **options):
        config = tmp_path / "web.yml"
        pem = authority.folder / "server"
        config.write_text(
            f"tls_server_config: {{cert_file: {pem}.pem, key_file: {pem}.key, {fields}}}", encoding="utf-8"
        )
        running = server(web_config=str(config), trust=str(authority.ca), **options)
        assert 200 == running.ask().status
        return running

    return start


def clear(running):
    """A TCP connection without TLS, closed with the others."""
    client = socket.create_connection(("127.0.0.1", running.ports[0]))
    client.settimeout(10)
    running.keep(client)
    return client


def hello(**fields):
    """The first message of a client, as the ssl library writes it."""
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def scrape_in_time(running):
    watch = running.stopwatch()
    assert 200 == running.ask().status
    assert watch.seconds() < 5


NOISE = {
    "noise": random.Random(1).randbytes(5000),
    "zeros": bytes(5000),
    "http": GET,
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "ssl 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80" + bytes(32),
    "a hello without end": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(1 << 18),
    "half a hello": hello()[:100],
    "a hello, then noise": hello() + random.Random(2).randbytes(5000),
    "two hellos": hello() * 2,
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "data before the handshake": b"\x17\x03\x03\x00\x10" + bytes(16),
    "nothing": b"",
}


@pytest.mark.parametrize("said", NOISE.values(), ids=NOISE)
def test_what_is_no_handshake_ends_and_is_no_answer_of_the_exporter(secure, read_to_end, said):
    running = secure(limits={"opening": 1.0})
    with clear(running) as client, suppress(ConnectionError):
        client.sendall(said)
        answer = read_to_end(client)
        assert b"calico_bpf" not in answer
    scrape_in_time(running)


def test_http_on_the_port_of_https_is_told_so(secure, read_to_end):
    with clear(secure()) as client:
        client.sendall(GET)
        answer = read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b"\r\n\r\nthis port serves HTTPS: use https://\n")


@pytest.mark.parametrize("said", [b"", hello()[:50], hello()], ids=["silent", "half a hello", "a hello and no more"])
def test_a_thousand_connections_that_never_finish_a_handshake_delay_nobody(secure, many_descriptors, said):
    running = secure()
    memory, threads = running.memory(), running.threads()
    for _ in range(1000):
        clear(running).sendall(said)
    scrape_in_time(running)
    assert running.memory() - memory < 50e6
    assert threads == running.threads()
    assert running.descriptors() < 600


@pytest.mark.parametrize("said", [b"", GET], ids=["silent", "after a scrape"])
def test_a_thousand_idle_connections_in_tls_delay_nobody(secure, many_descriptors, said):
    running = secure()
    memory, threads = running.memory(), running.threads()
    for _ in range(1000):
        with suppress(ConnectionError, ssl.SSLError):  # the oldest are evicted for the newest
            running.open(said)
    scrape_in_time(running)
    assert running.memory() - memory < 40e6
    assert threads == running.threads()
    assert running.descriptors() < 600


def test_a_handshake_that_comes_byte_by_byte_is_cut_in_time(secure):
    running = secure(limits={"opening": 1.0})
    start, watch = time.monotonic(), running.stopwatch()
    with clear(running) as client, suppress(ConnectionError):
        for byte in hello():
            client.sendall(bytes([byte]))
            time.sleep(0.05)
    assert 0.8 < time.monotonic() - start
    assert watch.seconds() < 4


def test_a_handshake_and_the_first_request_have_one_limit(secure, read_to_end):
    running = secure(limits={"opening": 1.0})
    with clear(running) as client:
        watch = running.stopwatch()
        time.sleep(0.7)
        with running.secured(client) as secured:
            assert b"" == read_to_end(secured)
        assert watch.seconds() < 1.5


def s_client(running, *words, said):
    """What a person types into openssl's client; what came."""
    command = ["openssl", "s_client", "-connect", f"localhost:{running.ports[0]}", *words]
    return subprocess.run(command, input=said, capture_output=True, check=False, timeout=60)


def test_a_client_cannot_ask_for_a_new_handshake_in_tls_1_2(secure):
    running = secure()
    done = s_client(running, "-tls1_2", said=b"R\n" * 5)
    assert b"no renegotiation" in done.stderr
    scrape_in_time(running)


def test_new_keys_without_end_are_cut(secure):
    running = secure()
    before = running.memory()
    watch = running.stopwatch()
    s_client(running, "-tls1_3", said=b"K\n" * 20_000)
    assert watch.seconds() < 60
    scrape_in_time(running)
    assert running.memory() - before < 20e6


def test_sessions_that_are_begun_and_left_leave_no_memory(secure, authority):
    running = secure()
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET

    def visit(times):
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", running.ports[0])) as client:
                context.wrap_socket(client, server_hostname="localhost").close()

    visit(300)
    before = running.memory()
    visit(1500)
    assert running.memory() - before < 5e6


def test_a_bomb_in_a_body_is_not_unpacked(secure):
    running = secure()
    before = running.memory()
    head = b"GET /metrics HTTP/1.1\r\nHost: node\r\nContent-Encoding: gzip\r\nContent-Length: 1000000000\r\n\r\n"
    assert b" 200 OK\r\n" in running.raw(head + b"\x1f\x8b\x08" + bytes(1 << 20))
    assert running.memory() - before < 20e6
    scrape_in_time(running)
