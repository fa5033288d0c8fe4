"""Slow, flooding and malformed clients: an answer or a close, and the server as it was before."""

import random
import socket
import ssl
import struct
import time
from contextlib import suppress
from functools import partial

import pytest

from tests.web.authority import Authority

HEAD = b"GET /healthz HTTP/1.1\r\nHost: node\r\n"
CLOSE = b"Connection: close\r\n"
OK = b"ok\n"
GONE = (ConnectionError, ssl.SSLError)


@pytest.fixture(scope="module", params=["in the clear", "in TLS"])
def wire(request, tmp_path_factory):
    """Options of a server: all that a client may do to it, it may do in TLS too."""
    if request.param == "in the clear":
        return {}
    authority = Authority(tmp_path_factory.mktemp("wire"))
    pem, key = authority.issue("server", "IP:127.0.0.1")
    config = authority.folder / "web.yml"
    config.write_text(f"tls_server_config: {{cert_file: {pem}, key_file: {key}}}", encoding="utf-8")
    return {"trust": str(authority.ca), "web_config": str(config)}


@pytest.fixture
def server(server, wire):
    """Starts a server for one test, with options of `node_server.py`."""
    return partial(server, **wire)


@pytest.fixture(scope="module")
def sturdy(shared_server, wire, until):
    """A server for hostile clients; after all of them it has the threads and descriptors that it had before."""
    running = shared_server(limits={"opening": 1.0, "reading": 1.0, "idle": 2.4, "sending": 2.0}, **wire)
    descriptors = running.descriptors()
    assert 200 == running.ask().status
    assert until(lambda: running.descriptors() == descriptors)  # a client in TLS is told of the end before it is closed
    threads = running.threads()
    yield running
    assert 200 == running.ask().status
    assert until(lambda: (threads, descriptors) == (running.threads(), running.descriptors()))


def half_close(client):
    # Of TLS's own socket this would end TLS too, and what comes could not be read.
    socket.socket.shutdown(client, socket.SHUT_WR)


def statuses(raw):
    """The status codes of the responses in these bytes."""
    return [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\nHost: node\nConnection: close\n\n", 400),
        (b"GET http://[::1]:10042/healthz?x HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 200),
        (b"GET /healthz#fragment HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 200),
        (b"GET http://node/nothing HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 404),
        (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 404),
        (b"TRACE /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 405),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /healthz HTTP/9.9\r\nHost: node\r\nConnection: close\r\n\r\n", None),
        (b"GET /healthz HTTP/1.1 extra\r\nHost: node\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\nHost: node\r\n\r\n", 400),
        (b"GET /heal thz HTTP/1.1\r\nHost: node\r\n\r\n", 400),
        (b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: node\r\n\r\n", 400),
        (b"GET /healthz\0 HTTP/1.1\r\nHost: node\r\n\r\n", 400),
        (b"G\0T /healthz HTTP/1.1\r\nHost: node\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 400),
        (b"\0" * 100 + b"\r\n\r\n", 400),
        (b"\xff" * 100 + b"\r\n\r\n", 400),
        (HEAD + b"X: a\r\n b\r\n" + CLOSE + b"\r\n", None),
        (b"GET //[ HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 400),
        (b"GET http://[/ HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", 400),
        (b"CONNECT node:443 HTTP/1.1\r\nHost: node\r\n\r\n", None),
        (b"OPTIONS * HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), None),
        (b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.1\r\nHost: node\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", 200),
    ],
)  # fmt: skip
def test_a_strange_request_is_answered_and_closed(sturdy, head, expected):
    raw = sturdy.raw(head)
    assert raw.startswith(b"HTTP/1.1 ")
    if expected:
        assert expected == statuses(raw)[0]
    assert b"root:" not in raw


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length : 5\r\n\r\nhello",
        HEAD + b"Content-Length: +5\r\n\r\nhello",
        HEAD + b"Content-Length: 0x5\r\n\r\nhello",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 5, 6\r\n\r\nhello",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 5\r\n\r\nhello",
        HEAD + b"X: a\r\n Content-Length: 5\r\n" + CLOSE + b"\r\n",
        HEAD + b": no name\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"X: a\rContent-Length: 5\r\n\r\n",
        HEAD + b"X: \0\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: node\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /healthz HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_a_second_request_hidden_behind_an_ambiguous_body_is_never_served(sturdy, head):
    raw = sturdy.raw(head + b"GET /smuggled HTTP/1.1\r\nHost: node\r\n\r\n")
    assert 1 >= len(statuses(raw))
    assert b"nothing is served here" not in raw


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n%b\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n%b\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n%b\r\n",
        HEAD + b"X: a\nContent-Length: 5\r\n%b\r\n",
        HEAD + b"X: a\n%b\r\n",
        HEAD + b"%b\n",
        HEAD.replace(b"\r\n", b"\n") + b"%b\n",
    ],
)
def test_a_head_that_another_server_may_read_differently_is_refused(sturdy, head, connection):
    raw = sturdy.raw(head % connection + b"GET /smuggled HTTP/1.1\r\nHost: node\r\n\r\n")
    assert [400] == statuses(raw)


def test_a_body_may_have_any_line_ends(sturdy):
    raw = sturdy.raw(b"POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 4\r\n\r\na\nb\n")
    assert [405] == statuses(raw)


def test_a_body_is_not_waited_for(sturdy):
    watch = sturdy.stopwatch()
    raw = sturdy.raw(b"POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 1000000000\r\n\r\n")
    assert [405] == statuses(raw)
    assert watch.seconds() < 0.9


def test_a_client_that_floods_with_a_body_is_closed(sturdy):
    before = sturdy.memory()
    with sturdy.open(b"POST /metrics HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n") as client:
        pieces = 0
        with suppress(*GONE):
            while pieces < 2000:
                client.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
                pieces += 1
    assert pieces < 2000, "64 MB of a body that nobody wants were taken"
    assert sturdy.memory() - before < 20e6


def test_requests_in_a_row_are_answered_in_their_order(sturdy):
    requests = [
        b"GET /%s HTTP/1.1\r\nHost: node\r\n%s\r\n"
        % (b"healthz" if one % 3 else b"nothing", CLOSE if one == 199 else b"")
        for one in range(200)
    ]
    assert [200 if one % 3 else 404 for one in range(200)] == statuses(sturdy.raw(b"".join(requests)))


def test_a_request_may_come_byte_by_byte(sturdy, read_to_end):
    with sturdy.open() as client:
        for byte in HEAD + CLOSE + b"\r\n":
            client.sendall(bytes([byte]))
        assert read_to_end(client).endswith(OK)


def test_what_is_cut_off_is_refused_or_closed(sturdy, read_to_end):
    request = HEAD + b"\r\n"
    for length in range(len(request)):
        with sturdy.open(request[:length]) as client:
            half_close(client)
            assert statuses(read_to_end(client)) in ([], [400])


@pytest.mark.parametrize(
    "header",
    [
        b"X-Long: " + b"a" * 1_000_000,
        b"X-%s: 1" % (b"a" * 1_000_000),
        b"\r\n".join(b"X-%d: 1" % number for number in range(10_000)),
        b"\r\n".join(b"a:" for _ in range(100_000)),
        b"X: " + b"\r\n b" * 100_000,
    ],
    ids=["long value", "long name", "10000 headers", "100000 headers", "100000 folds"],
)
def test_a_head_without_measure_is_refused(sturdy, header):
    before = sturdy.memory()
    raw = sturdy.raw(HEAD + header + b"\r\n" + CLOSE + b"\r\n")
    assert statuses(raw) in ([], [431], [400])  # a close with data unread may lose the answer on its way
    assert sturdy.memory() - before < 20e6


@pytest.mark.parametrize("target", [b"/" + b"a" * 1_000_000, b"/metrics?" + b"&" * 1_000_000])
def test_a_target_without_measure_is_refused(sturdy, target):
    assert statuses(sturdy.raw(b"GET " + target + b" HTTP/1.1\r\nHost: node\r\n\r\n")) in ([], [431], [414], [400])


def test_a_head_larger_than_the_limit_is_refused_however_it_arrives(sturdy):
    raw = sturdy.raw(HEAD + b"X: " + b"a" * 40_000 + b"\r\n" + CLOSE + b"\r\n")
    assert [431] == statuses(raw)


def test_a_head_below_the_limit_is_taken(sturdy):
    assert [200] == statuses(sturdy.raw(HEAD + b"X: " + b"a" * 15_000 + b"\r\n" + CLOSE + b"\r\n"))


def test_noise_is_answered_or_closed(sturdy):
    noise = random.Random(1)
    request = HEAD + b"Accept: */*\r\n" + CLOSE + b"\r\n"
    for _ in range(150):
        damaged = bytearray(request)
        for _ in range(noise.randrange(1, 8)):
            damaged[noise.randrange(len(damaged))] = noise.randrange(256)
        with sturdy.open(bytes(damaged)) as client:
            half_close(client)
            raw = client.recv(1 << 16)
        assert raw == b"" or raw.startswith(b"HTTP/1.1 ")


def is_closed_between(least, most, running, client):
    """Whether the server closes the connection after so many seconds."""
    start, watch = time.monotonic(), running.stopwatch()
    with suppress(*GONE):
        while client.recv(1 << 16):
            pass
    return least < time.monotonic() - start and watch.seconds() < most


def test_a_client_that_says_nothing_is_cut(sturdy):
    with sturdy.open() as client:
        assert is_closed_between(0.8, 3, sturdy, client)


def test_a_client_that_stops_in_the_middle_of_a_head_is_cut(sturdy):
    with sturdy.open(HEAD) as client:
        assert is_closed_between(0.8, 3, sturdy, client)


def test_a_client_that_sends_a_byte_now_and_then_is_cut_at_the_same_time(sturdy):
    start, watch = time.monotonic(), sturdy.stopwatch()
    with sturdy.open() as client, suppress(*GONE):
        for byte in HEAD * 10:
            client.sendall(bytes([byte]))
            time.sleep(0.2)
            assert watch.seconds() < 3, "it is still listened to"
    assert time.monotonic() - start > 0.8


def test_an_idle_connection_may_wait_longer_but_not_in_the_middle_of_its_next_head(sturdy):
    with sturdy.open() as client:
        assert OK == sturdy.exchange(client, HEAD + b"\r\n").body
        time.sleep(1.3)  # more than the head may take
        assert OK == sturdy.exchange(client, HEAD + b"\r\n").body
        client.sendall(HEAD)
        assert is_closed_between(0.8, 2.2, sturdy, client)


def test_an_idle_connection_is_closed_in_the_end(sturdy):
    with sturdy.open() as client:
        assert OK == sturdy.exchange(client, HEAD + b"\r\n").body
        assert is_closed_between(2, 5, sturdy, client)


def test_400_half_open_and_silent_connections_delay_nobody(server):
    running = server()
    threads = running.threads()
    for number in range(400):
        running.open(HEAD if number % 2 else b"")
    watch = running.stopwatch()
    answer = running.ask()
    assert watch.seconds() < 2
    assert 200 == answer.status
    assert threads == running.threads()


BIG = [{"name": "big", "rows": 20_000}]  # some 10 MB
GET_BIG = b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"


def test_clients_that_never_read_hold_one_piece_each_and_not_the_body(server, until):
    running = server(extra=BIG, limits={"sending": 1.0})
    size = len(running.ask().body)
    assert size > 10e6
    before = running.memory()
    for _ in range(20):
        running.open(GET_BIG, receive_buffer=4096)
    most = max(running.memory() for _ in range(20) if time.sleep(0.05) is None)
    # Three bodies wait to be sent at most, one or two more are being made: far from one for each of the 20.
    assert most - before < 10 * size
    assert 200 == running.ask("/healthz").status


def test_clients_that_ask_in_turn_and_never_read_do_not_hold_a_body_each(server, read_to_end, answer):
    running = server(extra=BIG)
    size = len(running.ask().body)

    def most_after(clients):
        held = []
        for _ in range(clients):
            running.open(GET_BIG, receive_buffer=4096).recv(
                1
            )  # it is being sent: whoever asks now gets another snapshot
            held.append(running.memory())
        return max(held)

    assert most_after(10) + 4 * size > most_after(20)
    with running.open(GET_BIG) as client:
        assert size * 0.9 < len(answer(read_to_end(client)).body)


def test_clients_that_never_read_are_cut(server, until):
    running = server(extra=BIG, limits={"sending": 1.0})
    before = running.descriptors()
    running.ask("/healthz")
    assert until(lambda: running.descriptors() <= before)  # a client in TLS is told of the end before it is closed
    for _ in range(10):
        running.open(GET_BIG, receive_buffer=4096)
    assert until(lambda: running.descriptors() > before)
    watch = running.stopwatch()
    assert until(lambda: running.descriptors() <= before)
    assert watch.seconds() < 4


def test_a_client_that_reads_slowly_gets_all_of_a_large_body(server, read_to_end, answer):
    running = server(extra=BIG)
    with running.open(GET_BIG, receive_buffer=65536) as client:
        time.sleep(0.5)
        whole = answer(read_to_end(client))
    assert str(len(whole.body)) == whole.headers["content-length"]


def test_a_client_that_leaves_in_the_middle_of_a_body_harms_nobody(server, until):
    running = server(extra=BIG)
    before = running.descriptors()
    running.ask("/healthz")
    assert until(lambda: running.descriptors() == before)  # a client in TLS is told of the end before it is closed
    for _ in range(5):
        with running.open(GET_BIG) as client:
            client.recv(1000)
    assert until(lambda: running.descriptors() == before)
    assert 200 == running.ask().status


SLOW = [{"name": "slow", "seconds": 0.4}]


def test_a_client_that_has_only_closed_its_own_side_gets_its_answer(server, read_to_end, answer):
    running = server(extra=SLOW)
    with running.open(GET_BIG) as client:
        half_close(client)
        assert 200 == answer(read_to_end(client)).status


def test_a_client_that_resets_while_its_scrape_is_made_harms_nobody(server, until):
    running = server(extra=SLOW)
    before = running.descriptors()
    running.ask("/healthz")
    assert until(lambda: running.descriptors() == before)  # a client in TLS is told of the end before it is closed
    for _ in range(5):
        with running.open(GET_BIG) as client:
            time.sleep(0.05)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert until(lambda: running.descriptors() == before)
    assert 200 == running.ask().status


def test_requests_sent_while_the_first_is_worked_on_are_answered_after_it(server, read_to_end):
    running = server(extra=SLOW)
    first = b"GET /metrics?collect[]=slow HTTP/1.1\r\nHost: node\r\n\r\n"
    padding = b"X: " + b"a" * 1000 + b"\r\n"
    with running.open(first) as client:
        time.sleep(0.1)
        client.sendall((HEAD + padding + b"\r\n") * 100 + b"GET /nothing HTTP/1.1\r\nHost: node\r\n" + CLOSE + b"\r\n")
        assert [200] * 101 + [404] == statuses(read_to_end(client))


def test_a_response_does_not_wait_for_the_client_to_acknowledge_its_head(server):
    running = server()
    with running.open() as client:
        running.exchange(client, HEAD + b"\r\n")
        watch = running.stopwatch()
        for _ in range(50):
            running.exchange(client, HEAD + b"\r\n")
        assert watch.seconds() < 1  # 40 ms each, if it did


@pytest.mark.parametrize(
    "error",
    ["OSError", "ConnectionResetError", "TimeoutError", "SSLError", "ValueError", "RuntimeError", "MemoryError"],
)
def test_whatever_a_handler_raises_is_answered_and_in_the_log_and_the_connection_goes_on(
    unchecked_server, wire, error, until
):
    running = unchecked_server(failing=error, **wire)
    with running.open() as client:
        for _ in range(3):
            answer = running.exchange(client, HEAD + b"\r\n")
            assert 500 == answer.status
            assert f"unexpected error ({error}), please report it with the log's traceback\n" == answer.text
    assert until(lambda: "Traceback" in running.log())
    assert 1 == running.log().count("unexpected error in a request for '/healthz'")
