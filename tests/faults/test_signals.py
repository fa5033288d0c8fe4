"""The exporter is node_samples to stop, or killed, in the middle of a scrape; and started again."""

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tests.faults.known_node import ALL_WELL, COUNTERS, FAR, node_samples
from tests.faults.paused_read import pausing
from tests.kernel.machine import samples_of, success
from tests.kernel.pinned import PERCPU_HASH, on_each_cpu, u32

pytestmark = pytest.mark.kernel

REQUEST = b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"


def asked(server):
    """All that comes back to a scrape until the connection ends, however it ends."""
    said = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(REQUEST)
        try:
            while piece := client.recv(1 << 16):
                said += piece
        except ConnectionResetError:
            pass
    return said


def whole_or_cut(said):
    """The body of an answer, None for one that its client can tell to be cut; anything else is an error."""
    head, _, body = said.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if not lengths or len(body) < lengths[0]:
        return None
    assert head.startswith(b"HTTP/1.1 200 "), said[:200]
    assert [len(body)] == lengths
    return body.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_scrape_in_the_middle_of_its_read_is_ended_whole_when_the_kernel_answers_in_time(faulty, control, number):
    server = faulty()
    whole = server.scrape()
    with pausing(control) as paused, ThreadPoolExecutor(1) as thread:
        scrape = thread.submit(asked, server)
        paused.wait()
        server.process.send_signal(number)
        while "msg=stopping" not in server.log.read_text():
            assert server.process.poll() is None
        paused.stop_pausing()
        paused.resume()
        body = whole_or_cut(scrape.result())
    assert node_samples(whole) == node_samples(samples_of(body))
    assert 0 == server.process.wait(timeout=10)
    assert "Traceback" not in server.log.read_text()


def test_a_scrape_whose_read_never_ends_is_cut_and_does_not_keep_it_from_ending(faulty, control):
    server = faulty()
    server.scrape()
    with pausing(control) as paused, ThreadPoolExecutor(1) as thread:
        scrape = thread.submit(asked, server)
        paused.wait()
        server.process.send_signal(signal.SIGTERM)
        assert 0 == server.process.wait(timeout=10)
        assert b"" == scrape.result()
    assert "Traceback" not in server.log.read_text()


def test_of_many_scrapes_at_the_end_each_is_whole_or_told_to_be_cut(known_node, start):
    for number in range(1, 101):  # a body of some pieces
        known_node.counters.put(u32(FAR + number, 0), *on_each_cpu(27, dict.fromkeys(range(27), number)))
    server = start()
    whole = server.scrape()
    begun = Barrier(9)

    def scrape_to_the_end():
        bodies = [whole_or_cut(asked(server))]
        begun.wait()
        try:
            while True:
                bodies.append(whole_or_cut(asked(server)))
        except ConnectionRefusedError:
            return bodies

    with ThreadPoolExecutor(8) as threads:
        scrapes = [threads.submit(scrape_to_the_end) for _ in range(8)]
        begun.wait()
        server.process.send_signal(signal.SIGTERM)
        bodies = [body for scrape in scrapes for body in scrape.result() if body is not None]
    assert 0 == server.process.wait(timeout=10)
    assert len(bodies) >= 8
    for body in bodies:
        assert node_samples(whole) == node_samples(samples_of(body))
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("where", ["idle", "reading"])
def test_killed_it_starts_again_at_once_on_its_port_with_the_same_numbers(faulty, control, where):
    server = faulty()
    whole = server.scrape()
    address = f"127.0.0.1:{server.port}"
    with pausing(control) as paused, ThreadPoolExecutor(1) as thread:
        if where == "reading":
            scrape = thread.submit(asked, server)
            paused.wait()
        server.process.kill()
        server.process.wait()
        if where == "reading":
            assert whole_or_cut(scrape.result()) is None
    again = faulty(address=address)
    first = again.scrape()
    assert ALL_WELL == success(first)
    assert node_samples(whole) == node_samples(first)


def test_killed_in_the_middle_of_an_upgrade_it_shows_no_number_until_it_knows_whose(known_node, start, make_map):
    known_node.counters.unpin()
    older = make_map("cali_counters5", PERCPU_HASH, 8, 8 * 25, max_entries=20000)
    newer = make_map(COUNTERS, PERCPU_HASH, 8, 8 * 27, max_entries=20000)
    older.put(u32(FAR, 0), *on_each_cpu(25, {0: 1000}))
    newer.put(u32(FAR, 0), *on_each_cpu(27, {0: 3}))
    server = start()
    server.scrape()
    server.process.kill()
    server.process.wait()
    again = start()
    samples = again.scrape()
    assert {"counters": 0, "endpoints": 1, "rules": 1, "maps": 1} == success(samples)
    assert [] == [name for name, _ in samples if name == "calico_bpf_program_packets_total"]
    assert "collector counters failed: undecided which of" in again.log.read_text()
    newer.put(u32(FAR, 0), *on_each_cpu(27, {0: 4}))
    totals = [value for (name, _), value in again.scrape().items() if name == "calico_bpf_program_packets_total"]
    assert 4 in totals
    assert 1000 not in totals
