"""`serve` on real maps that are replaced, odd or huge; and how it ends."""

import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from tests.kernel.machine import Serving, interfaces, labels_of, sample, steady_descriptors, success
from tests.kernel.pinned import (
    HASH,
    NO_PREALLOC,
    PERCPU_HASH,
    PROG_ARRAY,
    PinnedMap,
    interface_state,
    on_each_cpu,
    u32,
    u64,
)
from tests.stopwatch import Stopwatch, wait_for_end

pytestmark = pytest.mark.kernel

# No machine has that many interfaces: this index and those after it are free.
FAR = 1_000_000
SAMPLE = "calico_bpf_program_packets_total"
ALL_WELL = {"counters": 1, "endpoints": 1, "rules": 1, "maps": 1}


@pytest.fixture
def make_server(bpf_fs, tmp_path):
    """Starts `serve` on this test's maps."""
    with ExitStack() as ends:

        def start() -> Serving:
            server = Serving(bpf_fs, tmp_path / "run", tmp_path / "serve.log")
            ends.callback(server.end)
            return server

        yield start


@pytest.fixture
def rules(make_map):
    """The rule counter map, without a hit."""
    return rules_of(make_map)


@pytest.fixture
def link(machine):
    """The interface of the node's one workload."""
    with interfaces({FAR: "cali0123456789a"}):
        yield


@pytest.fixture
def states(make_map, rules, link):
    """The interface state map of a node with one workload."""
    del rules, link
    made = make_map("cali_iface4", HASH, 4, 52, max_entries=1000, flags=NO_PREALLOC)
    made.put(u32(FAR), interface_state(0x1 | 0x2, "cali0123456789a", 52))
    return made


def rules_of(make_map):
    return make_map("cali_rule_ctrs2", PERCPU_HASH, 8, 8, max_entries=10000)


def counters_of(make_map, slots: int, name: str = "cali_counters6", **more: int):
    return make_map(name, PERCPU_HASH, 8, 8 * slots, max_entries=20000, flags=NO_PREALLOC, **more)


def total_of(samples: dict, hook: str = "tc_ingress") -> float | None:
    way = {"tc_ingress": "outbound", "tc_egress": "inbound"}[hook]
    labels = {"interface": "cali0123456789a", "hook": hook, "direction": way, "namespace": "", "pod": ""}
    return samples.get(sample(SAMPLE, **labels))


def slots_of(samples: dict) -> list[str]:
    return [labels["slots"] for labels in labels_of(samples, "calico_bpf_map_info") if labels["map"] == "counters"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_a_second_whoever_is_connected(make_map, states, make_server, number):
    counters_of(make_map, 27).put(u32(FAR, 0), *on_each_cpu(27, {0: 1}))
    server = make_server()
    with ExitStack() as clients:
        idle = [clients.enter_context(connection(server, request(path))) for path in ("/metrics", "/healthz") * 5]
        silent = [clients.enter_context(connection(server, b"")) for _ in range(5)]
        half = [clients.enter_context(connection(server, b"GET /metrics HTTP/1.1\r\nHost: n")) for _ in range(5)]
        assert all(one.recv(12) == b"HTTP/1.1 200" for one in idle)
        watch = Stopwatch(server.process.pid)
        server.process.send_signal(number)
        wait_for_end(server.process.pid)
        assert watch.seconds() < 1
        assert 0 == server.process.wait()
        assert 20 == len(idle) + len(silent) + len(half)
    assert "Traceback" not in server.log.read_text()
    assert "level=error" not in server.log.read_text()


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: node\r\n\r\n".encode()


def connection(server: Serving, said: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(said)
    return client


def test_a_map_replaced_by_another_layout_is_served_at_the_next_scrape(make_map, states, make_server):
    newer = counters_of(make_map, 27)
    newer.put(u32(FAR, 0), *on_each_cpu(27, {0: 2**40 + 1, 26: 5}))
    server = make_server()
    before = server.scrape()
    newer.unpin()
    between = server.scrape()
    older = counters_of(make_map, 25)
    older.put(u32(FAR, 0), *on_each_cpu(25, {0: 77}))
    after = server.scrape()
    assert [2**40 + 1, None, 77] == [total_of(one) for one in (before, between, after)]
    assert [["27"], [], ["25"]] == [slots_of(one) for one in (before, between, after)]
    assert [1, 0, 1] == [success(one)["counters"] for one in (before, between, after)]


def test_a_map_that_is_replaced_all_the_time_gives_right_numbers_or_none(states, make_server, pins):
    server = make_server()
    with swapping(pins / "cali_counters6", (25, 27)):
        scrapes = [server.scrape() for _ in range(100)]
    # Each of the two maps holds its number of slots as its total.
    assert {25, 27} == {total_of(one) for one in scrapes if success(one)["counters"]}
    assert {None} >= {total_of(one) for one in scrapes if not success(one)["counters"]}
    assert {1} == {success(one)["endpoints"] for one in scrapes}
    assert "unexpected error" not in server.log.read_text()


@contextmanager
def swapping(pin: Path, layouts: Sequence[int]) -> Iterator[None]:
    """Deletes the pinned map and puts another in its place, in one layout after the other, while this lasts."""
    stop = threading.Event()
    # Filled under a name that is nobody's, because an empty map is served as one: truly, and without a total.
    aside = pin.with_name("being_filled")

    def swap() -> None:
        for slots in cycle(layouts):
            if stop.is_set():
                return
            made = PinnedMap(aside, PERCPU_HASH, 8, 8 * slots)
            made.put(u32(FAR, 0), *on_each_cpu(slots, {0: slots}))
            aside.rename(pin)
            stop.wait(0.002)
            pin.unlink()
            made.close()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_maps_that_appear_while_it_serves_are_picked_up(make_map, make_server, link):
    server = make_server()
    nothing = server.scrape()
    assert 200 == server.get("/readyz")[0]  # it is, of a node without the dataplane too
    made = make_map("cali_iface4", HASH, 4, 52, max_entries=1000, flags=NO_PREALLOC)
    made.put(u32(FAR), interface_state(0x1 | 0x2, "cali0123456789a", 52))
    counters_of(make_map, 27).put(u32(FAR, 0), *on_each_cpu(27, {0: 3}))
    rules_of(make_map)
    everything = server.scrape()
    assert ALL_WELL == success(nothing) == success(everything)
    assert [0, 1] == [one[sample("calico_bpf_dataplane_present")] for one in (nothing, everything)]
    assert [None, 3] == [total_of(one) for one in (nothing, everything)]
    assert 200 == server.get("/readyz")[0]


def test_a_missing_file_system_is_served_as_a_node_without_the_dataplane(bpf_fs, tmp_path):
    server = Serving(bpf_fs / "none", tmp_path, tmp_path / "serve.log")
    try:
        samples = server.scrape()
        assert ALL_WELL == success(samples)
        assert 0 == samples[sample("calico_bpf_dataplane_present")]
        assert [] == labels_of(samples, SAMPLE)
        assert 200 == server.get("/healthz")[0]
    finally:
        server.end()


def test_ten_thousand_leftover_interfaces_are_counted_and_not_shown(make_map, states, make_server):
    made = counters_of(make_map, 27)
    made.put(u32(FAR, 0), *on_each_cpu(27, {0: 9}))
    for number in range(1, 10_001):
        made.put(u32(FAR + number, number % 2), *on_each_cpu(27, {0: number, 4: 1}))
    samples = make_server().scrape()
    assert {"cali0123456789a"} == {labels["interface"] for labels in labels_of(samples, SAMPLE)}
    assert 0 == samples[sample("calico_bpf_unknown_interfaces")]
    assert 10_000 == samples[sample("calico_bpf_leftover_entries", map="counters")]
    assert ALL_WELL == success(samples)
    assert 9 == total_of(samples)
    assert 10_001 == samples[sample("calico_bpf_map_entries", map="counters", ip_family="")]
    assert 1 == len(labels_of(samples, "calico_bpf_endpoint_info"))


def assert_only_the_counters_fail(server: Serving, complaint: str) -> None:
    """Everything else is whole, and the log says once what is wrong."""
    server.scrape()
    samples = server.scrape()
    assert {"counters": 0, "endpoints": 1, "rules": 1, "maps": 1} == success(samples)
    assert [] == labels_of(samples, SAMPLE)
    assert sample("calico_bpf_unknown_interfaces") not in samples
    assert 1 == samples[sample("calico_bpf_map_entries", map="iface", ip_family="")]
    info = {"interface": "cali0123456789a", "endpoint_kind": "workload", "namespace": "", "pod": ""}
    assert 1 == samples[sample("calico_bpf_endpoint_info", **info, ifindex=str(FAR))]
    log = server.log.read_text()
    assert 1 == log.count("collector counters failed")
    assert complaint in log
    assert "Traceback" not in log


def test_a_counter_pin_that_is_a_symbolic_link_is_not_followed(make_map, states, make_server, pins):
    elsewhere = counters_of(make_map, 27, name="elsewhere")
    elsewhere.put(u32(FAR, 0), *on_each_cpu(27, {0: 1}))
    (pins / "cali_counters6").symlink_to(elsewhere.pin)
    assert_only_the_counters_fail(make_server(), "pinned no counters map")


def test_a_counter_map_with_odd_keys_fails_alone(make_map, states, make_server):
    made = make_map("cali_counters6", PERCPU_HASH, 12, 216)
    made.put(u32(FAR, 0, 0), *on_each_cpu(27, {0: 1}))
    assert_only_the_counters_fail(make_server(), "with keys of 12 and values of 216 bytes, which cannot be Calico's")


def test_a_counter_map_with_odd_values_fails_alone(make_map, states, make_server):
    made = make_map("cali_counters6", PERCPU_HASH, 8, 20)
    made.put(u32(FAR, 0), *[b"\1" * 20] * made.copies)
    assert_only_the_counters_fail(make_server(), "values of 20 bytes")


def test_a_counter_pin_that_is_a_folder_fails_alone(states, make_server, pins):
    (pins / "cali_counters6").mkdir()
    assert_only_the_counters_fail(make_server(), "pinned no counters map")


@pytest.mark.parametrize("kind", [HASH, PROG_ARRAY], ids=["hash", "program array"])
def test_a_counter_map_of_another_type_never_breaks_a_scrape(make_map, states, make_server, kind):
    made = make_map("cali_counters6", kind, 8 if kind == HASH else 4, 216 if kind == HASH else 4)
    if kind == HASH:
        made.put(u32(FAR, 0), u64(*range(27)))
    server = make_server()
    samples = server.scrape()
    others = {name: well for name, well in success(samples).items() if name != "counters"}
    assert {"endpoints": 1, "rules": 1, "maps": 1} == others
    assert "unexpected error" not in server.log.read_text()


def test_an_odd_interface_state_map_takes_its_own_facts_and_no_count(make_map, make_server, link):
    states = make_map("cali_iface4", HASH, 4, 33)
    for ifindex in (1, FAR):
        states.put(u32(ifindex), b"\1" * 33)
    counters_of(make_map, 27).put(u32(FAR, 0), *on_each_cpu(27, {0: 4}))
    samples = make_server().scrape()
    assert ALL_WELL | {"rules": 0} == success(samples)  # its map is not there
    assert 4 == total_of(samples)
    assert 0 == samples[sample("calico_bpf_source_available", source="interface_state")]
    assert 1 == samples[sample("calico_bpf_map_entries", map="counters", ip_family="")]
    assert ["27"] == slots_of(samples)


def test_a_second_version_that_appears_dead_leaves_the_moving_one_in_place(make_map, states, make_server):
    live = counters_of(make_map, 27)
    live.put(u32(FAR, 0), *on_each_cpu(27, {0: 1}))
    server = make_server()
    assert 1 == total_of(server.scrape())
    counters_of(make_map, 25, name="cali_counters5").put(u32(FAR, 0), *on_each_cpu(25, {0: 1000}))
    live.put(u32(FAR, 0), *on_each_cpu(27, {0: 2}))
    samples = server.scrape()
    assert 2 == total_of(samples)
    assert 1 == samples[sample("calico_bpf_map_stale_pins", map="counters")]


def test_two_hundred_scrapes_leave_no_descriptor_open(make_map, states, make_server):
    counters_of(make_map, 27).put(u32(FAR, 0), *on_each_cpu(27, {0: 1}))
    server = make_server()
    time.sleep(1.2)  # it collects at the start, and again a second later
    before = steady_descriptors(server.process.pid)
    scrape_on_new_connections(server, 200)
    assert before == steady_descriptors(server.process.pid)


def scrape_on_new_connections(server: Serving, times: int) -> None:
    for _ in range(times):
        with connection(server, request("/metrics")) as client, client.makefile("rb") as answers:
            assert b"calico_bpf_scrape_collector_success" in read_response(answers)


def read_response(answers) -> bytes:
    length = 0
    while (line := answers.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return answers.read(length)


def test_an_answer_on_a_kept_connection_does_not_wait_for_the_client_s_kernel(bpf_fs, make_server):
    # socket.create_server makes listeners of protocol 0, for which asyncio leaves Nagle's algorithm on: a body then
    # waits 40 ms for the delayed acknowledgement of its head.
    server = make_server()
    seconds = []
    with connection(server, b"") as client, client.makefile("rb") as answers:
        for _ in range(21):
            start = time.perf_counter()
            client.sendall(request("/healthz"))
            assert b"ok\n" == read_response(answers)
            seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[10] < 0.02
