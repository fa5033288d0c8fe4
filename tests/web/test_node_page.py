"""The page at `/`: snapshots are taken and kept while it is in use; every fault is a page with a sentence."""

import asyncio
import gzip
import re
import socket
import time
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from exporter.bpf.maps import MapError
from exporter.metrics.scrape import make_collectors
from exporter.node import NodeError
from exporter.snapshot import reading
from exporter.snapshot.bundle import Bundle, read_bundle
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading
from exporter.snapshot.settings import Settings
from exporter.web import node_page
from exporter.web.node_page import Page
from exporter.web.registry import make_registry
from exporter.web.scrapes import Scrapes
from tests.nodes import held

RECORDINGS = Path(__file__).parents[1] / "recordings" / "v3.32.1"
SERVER = "cali34769d6a557"
TEN_DROPPED = '<td role="cell" class="number drops">10</td>'


class Clock:
    """A clock of snapshots, which each of them moves by a second; the event loop keeps its own."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: self.now, thread_time=time.thread_time, time=lambda: self.now)
        monkeypatch.setattr(reading, "time", clock)
        monkeypatch.setattr(node_page, "time", clock)
        monkeypatch.setattr(node_page, "_FIRST_WAIT", 0)
        monkeypatch.setattr(node_page, "_SHARED", -1)  # only snapshots move the clock
        monkeypatch.setattr(node_page, "_MIN_PAUSE", 0)
        monkeypatch.setattr(node_page, "_PAUSE_FACTOR", 0)

    def after(self, seconds):
        self.now += seconds


@pytest.fixture(scope="module")
def bundles():
    """The node before and after ten packets to the server were dropped."""
    return [read_bundle(RECORDINGS / f"02-ingress-deny.{when}.tar.xz") for when in ("before", "after")]


@pytest.fixture
def dumps(bundles, monkeypatch):
    """The keys and values of every map that was read, by its name."""
    given = {}

    def handing_out(read):
        def map_dump(name, **how):
            dump = read(name, **how)
            # Copies, because the bundle itself holds some of them.
            dump = replace(dump, keys=bytes(bytearray(dump.keys)), values=bytes(bytearray(dump.values)))
            given.setdefault(name, []).extend((dump.keys, dump.values))
            return dump

        return map_dump

    for one in bundles:
        monkeypatch.setattr(one, "map_dump", handing_out(one.map_dump))
    return given


@pytest.fixture
def clock(monkeypatch):
    """The clock of all snapshots."""
    return Clock(monkeypatch)


@pytest.fixture
def make_page(bundles, clock):
    """A page over the node; `begin` may be replaced. Its first snapshot is of the earlier recording."""

    def made(begin=None):
        begun, memory = [], Memory()

        def begin_next():
            clock.after(1)
            begun.append(None)
            return Reading(bundles[len(begun) > 1], Settings(), memory)

        registry, _ = make_registry(process=False)
        scrapes = Scrapes(begin or begin_next, make_collectors(["counters"]), registry)
        return Page(scrapes, "node-1", "/metrics")

    return made


def asked(one, *queries):
    """The answers to these questions, one after another."""

    async def ask():
        return [await one.answer(query) for query in queries]

    return asyncio.run(ask())


def test_who_comes_first_sees_what_was_dropped_within_a_second(make_page):
    (answer,) = asked(make_page(), "")
    assert (200, "text/html; charset=utf-8") == (answer.status, answer.content_type)
    assert "packets dropped per second in the last 1 s" in " ".join(answer.body.decode().split())
    assert TEN_DROPPED in answer.body.decode()


def test_who_asks_for_an_interface_sees_it(make_page):
    (answer,) = asked(make_page(), f"interface={SERVER}")
    assert 200 == answer.status
    assert "<h1><bdi>ns-b/server</bdi></h1>" in answer.body.decode()
    assert "10 packets dropped." in answer.body.decode()


@pytest.mark.parametrize("name", ["caliNOTHERE", "%3Cb%3E", "..%2F..", "%FF%FE", ""])
def test_an_interface_that_is_not_there_is_said_so(make_page, name):
    (answer,) = asked(make_page(), f"interface={name}&interface=second")
    assert 404 == answer.status
    assert "There is no interface" in answer.body.decode()
    assert "<b>" not in answer.body.decode()


def test_snapshots_are_kept_five_seconds_apart_for_half_a_minute_and_without_raw_maps(make_page, clock, dumps):
    one = make_page()

    async def watch():
        for _ in range(40):
            await one.answer("")
            clock.after(1)

    asyncio.run(watch())
    times = [snapshot.at for snapshot in one._snapshots]
    assert all(later - earlier >= 5 for earlier, later in pairwise(times))
    assert clock.now - 37 < times[0] < clock.now - 25
    assert len(times) <= 8
    # All but the last interface state, with which the next is compared.
    assert sum(map(len, dumps.values())) > 40
    assert {"cali_iface4"} >= {name for name, given in dumps.items() if held(given)}
    assert 2 >= sum(len(held(given)) for given in dumps.values())


def test_the_node_page_tells_of_some_seconds_and_an_endpoints_of_half_a_minute(make_page, clock):
    one = make_page()

    async def watch():
        for _ in range(8):
            await one.answer("")
            clock.after(1)
        return [(await one.answer(query)).body.decode() for query in ("", f"interface={SERVER}")]

    node, endpoint = asyncio.run(watch())
    (seconds,) = re.findall(r"packets dropped per second in the last ([0-9.]+) s", " ".join(node.split()))
    assert 5 <= float(seconds) <= 11
    assert "10 packets dropped." in endpoint  # counted half a minute ago
    assert TEN_DROPPED not in node


def test_an_unused_page_keeps_no_snapshots(make_page, monkeypatch):
    forgotten = Event()
    forget = Page._forget
    monkeypatch.setattr(node_page, "_MAX_AGE", 0.05)
    monkeypatch.setattr(Page, "_forget", lambda self: (forget(self), forgotten.set()))
    one = make_page()

    async def watch():
        await one.answer("")
        kept = [weakref.ref(snapshot) for snapshot in one._snapshots]
        assert kept
        await asyncio.get_running_loop().run_in_executor(None, forgotten.wait)
        return kept

    assert [] == [kept() for kept in asyncio.run(watch()) if kept()]


def watched(one, clock, *pauses):
    """The server's page after each of these pauses between two requests for it."""

    async def watch():
        await one.answer("")
        pages = []
        for seconds in pauses:
            clock.after(seconds)
            pages.append((await one.answer(f"interface={SERVER}")).body.decode())
        return pages

    return asyncio.run(watch())


def columns_of(page):
    """The intervals of the page's graph: when they ended."""
    return re.findall(r"<title>\S+ to (\S+) UTC: policy inbound", page)


def test_the_graph_is_there_for_whoever_loads_the_page_again(make_page, clock):
    *_, last = watched(make_page(), clock, 5, 5, 5)
    # A page shows what was recorded before it.
    assert 2 == len(columns_of(last))
    assert "This exporter started at" in last


def test_a_graph_has_a_gap_where_nobody_had_the_page_open(make_page, clock):
    *_, before, _, last = watched(make_page(), clock, 5, 5, 60, 5, 5)
    assert "Where a line is broken" not in before
    assert 1 == len(re.findall("Where a line is broken, nothing was recorded: nobody had the page open for", last))
    assert len(columns_of(last)) > len(columns_of(before))


def test_what_was_recorded_more_than_ten_minutes_ago_is_not_shown(make_page, clock):
    *_, before, after = watched(make_page(), clock, 5, 5, 5, 620)
    assert columns_of(before)
    assert not columns_of(after)


def test_the_numbers_of_the_graph_are_kept_ten_minutes_after_the_last_request(make_page, monkeypatch):
    timers = []

    class Loop(asyncio.SelectorEventLoop):
        def call_later(self, delay, callback, *args, context=None):
            timers.append((delay, callback))
            return super().call_later(delay, callback, *args, context=context)

    one = make_page()
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(one.answer(""))
        monkeypatch.setattr(one, "_history", object())
        (forget,) = [callback for delay, callback in timers if delay == 600]
        forget()
    assert one._history is None


def test_counters_that_cannot_be_read_are_a_sentence_and_health_is_there(make_page, bundles):
    class Refusing:
        def __init__(self, bundle):
            self._bundle = bundle

        def __getattr__(self, name):
            return getattr(self._bundle, name)

        def map_dump(self, name, **_):
            raise MapError(f"{name} cannot be read: Operation not permitted")

    def begin():
        return Reading(Refusing(bundles[1]), Settings(), Memory())

    for query in ("", f"interface={SERVER}"):
        (answer,) = asked(make_page(begin), query)
        assert 200 == answer.status
        assert "There are no counters to show: cali_counters6 cannot be read" in answer.body.decode()
        assert 'id="health"' in answer.body.decode()


def test_an_interface_whose_endpoints_cannot_be_read_is_a_sentence(make_page, bundles):
    class Blind(Bundle):
        def links(self):
            raise NodeError("links could not be listed")

        def map_dump(self, name, **how):
            if name.startswith("cali_iface"):
                raise MapError(f"{name} cannot be read")
            return bundles[1].map_dump(name, **how)

    blind = Blind(bundles[1]._members)
    (answer,) = asked(make_page(lambda: Reading(blind, Settings(), Memory())), f"interface={SERVER}")
    assert 404 == answer.status
    assert "or nothing knows it" in answer.body.decode()


def test_a_history_that_is_emptied_while_it_is_read_is_none(make_page, clock):
    class Forgetful(Page):
        """Its history is gone after each reading of it, as when the event loop forgets it just then."""

        _kept = ()

        @property
        def _snapshots(self):
            kept, self._kept = self._kept, ()
            return kept

        @_snapshots.setter
        def _snapshots(self, kept):
            self._kept = kept

    made = make_page()
    one = Forgetful(made._scrapes, "node-1", "/metrics")
    for query in ("", f"interface={SERVER}"):
        assert [200, 200] == [answer.status for answer in asked(one, query, query)]


def test_a_snapshot_that_hangs_is_said_so_and_the_next_one_is_waited_for(make_page, monkeypatch, bundles):
    monkeypatch.setattr(node_page, "_TIMEOUT", 0.05)
    gate = Event()

    def begin():
        gate.wait()
        return Reading(bundles[1], Settings(), Memory())

    one = make_page(begin)

    async def watch():
        hanging = await one.answer("")
        gate.set()
        monkeypatch.setattr(node_page, "_TIMEOUT", 10)
        return hanging, await one.answer("")

    hanging, after = asyncio.run(watch())
    assert 503 == hanging.status
    assert "No snapshot of the node completed" in hanging.body.decode()
    assert 200 == after.status


PACKET = f"interface={SERVER}&peer=ns-c/plain&protocol=udp&port=9999"
BY = "denied by GlobalNetworkPolicy security.gate, tier security, rule 0"


def test_a_packet_is_evaluated_and_its_snapshot_is_not_kept(make_page):
    one = make_page()
    before, answer = asked(one, "", PACKET)
    kept = one._snapshots
    (after,) = asked(one, PACKET)
    assert (200, 200, 200) == (before.status, answer.status, after.status)
    assert BY in answer.body.decode()
    assert list(map(id, kept)) == list(map(id, one._snapshots))
    assert all(snapshot.policy_files.error for snapshot in kept)


@pytest.mark.parametrize(("query", "status"), [("interface=nosuch&peer=a&port=1", 404), ("peer=a&port=1", 200)])
def test_a_packet_of_no_endpoint_is_not_evaluated(make_page, query, status):
    (answer,) = asked(make_page(), query)
    assert status == answer.status


def test_one_packet_at_a_time(make_page, bundles):
    gate, begun, memory = Event(), Event(), Memory()

    class Slow(Bundle):
        def policy_files(self, interfaces=None):
            begun.set()
            gate.wait()
            return super().policy_files(interfaces)

    slow = Slow(bundles[1]._members)
    one = make_page(lambda: Reading(slow, Settings(), memory))

    async def ask():
        await one.answer("")
        first = asyncio.create_task(one.answer(PACKET))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait)
        second = asyncio.create_task(one.answer(PACKET))
        await asyncio.sleep(0)
        gate.set()
        return [answer.body.decode() for answer in (await first, await second, await one.answer(PACKET))]

    first, second, third = asyncio.run(ask())
    assert [True, False, True] == [BY in body for body in (first, second, third)]
    assert "another packet is being evaluated here: ask again" in second


def test_an_unexpected_error_is_a_page_and_in_the_log(make_page, caplog):
    def begin():
        raise ZeroDivisionError

    (answer,) = asked(make_page(begin), "")
    assert 500 == answer.status
    assert "Unexpected error (ZeroDivisionError), please report it" in answer.body.decode()
    assert ["unexpected error on the page"] == [record.message for record in caplog.records]


def test_the_page_shows_how_collectors_did_in_the_last_scrape(make_page):
    one = make_page()

    async def watch():
        before = await one.answer("")
        await one._scrapes.collect()
        return before, await one.answer("")

    before, after = asyncio.run(watch())
    assert "There was none yet." in before.body.decode()
    row = r'<td role="cell" class="state ok">ok</td><th scope="row" role="rowheader">counters</th>'
    assert row in after.body.decode()


def test_the_page_is_served_with_its_headers_in_gzip_too(shared_server):
    server = shared_server()
    plain = server.ask("/")
    assert plain.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert ("deny", "no-store", "no-referrer", "Accept-Encoding") == tuple(
        plain.headers[name] for name in ("x-frame-options", "cache-control", "referrer-policy", "vary")
    )
    packed = server.ask("/", headers={"Accept-Encoding": "gzip"})
    assert "gzip" == packed.headers["content-encoding"]
    assert len(packed.body) < len(plain.body) / 2
    assert gzip.decompress(packed.body).startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?interface=cali34769d6a557", 200),
        ("?interface=nothing", 404),
        ("?namespace=%00%FF&pod=%F0%9F%92%A3&reason=<script>", 200),
        ("?" + "a=1&" * 21, 400),
        ("?;;;&&==", 200),
    ],
)
def test_odd_parameters_have_an_answer(shared_server, query, status):
    answer = shared_server().ask(f"/{query}")
    assert status == answer.status
    assert b"<script>&" not in answer.body


def test_without_a_page_nothing_is_served_there(shared_server):
    answer = shared_server(page=False).ask("/")
    assert (404, "nothing is served here; metrics are at /metrics\n") == (answer.status, answer.text)


def test_links_lead_to_the_metrics_wherever_they_are(shared_server):
    body = shared_server(telemetry_path="/deep/numbers").ask("/").text
    assert '<a href="deep/numbers">Metrics</a>' in body


def test_the_page_is_served_while_every_place_for_scrapes_is_taken(shared_server):
    server = shared_server(max_requests=1, extra=[{"name": "slow", "seconds": 1}])
    server.ask("/")
    with server.open(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n") as scraping:
        while server.ask().status == 200:
            assert b"" == peeked(scraping)  # it has not been taken up yet
        assert 200 == server.ask("/").status


def test_requests_for_the_page_share_a_snapshot_of_about_a_second(make_page, monkeypatch):
    monkeypatch.setattr(node_page, "_SHARED", 60)  # each turn moves the clock by a second
    one, reads = make_page(), []

    async def watch():
        await one.answer("")
        read = Reading.read
        monkeypatch.setattr(Reading, "read", lambda *asked: reads.append(None) or read(*asked))
        await asyncio.gather(*(one.answer(f"reason={number % 3}") for number in range(12)))

    asyncio.run(watch())
    assert len(reads) <= 1


def test_who_would_be_one_too_many_on_the_page_waits_a_moment_and_is_turned_away(server):
    running = server(extra=[{"name": "slow", "seconds": 4}])
    running.ask("/")
    # While a scrape is read, no page is.
    with running.open(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n"):
        time.sleep(0.2)
        waiting = [running.open(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n") for _ in range(3)]
        watch = time.monotonic()
        answer = running.ask("/")
        assert 0.8 < time.monotonic() - watch < 3
        other = running.open(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", source="127.0.0.2")
        assert (503, "1") == (answer.status, answer.headers["retry-after"])
        assert "more than 4 requests for the page at once" in answer.text
        # Another address finds the place that is left.
        assert [b"HTTP/1.1 200"] * 4 == [client.recv(12) for client in (*waiting, other)]


def peeked(client):
    """What has come and not been read, without waiting."""
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""
