"""The batches of a bpftool that prints what a test says."""

import json
import os
import time

import pytest

from exporter.bpf.bpftool import BpftoolReader
from exporter.bpf.maps import MapDump, MapError, MapInfo, ReadAborted

SHOWN = {"id": 7, "type": "hash", "name": "cali", "flags": 0, "bytes_key": 2, "bytes_value": 1, "max_entries": 10}
INFO = MapInfo("/pin", 7, "cali", "hash", 2, 1, 10, 0)


@pytest.fixture
def printing(tmp_path):
    """A reader over a program that shows the map and runs this shell command for its dump."""

    def make(dump, timeout=10.0):
        program = tmp_path / "bpftool"
        program.write_text(f"#!/bin/sh\ncase \"$*\" in\n*show*) echo '{json.dumps(SHOWN)}';;\n*) {dump};;\nesac\n")
        program.chmod(0o755)
        return BpftoolReader(str(program), timeout)

    return make


def dumped(*entries):
    return f"echo '{json.dumps(list(entries))}'"


ONE = {"key": ["0x01", "0x02"], "value": ["0xff"], "formatted": {"key": {"a": 1}, "value": [{"key": 2}]}}
DELETED = {"key": ["0x03", "0x04"], "value": {"error": "No such file or directory"}}


def test_entries_are_bytes_and_one_deleted_meanwhile_is_left_out(printing):
    assert list(printing(dumped(ONE, DELETED)).batches("/pin")) == [MapDump(INFO, b"\x01\x02", b"\xff")]
    assert list(printing(dumped()).batches("/pin")) == []


@pytest.mark.parametrize(
    "dump",
    [
        dumped({"key": ["0x01"], "value": ["0xff"]}),
        dumped({"key": ["0x01", "0x02"], "value": ["0xff", "0xff"]}),
        dumped({"key": ["0x01", "0x02"], "value": ["0x1ff"]}),
        dumped({"key": ["0x01", "0x02"]}),
        dumped({"key": 5, "value": 6}),
        """echo '{"error": "bpf obj get failed"}'""",
        "printf '[{'",
        "exit 1",
    ],
)
def test_any_other_output_is_one_error(printing, dump):
    with pytest.raises(ReadAborted, match="does not have the shape it should"):
        list(printing(dump).batches("/pin"))


def test_output_is_not_waited_for_longer_than_the_timeout_and_the_program_ends(printing, tmp_path):
    begun, reader = time.monotonic(), printing(f"echo $$ > {tmp_path}/pid; printf '['; exec sleep 60", timeout=0.5)
    with pytest.raises(ReadAborted, match=r"did not print all of /pin within 0\.5 s"):
        list(reader.batches("/pin"))
    assert time.monotonic() - begun < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_who_stops_reading_ends_the_program(printing, tmp_path):
    one = json.dumps(ONE)
    many = f"echo $$ > {tmp_path}/pid; printf '[{one}'; i=0; while [ $i -lt 20000 ]; do echo ',{one}'; i=$((i+1)); done"
    batches = printing(f"{many}; exec sleep 60").batches("/pin")
    assert len(next(batches).keys) == 2 * 1000
    batches.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_program_that_cannot_be_started_is_an_error():
    with pytest.raises(MapError):
        list(BpftoolReader("/nowhere/bpftool").batches("/pin"))
