"""Calico's run directory is deleted and recreated while the exporter serves: its samples are absent or stay."""

import shutil

import pytest

from tests.faults.known_node import ALL_WELL, INTERFACE, node_samples
from tests.kernel.machine import labels_of, sample, steady_descriptors, success

pytestmark = pytest.mark.kernel

RULES = "calico_bpf_policy_rule_hits_total"
DROPPED = "calico_bpf_dropped_packets_total"


def of_pod(samples):
    """Everything counted on the pod's interface."""
    return {key: value for key, value in samples.items() if dict(key[1]).get("interface") == INTERFACE}


def counted(samples):
    return {key: value for key, value in of_pod(samples).items() if key[0].endswith("_total")}


def test_when_it_is_deleted_counts_keep_their_pod_rules_are_absent_and_all_comes_back_with_it(known_node, start):
    server = start()
    whole = server.scrape()
    before = steady_descriptors(server.process.pid)
    shutil.rmtree(known_node.run_dir)
    for _ in range(3):
        samples = server.scrape()
        assert ALL_WELL == success(samples)
        assert counted(whole) == counted(samples)
        assert {"client"} == {labels["pod"] for labels in labels_of(samples, DROPPED)}
        assert [] == labels_of(samples, RULES)
        assert 0 == samples[sample("calico_bpf_policy_debug_files")]
        assert 2 == samples[sample("calico_bpf_unattributed_rule_ids")]
        assert sample("calico_bpf_no_profile_match_hits_total") not in samples
    known_node.write_files()
    assert node_samples(whole) == node_samples(server.scrape())
    assert before == steady_descriptors(server.process.pid)
    assert "level=warning" not in server.log.read_text()


def test_what_the_exporter_never_knew_has_no_name_until_it_is_there_and_its_counts_all_the_same(known_node, start):
    aside = known_node.run_dir.rename(known_node.run_dir.with_name("aside"))
    server = start()
    samples = server.scrape()
    assert {""} == {labels["pod"] for labels in labels_of(samples, DROPPED)}
    aside.rename(known_node.run_dir)
    named = server.scrape()
    assert {"client"} == {labels["pod"] for labels in labels_of(named, DROPPED)}
    assert sorted(counted(samples).values()) == sorted(counted(named).values())


@pytest.mark.parametrize("part", ["endpoint-status", "bpf/policy"])
def test_a_file_in_a_folders_place_fails_what_needs_it_with_a_sentence_and_ends_with_it(known_node, start, part):
    server = start()
    whole = server.scrape()
    folder, aside = known_node.run_dir / part, known_node.run_dir / "aside"
    folder.rename(aside)
    folder.touch()
    expected = {"endpoint-status": "endpoints", "bpf/policy": "rules"}[part]
    for _ in range(3):
        samples = server.scrape()
        assert counted(whole) == counted(samples)
        assert 0 == success(samples)[expected]
    folder.unlink()
    aside.rename(folder)
    assert node_samples(whole) == node_samples(server.scrape())
    assert 1 == server.log.read_text().count(
        f"collector {expected} failed: {folder} could not be listed: Not a directory"
    )


def test_in_a_mount_of_the_folder_itself_what_was_made_again_is_seen_after_a_restart(known_node, start, tmp_path):
    # As in a container: the mount goes on showing the folder that was deleted.
    inside = tmp_path / "inside"
    inside.mkdir()
    outside, known_node.run_dir = known_node.run_dir, inside
    mount = f'mount --bind "{outside}" "{inside}" && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", mount, "sh")
    server = start(prefix=prefix)
    whole = server.scrape()
    shutil.rmtree(outside)
    known_node.run_dir = outside
    known_node.write_files()
    known_node.run_dir = inside
    samples = server.scrape()
    assert counted(whole) == counted(samples)
    assert [] == labels_of(samples, RULES)
    server.end()
    assert node_samples(whole) == node_samples(start(prefix=prefix).scrape())
