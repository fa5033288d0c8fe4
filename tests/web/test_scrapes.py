"""Scrapes that come together share one snapshot, later ones take a new one, and none waits longer than it said."""

import asyncio
import gzip
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from threading import Event, Thread, get_ident

import pytest

from exporter.metrics.exposition import TEXT
from exporter.metrics.scrape import COLLECTOR_NAMES, ON_BY_DEFAULT, make_collectors
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.map_fill import MapCounts
from exporter.snapshot.memory import Memory
from exporter.snapshot.reading import Reading
from exporter.snapshot.settings import Settings
from exporter.web.registry import make_registry
from exporter.web.scrapes import Scrape, Scrapes
from tests.nodes import FakeNode

RECORDINGS = Path(__file__).parents[1] / "recordings"

SLOW = {"name": "slow", "seconds": 0.4}
QUICK = {"name": "quick"}


def number(answer, name):
    """The number of the snapshot that this test collector was given, None if it is not in the answer."""
    return answer.value(f'test_{name}_snapshot{{row=""}}')


def get(target, **headers):
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{lines}\r\n".encode()


@pytest.fixture
def together(answer, read_to_end):
    """The answers to requests that are all sent before the first is answered, whose snapshot is being taken by then."""

    def ask(running, requests, apart=0.0):
        clients = []
        for one in requests:
            clients.append(running.open(one))
            time.sleep(apart or 0.1 * (len(clients) == 1))
        answers = [answer(read_to_end(client)) for client in clients]
        for client in clients:
            client.close()
        return answers

    return ask


def test_each_scrape_after_another_takes_a_new_snapshot(server):
    running = server(extra=[QUICK])
    assert [1, 2, 3] == [number(running.ask(), "quick") for _ in range(3)]


def test_scrapes_that_come_together_share_the_snapshot_that_has_not_begun(server, together):
    running = server(real=False, extra=[SLOW, QUICK])
    first, *others = together(running, [get("/metrics")] * 10)
    assert (1, 1) == (number(first, "slow"), number(first, "quick"))
    # What the first one's snapshot has read may be older than these requests.
    assert {(2, 2)} == {(number(one, "slow"), number(one, "quick")) for one in others}


def test_scrapes_of_different_collectors_share_a_snapshot(server, together):
    running = server(extra=[SLOW, QUICK])
    asked = ["", "?collect[]=slow", "?collect[]=quick"]
    first, second, third = together(running, [get(f"/metrics{query}") for query in asked])
    assert (1, 1) == (number(first, "slow"), number(first, "quick"))
    assert (2, None) == (number(second, "slow"), number(second, "quick"))
    assert (2, None) == (number(third, "quick"), number(third, "slow"))


def test_scrapes_in_different_formats_share_a_snapshot_and_get_their_own(server, together):
    running = server(extra=[SLOW])
    _, plain, packed, openmetrics = together(
        running,
        [
            get("/metrics"),
            get("/metrics"),
            get("/metrics", Accept_Encoding="gzip"),
            get("/metrics", Accept="application/openmetrics-text"),
        ],
    )
    assert 'test_slow_snapshot{row=""} 2\n' in plain.text
    assert 'test_slow_snapshot{row=""} 2\n' in gzip.decompress(packed.body).decode()
    assert 'test_slow_snapshot{row=""} 2\n' in openmetrics.text
    assert openmetrics.text.endswith("# EOF\n")


def test_200_scrapes_at_once_are_all_answered_and_take_few_snapshots(server, together):
    running = server(extra=[{"name": "slow", "seconds": 0.2}])
    threads = running.threads()
    answers = together(running, [get("/metrics")] * 200)
    statuses = Counter(one.status for one in answers)
    assert {200, 503} >= set(statuses)
    assert 200 == sum(statuses.values())
    assert statuses[200] >= 30  # of the 40 places, one address may have three quarters
    after = running.ask()
    assert number(after, "slow") < 30
    assert statuses[503] == after.value('calico_bpf_exporter_scrapes_rejected_total{reason="max_requests"}')
    assert threads == running.threads()


def test_scrapes_above_the_limit_are_refused_and_counted(server, together):
    running = server(extra=[SLOW], max_requests=2)
    answers = together(running, [get("/metrics")] * 5)
    assert [200, 200, 503, 503, 503] == sorted(one.status for one in answers)
    assert 3 == running.ask().value('calico_bpf_exporter_scrapes_rejected_total{reason="max_requests"}')


def test_one_address_leaves_places_to_others(server):
    running = server(extra=[{"name": "slow", "seconds": 3}], max_requests=4)
    greedy = [running.open(get("/metrics")) for _ in range(10)]
    time.sleep(0.3)
    scraper = running.open(get("/metrics"), source="127.0.0.2")
    assert b"HTTP/1.1 200" == scraper.recv(12)
    assert Counter([b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 503"] * 7) == Counter(client.recv(12) for client in greedy)


def test_other_pages_are_served_beside_as_many_scrapes_as_there_may_be(server):
    running = server(extra=[SLOW], max_requests=1)
    with running.open(get("/metrics")):
        time.sleep(0.1)
        assert [200, 404, 503] == [running.ask(path).status for path in ("/healthz", "/nothing", "/metrics")]


def test_without_a_limit_none_is_refused(server, together):
    running = server(extra=[SLOW], max_requests=0)
    assert {200} == {one.status for one in together(running, [get("/metrics")] * 100)}


def test_the_count_of_refused_scrapes_is_there_from_the_start(server):
    assert 0 == server().ask().value('calico_bpf_exporter_scrapes_rejected_total{reason="max_requests"}')


@pytest.mark.parametrize(("offset", "least"), [(0.5, 1.0), (1.5, 0.75), (60, 0.75)])
def test_a_hanging_collector_is_left_out_in_time_and_the_others_are_whole(server, offset, least):
    running = server(extra=[{"name": "hang", "seconds": 4}], timeout_offset=offset)
    start, watch = time.monotonic(), running.stopwatch()
    answer = running.ask(headers={"X-Prometheus-Scrape-Timeout-Seconds": "1.5"})
    seconds = time.monotonic() - start
    assert least <= seconds
    assert watch.seconds() < 1.5
    assert (200, 0, None) == (answer.status, answer.success("hang"), number(answer, "hang"))
    assert {1} == {answer.success(name) for name in ("counters", "endpoints", "maps")}
    assert "calico_bpf_program_packets_total{" in answer.text
    assert seconds >= answer.value('calico_bpf_scrape_collector_duration_seconds{collector="hang"}') >= least - 0.1


def test_an_answer_without_a_hanging_collector_is_as_well_formed_as_any(server):
    running = server(extra=[{"name": "hang", "seconds": 4}])
    headers = {
        "X-Prometheus-Scrape-Timeout-Seconds": "1",
        "Accept": "application/openmetrics-text",
        "Accept-Encoding": "gzip",
    }
    answer = running.ask(headers=headers)
    body = gzip.decompress(answer.body) if "content-encoding" in answer.headers else answer.body
    assert body.endswith(b"\n# EOF\n")
    assert b"calico_bpf_exporter_scrapes_rejected_total{" in body
    assert str(len(answer.body)) == answer.headers["content-length"]


@pytest.mark.parametrize(
    "announced",
    ["", "garbage", "-1", "0", "inf", "-inf", "nan", "1e999", "0x1", "1,5", "10s", "1 2", "\xb2", "9" * 400],
)
def test_a_timeout_that_is_none_is_ignored(slow_server, announced):
    answer = slow_server.ask("/metrics?collect[]=slow", headers={"X-Prometheus-Scrape-Timeout-Seconds": announced})
    assert (200, 1) == (answer.status, answer.success("slow"))


@pytest.fixture(scope="module")
def slow_server(shared_server):
    return shared_server(extra=[{"name": "slow", "seconds": 0.1}])


def test_other_pages_are_served_while_a_collector_hangs(server):
    running = server(extra=[{"name": "hang", "seconds": 4}])
    with running.open(get("/metrics")):
        time.sleep(0.1)
        watch = running.stopwatch()
        assert [200, 404] == [running.ask(path).status for path in ("/healthz", "/nothing")]
        assert watch.seconds() < 1


def test_a_hang_that_ends_leaves_nothing_behind(server):
    running = server(extra=[{"name": "hang", "seconds": 1.5, "once": True}, QUICK])
    threads = running.threads()
    assert 0 == running.ask(headers={"X-Prometheus-Scrape-Timeout-Seconds": "1"}).success("hang")
    time.sleep(1.2)
    answer = running.ask(headers={"X-Prometheus-Scrape-Timeout-Seconds": "5"})
    assert (1, 1) == (answer.success("hang"), answer.success("counters"))
    assert number(answer, "quick") > 1
    assert threads == running.threads()


def test_while_a_collector_hangs_every_scrape_is_answered_in_time(server, together):
    running = server(extra=[{"name": "hang", "seconds": 4}])
    watch = running.stopwatch()
    answers = together(running, [get("/metrics", X_Prometheus_Scrape_Timeout_Seconds=1.5)] * 20, apart=0.02)
    assert watch.seconds() < 2.5
    assert {(200, 0)} == {(one.status, one.success("hang")) for one in answers}


def test_a_scrape_during_a_hang_does_not_show_the_values_of_an_earlier_scrape(server):
    running = server(extra=[QUICK, {"name": "hang", "seconds": 4}])
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": "1"}
    first, second = running.ask(headers=headers), running.ask(headers=headers)
    assert (1, 1) == (number(first, "quick"), first.success("quick"))
    assert 1 != number(second, "quick")
    assert (number(second, "quick") is not None) == (second.success("quick") == 1)


def test_clients_that_gave_up_hold_no_place_and_no_descriptor(server, until):
    running = server(extra=[{"name": "hang", "seconds": 6}], max_requests=3)
    assert 200 == running.ask("/healthz").status
    before = running.descriptors()
    for _ in range(3):
        with running.open(get("/metrics")):
            time.sleep(0.1)
    watch = running.stopwatch()
    assert until(lambda: running.descriptors() <= before)
    assert watch.seconds() < 2
    assert 200 == running.ask(headers={"X-Prometheus-Scrape-Timeout-Seconds": "1"}).status


def test_a_snapshot_that_fails_is_not_served_again(server):
    running = server(real=False, extra=[{"name": "hang", "seconds": 0.7, "once": True}, QUICK])
    assert 0 == running.ask(headers={"X-Prometheus-Scrape-Timeout-Seconds": "0.4"}).success("hang")
    time.sleep(0.8)
    answer = running.ask()
    assert {2} == {number(answer, "hang"), number(answer, "quick")}


@pytest.mark.parametrize(
    ("names", "maps"),
    [
        (COLLECTOR_NAMES, {"cali_counters6", "cali_iface4", "cali_rule_ctrs2"}),
        (("nic", "counters"), {"cali_counters6", "cali_iface4"}),
        (("rules",), {"cali_counters6", "cali_iface4", "cali_rule_ctrs2"}),
        (("nic",), {"cali_iface4"}),
    ],
)
def test_the_maps_of_all_collectors_of_a_scrape_are_read_first_and_those_of_no_other(names, maps):
    node = FakeNode.like(read_bundle(RECORDINGS / "v3.32.1/02-ingress-deny.after.tar.xz"))
    node.facts["nics"] = {}  # which no recording has
    node.asked.clear()
    registry, _ = make_registry(process=False)
    memory = Memory(map_counts=MapCounts(background=True))  # as the server has it
    scrape = Scrape(Reading(node, Settings(), memory), make_collectors(COLLECTOR_NAMES), registry)
    scrape.wanted |= set(names)
    scrape.collect()
    # The exporter is asked about itself after them, and reads no further map.
    scrape.body(frozenset(names), TEXT, compress=False)
    order = list(node.asked)  # by their first question, and there is no second
    assert {1} == set(node.asked.values())
    assert [None] * len(names) == [scrape.results[name].failure for name in names]
    of_maps = [one for one in order if one.startswith(("info ", "dump "))]
    assert ["pin_names", *of_maps] == order[: len(of_maps) + 1]
    assert maps == {one.split()[1] for one in of_maps}


def test_while_a_folder_hangs_a_collector_that_needs_only_maps_is_in_the_response():
    node = FakeNode.like(read_bundle(RECORDINGS / "v3.32.1/02-ingress-deny.after.tar.xz"))
    hanging, over = Event(), Event()

    def hang():
        hanging.set()
        over.wait(10)
        return node.facts["endpoint_status"]

    node.endpoint_status = hang
    registry, _ = make_registry(process=False)
    scrape = Scrape(Reading(node, Settings(), Memory()), make_collectors(ON_BY_DEFAULT), registry)
    scrape.wanted |= set(ON_BY_DEFAULT)
    collecting = Thread(target=scrape.collect)
    collecting.start()
    try:
        assert hanging.wait(10)
        body = scrape.unfinished_body(frozenset(ON_BY_DEFAULT), TEXT).decode()
    finally:
        over.set()
        collecting.join()

    assert 'calico_bpf_map_entries{map="counters",ip_family=""} 14\n' in body
    expected = {name: int(name == "maps") for name in ON_BY_DEFAULT}
    assert expected == {
        name: int(value) for name, value in re.findall(r'collector_success{collector="(\w+)"} ([01])', body)
    }


def test_slices_run_one_at_a_time_and_a_scrape_that_comes_meanwhile_goes_before_the_next():
    order, threads = [], set()

    def reading():
        order.append("scrape")
        return Reading(FakeNode(), Settings(), Memory())

    async def run():
        scrapes = Scrapes(reading, make_collectors([]), make_registry(process=False)[0])
        loop = asyncio.get_running_loop()

        def steps():
            for number in range(3):
                threads.add(get_ident())
                order.append(number)
                if number == 1:
                    loop.call_soon_threadsafe(lambda: asked_scrapes.append(loop.create_task(scrapes.collect())))
                    time.sleep(0.05)  # while which it is submitted
                yield

        asked_scrapes = []
        start = time.perf_counter()
        seconds = await scrapes.run_slices(steps())
        await asked_scrapes[0]
        return seconds, time.perf_counter() - start

    seconds, whole = asyncio.run(run())
    assert [0, 1, "scrape", 2] == order
    assert 0.05 <= seconds <= whole
    assert len(threads) == 1
    assert get_ident() not in threads


@pytest.mark.parametrize(("absent", "library"), [("none", "isal.isal_zlib"), ("isal", "zlib")])
def test_a_body_is_packed_by_isal_or_where_it_is_not_installed_by_zlib(absent, library):
    code = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from exporter.web.scrapes import compressed_body, deflate\n"
        "sys.stdout.buffer.write(deflate.__module__.encode() + b'\\n' + compressed_body(b'a line\\n' * 100_000))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    who, _, body = done.stdout.partition(b"\n")
    assert library == who.decode()
    assert b"a line\n" * 100_000 == gzip.decompress(body)
