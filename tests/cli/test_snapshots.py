"""From options to a snapshot: layout files that say nothing are sentences, and prefixes reach the join."""

import json
import os

import pytest

from exporter.bpf.maps import ReaderMissing

HERE = "v3.32.1/05-eot-egress-deny.after"
COMMANDS = (["counters"], ["scrape"], ["check"])
BAD_LAYOUTS = {
    "not YAML": "{",
    "empty": "",
    "a list": "[]",
    "unknown key": "when_slots: 15\nslot: {}\nslots: {14: {category: dropped, reason: x}}",
    "no slots": "when_slots: 15",
    "no count": "slots: {14: {category: dropped, reason: x}}",
    "a known slot": "when_slots: 27\nslots: {4: {category: dropped, reason: x}}",
    "a slot outside": "when_slots: 15\nslots: {15: {category: dropped, reason: x}}",
    "no category": "when_slots: 15\nslots: {14: {reason: x}}",
    "a category of its own": "when_slots: 15\nslots: {14: {category: maybe, reason: x}}",
    "a reason with a quote": "when_slots: 15\nslots: {14: {category: dropped, reason: 'x\"y'}}",
    "twice": "when_slots: 15\nslots: {14: {category: dropped, reason: x}, 14: {category: dropped, reason: y}}",
    "a name that is taken": "when_slots: 15\nslots: {14: {category: dropped, reason: policy}}",
    "an object": "!!python/object/apply:os.system ['true']",
    "deep": "[" * 5000,
    "control characters": "when_slots: 15\n\x1b[2J: 1",
}


@pytest.mark.parametrize("text", BAD_LAYOUTS.values(), ids=BAD_LAYOUTS.keys())
def test_a_layout_file_that_cannot_be_meant_is_a_sentence(run, recording, tmp_path, text):
    file = tmp_path / "layout.yaml"
    file.write_text(text, encoding="utf-8")
    result = run("counters", "--bundle", recording(HERE), "--calico.layout-file", file)
    assert (1, "") == (result.exit_code, result.stdout)
    assert 1 == len(result.stderr.splitlines())
    assert result.stderr.startswith("Error: ")
    assert not any(one for one in result.stderr if not one.isprintable() and one != "\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_layout_file_that_cannot_be_meant(run, recording, tmp_path, command):
    file = tmp_path / "layout.yaml"
    file.write_text("when_slots: many", encoding="utf-8")
    result = run(*command, "--bundle", recording(HERE), "--calico.layout-file", file)
    assert (1, "") == (result.exit_code, result.stdout)
    assert "Error: when_slots must be the number of slots of the map, for example 15\n" == result.stderr


def test_a_layout_file_that_cannot_be_read_is_a_sentence(run, recording, tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "fifo")
    for file, message in (
        (tmp_path / "nothing", "No such file"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "fifo", "is not a regular file"),
        (binary, "is not UTF-8 text"),
    ):
        result = run("counters", "--bundle", recording(HERE), "--calico.layout-file", file)
        assert (1, "") == (result.exit_code, result.stdout)
        assert message in result.stderr
        assert 1 == len(result.stderr.splitlines())


def test_a_prefix_tells_workloads_that_calico_does_not_know_yet(run, changed):
    def extra(members):
        return {
            "links.json": json.dumps([*json.loads(members["links.json"]), {"ifindex": 99, "name": "eni99"}]).encode()
        }

    bundle = changed(HERE, extra)

    def kinds(*arguments):
        told = json.loads(run("counters", "-o", "json", "--bundle", bundle, *arguments).stdout)
        return {one["interface"]: one["kind"] for one in told["endpoints"]}

    assert "eni99" not in kinds()
    assert "workload" == kinds("--calico.interface-prefix", "cali", "--calico.interface-prefix", "eni")["eni99"]


@pytest.mark.parametrize("command", [["counters"], ["scrape"], ["bundle", "-"]], ids=" ".join)
def test_a_reader_that_is_not_installed_is_a_sentence(run, monkeypatch, command):
    def missing(name):
        raise ReaderMissing(f"{name} is nowhere: install it")

    monkeypatch.setattr("exporter.bpf.readers.open_reader", missing)
    result = run(*command, "--bpf.reader", "bpftool")
    assert (1, "", "Error: bpftool is nowhere: install it\n") == (result.exit_code, result.stdout, result.stderr)
