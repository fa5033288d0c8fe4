"""The wall clock is set back or forth while the exporter serves: no number of the node depends on it."""

import os

import pytest

from tests.faults.known_node import ALL_WELL, POLICY_FILE, RULE, node_samples
from tests.kernel.machine import labels_of, steady_descriptors, success
from tests.policy_files import policy, tier, written

pytestmark = pytest.mark.kernel

YEAR = 365 * 24 * 3600
RULES = "calico_bpf_policy_rule_hits_total"


def actions(samples):
    return {labels["action"] for labels in labels_of(samples, RULES) if labels["rule"] == "0"}


@pytest.fixture
def clock(control):
    """Sets the exporter's wall clock wrong by so many seconds."""
    return lambda seconds: (control / "clock").write_text(str(seconds))


@pytest.mark.parametrize("seconds", [-YEAR, -60, 60, YEAR])
def test_a_clock_that_jumps_changes_no_number_and_returns_without_a_trace(faulty, clock, seconds):
    server = faulty()
    whole = server.scrape()
    before = steady_descriptors(server.process.pid)
    for wrong in (seconds, 0, -seconds, 0):
        clock(wrong)
        samples = server.scrape()
        assert ALL_WELL == success(samples)
        assert node_samples(whole) == node_samples(samples)
    assert before == steady_descriptors(server.process.pid)
    assert "level=warning" not in server.log.read_text()


@pytest.mark.parametrize("seconds", [-YEAR, YEAR])
def test_a_file_written_again_under_a_wrong_clock_is_read_again(known_node, faulty, clock, seconds):
    server = faulty()
    assert {"allow"} == actions(server.scrape())
    file, length = known_node.run_dir / POLICY_FILE, (known_node.run_dir / POLICY_FILE).stat().st_size
    times = (file.stat().st_atime + seconds, file.stat().st_mtime + seconds)
    clock(seconds)
    for action in ("deny", "allow", "deny"):  # of one length, at what the clock says is one moment
        rules = tier("default", policy("NetworkPolicy ns-a/p", (action, RULE)), end=("deny", 8))
        file.write_bytes(written(*rules).ljust(length))
        os.utime(file, times)
        assert {action} == actions(server.scrape())
    clock(0)
    assert {"deny"} == actions(server.scrape())


def test_the_log_goes_on_under_a_clock_that_was_set_back(known_node, faulty, clock):
    server = faulty()
    server.scrape()
    clock(-YEAR)
    aside = known_node.rules.pin.rename(known_node.rules.pin.with_name("aside"))
    server.scrape()
    aside.rename(known_node.rules.pin)
    server.scrape()
    said = server.log.read_text()
    assert (1, 1) == (said.count("collector rules failed: "), said.count("collector rules works again"))
