"""Listening, admitting and stopping: sentences for addresses, eviction, an end within a second."""

import asyncio
import errno
import os
import select
import signal
import socket
import time
from contextlib import suppress
from ipaddress import IPv6Address

import pytest

from exporter.web.transport import listener as listeners
from exporter.web.transport.listener import ListenError, open_listener
from exporter.web.transport.server import Server

HEAD = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"
GET = b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no [::1]")


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        ":-1",
        ":65536",
        ":1e3",
        ":" + "9" * 400,
        ":\u0661\u0662",
        ":1 ",
        "::1",
        "fd00::5",
        "fd00::abcd",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7:8:9:10042",
        "fd00::::10042",
        "fd00::5:99999",
        "[fd00::5]",
        "[[::1]]:10042",
        "1.2.3.4:5:6",
        "host:80:10042",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(address):
    with pytest.raises(ListenError, match=r"is not HOST:PORT, for example :10042") as caught:
        open_listener(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "999.9.9.9:0",
        "192.0.2.1:0",
        "[2001:db8::1]:0",
        "no.such.host.invalid:0",
        "[zz]:0",
    ],
)
def test_an_address_that_is_not_here_is_a_sentence(address):
    with pytest.raises(ListenError, match="cannot listen on") as caught:
        open_listener(address)
    assert "\n" not in str(caught.value)


def test_a_port_in_use_is_a_sentence():
    with open_listener("127.0.0.1:0") as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"cannot listen on {address}: Address already in use$"):
            open_listener(address)


def test_an_empty_host_is_every_address_of_ipv4_and_ipv6(unchecked_server):
    running = unchecked_server(listen=[":0"])
    assert 200 == running.ask("/healthz").status
    if has_ipv6():
        assert 200 == running.ask("/healthz", host="::1").status


def test_every_address_is_served(unchecked_server):
    running = unchecked_server(listen=["127.0.0.1:0", "127.0.0.1:0"])
    assert 2 == len(set(running.ports))
    assert [200, 200] == [running.ask(port=port).status for port in running.ports]


@pytest.mark.parametrize(
    ("address", "bracketed"),
    [
        ("fd00::5:10042", "[fd00::5]:10042"),
        (":::10042", "[::]:10042"),
        ("::1:10042", "[::1]:10042"),
        ("fe80::1%eth0:10042", "[fe80::1%eth0]:10042"),
        ("::ffff:192.0.2.1:10042", f"[{IPv6Address('::ffff:192.0.2.1')}]:10042"),  # Python 3.13 writes it differently
        ("1:2:3:4:5:6:7:8:10042", "[1:2:3:4:5:6:7:8]:10042"),
        ("[fd00::5]:10042", "[fd00::5]:10042"),
        (":10042", ":10042"),
        ("127.0.0.1:10042", "127.0.0.1:10042"),
        ("localhost:10042", "localhost:10042"),
    ],
)
def test_what_comes_after_the_last_colon_of_an_address_without_brackets_is_the_port(address, bracketed):
    assert bracketed == listeners._bracketed(address)


@needs_ipv6
@pytest.mark.parametrize("address", ["[::1]:0", "::1:0", "0:0:0:0:0:0:0:1:0"])
def test_an_ipv6_address_is_served(unchecked_server, address):
    running = unchecked_server(listen=[address])
    assert 200 == running.ask(host="::1").status
    with pytest.raises(ConnectionRefusedError):
        running.ask()


def test_a_free_port_after_a_stop_is_free_at_once(unchecked_server):
    port = free_port()
    for _ in range(2):
        running = unchecked_server(listen=[f"127.0.0.1:{port}"])
        with running.open() as client:
            running.exchange(client, HEAD)
            running.stop()


def closed(client):
    client.settimeout(0.1)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


FEW_DESCRIPTORS, MAX_CONNECTIONS = 256, 96  # descriptors, and the connections that they allow


def test_at_the_cap_the_oldest_idle_connection_is_evicted(unchecked_server):
    running = unchecked_server(descriptors=FEW_DESCRIPTORS)
    clients = [running.open() for _ in range(MAX_CONNECTIONS)]
    for client in clients:
        assert 200 == running.exchange(client, HEAD).status
    for number in range(3):
        assert 200 == running.ask().status
        assert [True, False] == [closed(client) for client in clients[number : number + 2]]
        clients.append(running.open())
        assert 200 == running.exchange(clients[-1], HEAD).status
    assert [False] * 4 == [
        closed(client) for client in (clients[3], clients[4], clients[MAX_CONNECTIONS - 1], clients[-1])
    ]


def test_a_flood_of_connections_turns_no_scrape_away(unchecked_server):
    running = unchecked_server(descriptors=FEW_DESCRIPTORS)
    for _ in range(3 * MAX_CONNECTIONS):
        running.open()
    assert [200, 200] == [running.ask().status, running.ask("/readyz").status]
    assert running.descriptors() <= FEW_DESCRIPTORS


def test_a_request_being_worked_on_is_not_evicted(unchecked_server, read_to_end, answer):
    running = unchecked_server(descriptors=FEW_DESCRIPTORS, extra=[{"name": "slow", "seconds": 1}])
    with running.open(GET) as oldest:
        time.sleep(0.2)
        for _ in range(2 * MAX_CONNECTIONS):
            running.open()
        whole = answer(read_to_end(oldest))
    assert 200 == whole.status
    assert str(len(whole.body)) == whole.headers["content-length"]


def test_a_response_being_sent_is_not_evicted(unchecked_server, read_to_end, answer):
    running = unchecked_server(descriptors=FEW_DESCRIPTORS, extra=[{"name": "big", "rows": 20_000}])
    with running.open(GET, receive_buffer=65536) as oldest:
        time.sleep(0.5)
        for _ in range(2 * MAX_CONNECTIONS):
            running.open()
        whole = answer(read_to_end(oldest))
    assert whole.headers["content-length"] == str(len(whole.body))


def test_eviction_is_not_logged_as_an_error(unchecked_server):
    running = unchecked_server(descriptors=FEW_DESCRIPTORS)
    for _ in range(MAX_CONNECTIONS + 5):
        running.open()
    assert 200 == running.ask().status
    assert "Traceback" not in running.log()


def addresses(number):
    """So many clients' addresses, five of them in turn: none has a large part of the places."""
    return [f"127.0.0.{11 + place % 5}" for place in range(number)]


def test_with_every_connection_busy_a_new_client_is_closed_and_does_not_hang(server, until):
    running = server(descriptors=FEW_DESCRIPTORS, max_requests=0, extra=[{"name": "slow", "seconds": 30}])
    assert 200 == running.ask("/healthz").status
    for address in addresses(MAX_CONNECTIONS):
        running.open(GET, source=address)

    def refuses():
        client = running.open(HEAD)
        if closed(client):
            return True
        # A request that had not been read yet was not worked on: its place is taken again.
        client.close()
        running.open(GET, source="127.0.0.16")
        return False

    assert until(refuses)


def test_one_address_with_every_place_busy_keeps_nobody_else_out(server, until, read_to_end, answer):
    running = server(descriptors=FEW_DESCRIPTORS, max_requests=0, extra=[{"name": "slow", "seconds": 3}])
    before = running.descriptors()
    scraper = running.open(GET, source="127.0.0.2")
    greedy = [running.open(GET) for _ in range(MAX_CONNECTIONS - 1)]
    assert until(lambda: running.descriptors() == before + MAX_CONNECTIONS)
    time.sleep(0.2)  # all are being worked on
    assert 200 == running.ask("/healthz", source="127.0.0.3").status
    assert [True, False] == [closed(client) for client in greedy[:2]]
    assert 200 == answer(read_to_end(scraper)).status


def test_when_no_client_reads_the_longest_waiting_is_evicted(server, until):
    slow_and_big = [{"name": "slow", "seconds": 0.5}, {"name": "big", "rows": 25_000}]  # so all share two bodies
    running = server(descriptors=FEW_DESCRIPTORS, max_requests=0, extra=slow_and_big)
    before = running.descriptors()
    clients = [running.open(GET, receive_buffer=4096, source=address) for address in addresses(MAX_CONNECTIONS)]
    assert until(lambda: running.descriptors() == before + MAX_CONNECTIONS)
    assert until(lambda: all(client.recv(1, socket.MSG_PEEK) for client in clients))
    assert 200 == running.ask("/healthz").status
    assert before + MAX_CONNECTIONS - 1 == running.descriptors()


def test_a_burst_of_400_connections_waits_for_no_second_try(server):
    running = server()
    running.process.send_signal(signal.SIGSTOP)
    poll = select.poll()
    for _ in range(400):
        poll.register(running.begin(), select.POLLOUT)
    time.sleep(0.5)
    connected = [events for _, events in poll.poll(0) if events == select.POLLOUT]
    running.process.send_signal(signal.SIGCONT)
    assert 400 == len(connected)


# Once: with the usual 1024 descriptors, 512 connections and a queue of 512 leave none: asyncio accepts the whole queue
# before one of them is evicted, logs a traceback about it and accepts nobody for a second.
def test_a_burst_on_top_of_a_full_house_leaves_descriptors_for_a_scrape(many_descriptors, unchecked_server):
    running = unchecked_server(descriptors=1024)
    for _ in range(2):
        running.process.send_signal(signal.SIGSTOP)
        for _ in range(512):
            running.begin()
        running.process.send_signal(signal.SIGCONT)
        watch = running.stopwatch()
        assert 200 == running.ask().status
        assert watch.seconds() < 2
    assert "Traceback" not in running.log()


def stopped_within_a_second(unchecked_server, use):
    """A server that was stopped while it was used, and its clients."""
    running = unchecked_server(extra=[{"name": "slow", "seconds": 0.3}])
    assert 200 == running.ask("/healthz").status
    clients = use(running)
    code, seconds = running.stop()
    assert 0 == code
    assert seconds < 1
    return running, clients


def test_it_stops_within_a_second_when_nobody_is_there(unchecked_server):
    running, _ = stopped_within_a_second(unchecked_server, lambda running: [])
    assert "Traceback" not in running.log()


def test_it_stops_within_a_second_beside_idle_and_half_open_connections(unchecked_server, read_to_end):
    def use(running):
        clients = [running.open(data) for data in (HEAD, HEAD, b"", b"", HEAD[:20], HEAD[:-2]) * 5]
        time.sleep(0.1)
        return clients

    running, clients = stopped_within_a_second(unchecked_server, use)
    for client in clients:
        read_to_end(client)
    assert "Traceback" not in running.log()


def test_a_request_in_progress_is_answered_before_it_stops(unchecked_server, read_to_end, answer):
    def use(running):
        clients = [running.open(GET), running.open(GET.replace(b"Connection: close\r\n", b""))]
        time.sleep(0.15)
        return clients

    _, clients = stopped_within_a_second(unchecked_server, use)
    answers = [answer(read_to_end(client)) for client in clients]
    assert [(200, 1)] * 2 == [(one.status, one.success("slow")) for one in answers]


def test_a_client_that_stays_to_the_end_is_not_logged_as_an_error(unchecked_server):
    def use(running):
        client = running.open(GET.replace(b"Connection: close\r\n", b""))
        time.sleep(0.15)
        return [client]

    running, _ = stopped_within_a_second(unchecked_server, use)
    assert "Traceback" not in running.log()


def test_a_response_being_sent_is_finished_before_it_stops(unchecked_server, answer):
    running = unchecked_server(extra=[{"name": "big", "rows": 20_000}])
    with running.open(GET, receive_buffer=65536) as client:
        raw = client.recv(1000)
        running.process.terminate()
        try:
            while piece := client.recv(1 << 20):
                raw += piece
        except ConnectionError:
            pass
    whole = answer(raw)
    assert whole.headers["content-length"] == str(len(whole.body))
    assert 0 == running.process.wait(5)


def test_a_hanging_collector_does_not_keep_it_from_stopping(unchecked_server):
    running = unchecked_server(extra=[{"name": "hang", "seconds": 60}])
    with running.open(GET):
        time.sleep(0.2)
        code, seconds = running.stop()
    assert 0 == code
    assert seconds < 2


def test_an_interrupt_stops_it_too(unchecked_server):
    running = unchecked_server()
    assert 200 == running.ask("/healthz").status
    running.process.send_signal(signal.SIGINT)
    assert 0 == running.process.wait(5)
    assert "Traceback" not in running.log()


def test_clients_that_come_in_the_moment_of_its_end_are_no_error():
    met, clients = [], []

    async def crowd(listener):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: met.append(context))
        running = asyncio.create_task(Server([listener], never).run())
        await asyncio.sleep(0)  # it listens to signals
        os.kill(os.getpid(), signal.SIGTERM)
        while not running.done():  # one more in each turn of the loop, that of the end included
            with suppress(ConnectionRefusedError):
                clients.append(socket.create_connection(listener_address))
            await asyncio.sleep(0)

    async def never(_):
        raise AssertionError

    listener = open_listener("127.0.0.1:0")
    listener_address = listener.getsockname()
    asyncio.run(crowd(listener))
    for client in clients:
        client.close()
    assert len(clients) > 1
    assert [] == met


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EPERM, errno.ECONNABORTED])
def test_every_error_of_accept_waits_and_is_logged_once(number, caplog):
    # ENOSPC: the kernel counts watches of epoll by user, and another process of the user can have taken all.
    attempts = []

    async def refuse(_):
        attempts.append(number)
        assert len(attempts) < 100, "it does not wait"
        raise OSError(number, os.strerror(number))

    async def accepting():
        asyncio.get_running_loop().sock_accept = refuse
        with socket.create_server(("127.0.0.1", 0)) as listener:
            accept = asyncio.create_task(Server([], None)._accept(listener))
            await asyncio.sleep(1.2)
            accept.cancel()
            with suppress(asyncio.CancelledError):
                await accept

    asyncio.run(accepting())
    assert 2 <= len(attempts) <= 4
    assert [f"connections cannot be accepted: {os.strerror(number)}"] == caplog.messages
