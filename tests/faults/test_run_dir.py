"""Calico's run directory is deleted and recreated while the exporter serves: its samples are absent or stay."""

import os
import shutil
from contextlib import contextmanager

import pytest

from exporter.folder_watch import FolderWatch
from tests.faults.known_node import ALL_WELL, INTERFACE, failed_sources, node_samples, recovered
from tests.kernel.machine import labels_of, run, sample, steady_descriptors, success
from tests.stopwatch import Stopwatch

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
        assert sample("calico_bpf_policy_debug_files") not in samples
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
    assert {"endpoint_status", "policy_files"} == failed_sources(samples)
    assert {""} == {labels["pod"] for labels in labels_of(samples, DROPPED)}
    aside.rename(known_node.run_dir)
    named = server.scrape()
    assert {"client"} == {labels["pod"] for labels in labels_of(named, DROPPED)}
    assert sorted(counted(samples).values()) == sorted(counted(named).values())


# Pods keep their known names without the first; without the other, what the rules are is not known.
PARTS = {"endpoint-status": ("endpoint_status", ALL_WELL), "bpf/policy": ("policy_files", ALL_WELL | {"rules": 0})}


@pytest.mark.parametrize("part", PARTS)
def test_a_file_in_a_folders_place_takes_only_what_it_says_and_ends_with_it(known_node, start, part):
    server = start()
    whole = server.scrape()
    folder, aside = known_node.run_dir / part, known_node.run_dir / "aside"
    folder.rename(aside)
    folder.touch()
    for _ in range(3):
        assert_only_its_facts_are_missing(server.scrape(), whole, part)
    folder.unlink()
    aside.rename(folder)
    assert node_samples(whole) == node_samples(server.scrape())
    said = server.log.read_text()
    assert (part == "bpf/policy") == (f"collector rules failed: {folder} could not be listed: Not a directory" in said)


def assert_only_its_facts_are_missing(samples, whole, part):
    source, well = PARTS[part]
    assert counted(whole) == counted(samples)
    assert (well, {source}) == (success(samples), failed_sources(samples))


@contextmanager
def hanging(folder):
    """A FUSE file system over this folder whose server answers nothing."""
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other"
    run("mount", "-i", "-t", "fuse", "-o", options, "none", folder, pass_fds=[descriptor])
    try:
        yield
    finally:
        os.close(descriptor)  # ends what waits for an answer
        run("umount", "--lazy", folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_that_hangs_takes_only_its_facts_and_is_waited_for_once(known_node, start, part):
    server = start()
    whole = server.scrape()
    with hanging(known_node.run_dir / part):
        assert_only_its_facts_are_missing(server.scrape(), whole, part)
        watch = Stopwatch(server.process.pid)
        for _ in range(3):
            assert_only_its_facts_are_missing(server.scrape(), whole, part)
        assert watch.seconds() < 1.5
    assert node_samples(whole) == node_samples(recovered(server))
    said = server.log.read_text()
    sentence = f"{known_node.run_dir / part} does not answer: its file system hangs"
    assert (part == "bpf/policy") == (f"collector rules failed: {sentence}" in said)


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


def test_a_file_system_mounted_over_a_folder_is_another_folder(machine, tmp_path):
    watch = FolderWatch(tmp_path)
    assert [False, True] == [watch.unchanged(), watch.unchanged()]
    run("mount", "-t", "tmpfs", "over", tmp_path)
    try:
        assert [False, True] == [watch.unchanged(), watch.unchanged()]
    finally:
        run("umount", tmp_path)
    assert [False, True] == [watch.unchanged(), watch.unchanged()]
