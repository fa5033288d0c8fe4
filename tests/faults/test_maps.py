"""Maps that change under a scrape: replaced while read, unmounted and mounted again, upgraded and downgraded."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Thread

import pytest

from tests.faults.known_node import (
    ALL_WELL,
    COUNTERS,
    FAR,
    IFACE,
    INTERFACE,
    POLICY_FILE,
    RULES,
    failed_sources,
    node_samples,
    recovered,
)
from tests.faults.paused_read import pausing
from tests.kernel.machine import exporter, labels_of, load_programs, run, sample, steady_descriptors, success
from tests.kernel.pinned import (
    HASH,
    PERCPU_HASH,
    PROG_ARRAY,
    PinnedMap,
    call,
    interface_state,
    on_each_cpu,
    put_program,
    u32,
)

pytestmark = pytest.mark.kernel

TOTAL = "calico_bpf_program_packets_total"
LABELS = {"interface": INTERFACE, "hook": "tc_ingress", "direction": "outbound", "namespace": "ns-a", "pod": "client"}


def total_of(samples):
    return samples.get(sample(TOTAL, **LABELS))


def count(counters, packets):
    """What the pod has sent by now, in a counter map of any version."""
    counters.put(u32(FAR, 0), *on_each_cpu(counters.value_size // 8, {0: packets}))


# What is left of a scrape without each map; the collector of maps leaves out what is not pinned.
WITHOUT = {
    COUNTERS: {"counters": 0, "endpoints": 1, "rules": 1, "maps": 1},
    IFACE: {"counters": 1, "endpoints": 1, "rules": 1, "maps": 1},
    RULES: {"counters": 1, "endpoints": 1, "rules": 0, "maps": 1},
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_map_that_is_deleted_is_absent_until_it_is_there_again(known_node, start, name):
    server = start()
    whole = server.scrape()
    aside = (known_node.pins / name).rename(known_node.pins / "aside")
    for _ in range(3):
        samples = server.scrape()
        assert WITHOUT[name] == success(samples)
        assert node_samples(samples).items() < node_samples(whole).items()
    aside.rename(known_node.pins / name)
    assert node_samples(whole) == node_samples(recovered(server))
    failed = [one for one, well in WITHOUT[name].items() if not well]
    said = server.log.read_text()
    assert len(failed) == said.count("Calico has pinned no") == said.count("works again")


def test_an_interface_state_of_unknown_layout_takes_its_own_facts_and_nothing_else(known_node, start, make_map):
    server = start()
    whole = server.scrape()
    known_node.states.unpin()
    odd = make_map(IFACE, HASH, 4, 33)
    for ifindex in (1, FAR):
        odd.put(u32(ifindex), b"\1" * 33)
    samples = server.scrape()
    assert ALL_WELL == success(samples)
    assert {"interface_state"} == failed_sources(samples)
    packets = {key: value for key, value in whole.items() if key[0].endswith("_packets_total")}
    assert packets.items() <= samples.items()
    assert [] == labels_of(samples, "calico_bpf_endpoint_problems")


def test_what_is_left_of_interfaces_that_are_gone_is_counted_and_nothing_else(known_node, start):
    server = start()
    whole = node_samples(recovered(server))
    known_node.counters.put(u32(FAR + 1, 0), *on_each_cpu(27, {0: 9, 4: 9}))
    known_node.states.put(u32(FAR + 1), interface_state(0, "cali99999999999", 52))
    gone = known_node.run_dir / "bpf/policy/cali99999999999_ingress_v4.json"
    gone.write_bytes((known_node.run_dir / POLICY_FILE).read_bytes())
    after = node_samples(server.scrape())
    changed = {key: after[key] - whole[key] for key in whole if after[key] != whole[key]}
    left = {sample("calico_bpf_leftover_entries", map=one): 1 for one in ("counters", "iface")}
    entries = {sample("calico_bpf_map_entries", map=one, ip_family=""): 1 for one in ("counters", "iface")}
    assert left | entries | {sample("calico_bpf_policy_debug_files"): 1} == changed
    assert whole.keys() == after.keys()


def test_a_map_replaced_in_the_middle_of_its_read_is_served_whole_as_it_was_then_as_it_is(
    known_node, faulty, control, make_map
):
    for number in range(1, 6000):  # several batches
        known_node.counters.put(u32(FAR + number, 0), *on_each_cpu(27, {0: number}))
    server = faulty()
    whole = server.scrape()
    before = steady_descriptors(server.process.pid)
    with pausing(control) as paused, ThreadPoolExecutor(1) as thread:
        scrape = thread.submit(server.scrape)
        paused.wait()
        paused.resume()
        paused.wait()  # the first batch is read
        known_node.counters.unpin()
        newer = make_map(COUNTERS, PERCPU_HASH, 8, 8 * 25, max_entries=100)
        count(newer, 77)
        paused.stop_pausing()
        paused.resume()
        during = scrape.result()
    assert node_samples(whole) == node_samples(during)
    after = server.scrape()
    assert (77, 1) == (total_of(after), after[sample("calico_bpf_map_entries", map="counters", ip_family="")])
    assert before == steady_descriptors(server.process.pid)


@contextmanager
def mounted(folder, maps):
    """A BPF file system with these maps pinned in it, as calico-node does it at its start."""
    run("mount", "-t", "bpf", "bpf", folder)
    try:
        (folder / "tc/globals").mkdir(parents=True)
        for one in maps:
            call("bpf_obj_pin", one.descriptor, os.fsencode(folder / "tc/globals" / one.pin.name))
        yield
    finally:
        run("umount", folder)


def test_a_bpf_file_system_unmounted_and_mounted_again_is_absence_and_then_the_same_numbers(
    known_node, start, tmp_path
):
    known_node.bpf_fs = tmp_path / "bpf"
    known_node.bpf_fs.mkdir()
    with mounted(known_node.bpf_fs, known_node.maps):
        server = start()
        whole = server.scrape()
        before = steady_descriptors(server.process.pid)
    for _ in range(3):
        assert_no_dataplane(server.scrape())
    known_node.count(2**40 + 9)  # the programs go on counting in maps that are no longer visible
    with mounted(known_node.bpf_fs, known_node.maps):
        assert 2**40 + 9 == total_of(server.scrape())
        known_node.count(2**40 + 5)
        assert node_samples(whole) == node_samples(recovered(server))
        assert before == steady_descriptors(server.process.pid)
    assert "failed" not in server.log.read_text()
    found = exporter("check", "--bpf.fs", known_node.bpf_fs, "--calico.run-dir", known_node.run_dir).stdout
    assert "does not exist: no BPF file system is mounted there" in found


def assert_no_dataplane(samples):
    """A node without Calico's eBPF dataplane: that is said, nothing fails, and nothing is counted."""
    assert ALL_WELL == success(samples)
    assert 0 == samples[sample("calico_bpf_dataplane_present")]
    assert [] == [name for name, _ in samples if name.endswith("_packets_total")]


@contextmanager
def shared(folder):
    """A folder below which mounts reach those who have it mounted, as on a node that systemd started."""
    folder.mkdir()
    run("mount", "--bind", folder, folder)
    try:
        run("mount", "--make-shared", folder)
        (folder / "bpf").mkdir()
        yield folder
    finally:
        run("umount", folder)


@pytest.mark.parametrize("what", ["itself", "its parent"])
def test_in_a_container_a_file_system_mounted_again_is_seen_at_once_only_where_its_parent_is_mounted(
    known_node, start, tmp_path, what
):
    inside = tmp_path / "inside"
    inside.mkdir()
    with shared(tmp_path / "host") as host:
        source, known_node.bpf_fs = (host / "bpf", inside) if what == "itself" else (host, inside / "bpf")
        mount = f'mount --rbind "{source}" "{inside}" && mount --make-rslave "{inside}" && exec "$@"'
        prefix = ("unshare", "--mount", "--propagation", "slave", "sh", "-c", mount, "sh")
        with mounted(host / "bpf", known_node.maps):
            server = start(prefix=prefix)
            whole = server.scrape()
        between = server.scrape()
        # Calico restarts: another map, with another count.
        newer = PinnedMap(known_node.pins / "newer", PERCPU_HASH, 8, 8 * 27)
        count(newer, 3)
        newer.pin = known_node.counters.pin
        with mounted(host / "bpf", (known_node.states, known_node.rules, newer)):
            after = server.scrape()
            server.end()
            restarted = start(prefix=prefix)
            assert 3 == total_of(restarted.scrape())
            restarted.end()
        newer.close()
    if what == "itself":
        assert node_samples(whole) == node_samples(between) == node_samples(after)
    else:
        assert (None, 3) == (total_of(between), total_of(after))
        assert_no_dataplane(between)


class Scraper:
    """Scrapes continuously in a thread, and keeps the total of each scrape."""

    def __init__(self, server):
        self._server = server
        self._ended = False
        self._done = Condition()
        self.totals = []
        self.without = []
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._ended:
            samples = self._server.scrape()
            with self._done:
                self.totals.append(total_of(samples))
                self.without.append({name for name, well in success(samples).items() if not well})
                self._done.notify_all()

    def wait_for_scrapes(self, times):
        """Waits for scrapes that begin from now on."""
        with self._done:
            wanted = len(self.totals) + times + 1
            assert self._done.wait_for(lambda: len(self.totals) >= wanted, timeout=30)

    def end(self):
        self._ended = True
        self._thread.join()


@contextmanager
def scraping(server):
    one = Scraper(server)
    try:
        yield one
    finally:
        one.end()


@pytest.fixture
def older(known_node, make_map):
    """The map of an older release, alone, with what it has counted so far."""
    known_node.counters.unpin()
    one = make_map("cali_counters5", PERCPU_HASH, 8, 8 * 25, max_entries=20000)
    count(one, 1000)
    return one


def test_an_upgrade_and_a_downgrade_while_scraped_show_each_map_s_numbers_in_order(older, start, make_map):
    server = start()
    phases = [list(range(1001, 1006)), list(range(1, 6)), list(range(1006, 1011))]
    with scraping(server) as scraper:
        for packets in phases[0]:
            count(older, packets)
            scraper.wait_for_scrapes(1)
        newer = make_map(COUNTERS, PERCPU_HASH, 8, 8 * 27, max_entries=20000)
        count(newer, 0)
        scraper.wait_for_scrapes(2)
        for one, phase in ((newer, phases[1]), (older, phases[2])):
            for packets in phase:
                count(one, packets)
                scraper.wait_for_scrapes(2)
            # The last is not lost, and the other map's is not shown beside it or after it.
            assert phase[-1] == scraper.totals[-1]
    shown = list(dict.fromkeys(total for total in scraper.totals if total is not None))
    assert shown == sorted(shown, key=[1000, *phases[0], *phases[1], *phases[2]].index)
    assert {1005, 5, 1010} <= set(shown)
    assert 0 not in shown  # the new map's, before anything counted in it
    # While the live map is unknown, only the counters collector fails.
    assert {frozenset(), frozenset({"counters"})} >= set(map(frozenset, scraper.without))
    assert [total is None for total in scraper.totals] == ["counters" in without for without in scraper.without]


@pytest.mark.parametrize("number", ["EPERM", "EMFILE", "ENOMEM"])
def test_programs_that_cannot_be_asked_in_the_middle_of_an_upgrade_change_no_number(
    known_node,
    older,
    faulty,
    control,
    make_map,
    counting,
    number,
):
    load_programs(counting, known_node.bpf_fs / "older_release", older.pin)
    arrays = [make_map(name, PROG_ARRAY, 4, 4, max_entries=500) for name in ("cali_progs_ing2", "cali_progs_ing3")]
    put_program(arrays[0], 0, known_node.bpf_fs / "older_release/from_pod")
    server = faulty()
    assert 1000 == total_of(server.scrape())
    newer = make_map(COUNTERS, PERCPU_HASH, 8, 8 * 27, max_entries=20000)
    count(newer, 3)
    load_programs(counting, known_node.bpf_fs / "newer_release", newer.pin)
    put_program(arrays[1], 0, known_node.bpf_fs / "newer_release/from_pod")
    assert 3 == total_of(server.scrape())
    (control / "faults").write_text(f'[["program_by_id", "*", "{number}"]]')
    assert [3, 3, 3] == [total_of(server.scrape()) for _ in range(3)]
    (control / "faults").unlink()
    count(newer, 4)
    assert 4 == total_of(server.scrape())
