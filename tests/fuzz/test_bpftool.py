"""Whatever bpftool prints, its reader's answer is a value of the right shape or a `MapError`, never another exception;
what a map holds is read back from it.
"""

import json
import subprocess
from contextlib import suppress
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.bpf import bpftool
from exporter.bpf.bpftool import BpftoolReader
from exporter.bpf.maps import MapError, MapInfo
from tests.fuzz.shapes import BROKEN, encoded

SHOWN = {"id": 7, "type": "hash", "name": "cali", "flags": 0, "bytes_key": 2, "bytes_value": 1, "max_entries": 10}
PER_CPU = SHOWN | {"type": "percpu_hash"}
DUMPED = [{"key": ["0x01", "0x02"], "value": ["0xff"]}, {"key": ["0x03", "0x04"], "value": {"error": "No such file"}}]
DUMPED_PER_CPU = [{"key": ["0x01", "0x02"], "values": [{"cpu": 0, "value": ["0x01"]}, {"cpu": 1, "value": ["0x02"]}]}]
PROGRAMS = [{"id": 1, "loaded_at": 5, "map_ids": [1, 2]}, {"id": 2}]


def asked(question, answers, code=0, errors=b""):
    """What the reader makes of a bpftool that prints these answers to `show` and `dump`; None for a `MapError`."""

    def run(command, **_):
        return subprocess.CompletedProcess(command, code, answers["dump" if "dump" in command else "show"], errors)

    found = None
    with patch.object(subprocess, "run", run), patch.object(bpftool, "possible_cpus", lambda: 2), suppress(MapError):
        found = question(BpftoolReader("/bpftool"))
    return found


@given(encoded(SHOWN), st.integers(0, 255), st.binary())
def test_any_answer_about_a_map_is_its_shape_or_an_error(shown, code, errors):
    info = asked(lambda reader: reader.info("/pin"), {"show": shown}, code, errors)
    assert info is None or {int} == {type(one) for one in (info.id, info.key_size, info.value_size, info.max_entries)}
    assert info is None or {str} == {type(info.name), type(info.type)}


@given(encoded(SHOWN) | st.just(json.dumps(PER_CPU).encode()), encoded(DUMPED) | encoded(DUMPED_PER_CPU))
def test_any_dump_is_columns_of_its_shape_or_an_error(shown, dumped):
    dump = asked(lambda reader: reader.read("/pin"), {"show": shown, "dump": dumped})
    if dump is not None:
        count = dump.count
        assert (2 if dump.info.per_cpu else 1) == dump.copies
        assert dump.info.key_size == 0 or count * dump.info.key_size == len(dump.keys)
        assert dump.info.key_size == 0 or count * dump.copies * dump.info.value_size == len(dump.values)


@given(encoded(PROGRAMS) | BROKEN)
def test_any_answer_about_programs_is_those_asked_for_or_an_error(shown):
    found = asked(lambda reader: reader.programs([1, 2]), {"show": shown})
    for one in found or ():
        assert one.id in {1, 2}
        assert all(type(each) is int for each in (one.load_time, *one.map_ids))


@given(st.dictionaries(st.binary(min_size=2, max_size=2), st.binary(min_size=1, max_size=1)))
def test_what_a_map_holds_is_read_back(entries):
    def words(raw):
        return [f"0x{one:02x}" for one in raw]

    dumped = [{"key": words(key), "value": words(value)} for key, value in entries.items()]
    answers = {"show": json.dumps(SHOWN).encode(), "dump": json.dumps(dumped).encode()}
    dump = asked(lambda reader: reader.read("/pin"), answers)
    assert MapInfo("/pin", 7, "cali", "hash", 2, 1, 10, 0) == dump.info
    assert entries == dict(dump.entries())


# Once: each was another exception than `MapError`.
@pytest.mark.parametrize(
    ("shown", "dumped"),
    [
        ({"bytes_key": 2}, []),
        (SHOWN | {"bytes_value": "1"}, DUMPED),
        (SHOWN | {"bytes_key": -1}, DUMPED),
        (SHOWN, {"key": 1}),
        (SHOWN, [1]),
        (SHOWN, [{"key": ["0x100", "0x00"], "value": ["0x00"]}]),
    ],
)
def test_an_answer_of_another_shape_is_an_error(shown, dumped):
    answers = {"show": json.dumps(shown).encode(), "dump": json.dumps(dumped).encode()}
    assert asked(lambda reader: reader.read("/pin"), answers) is None


@pytest.mark.parametrize("shown", [{"id": 1}, [1], [{}], [{"id": [1]}], [PROGRAMS[0] | {"loaded_at": "5"}]])
def test_programs_of_another_shape_are_an_error(shown):
    assert asked(lambda reader: reader.programs([1]), {"show": json.dumps(shown).encode()}) is None


def test_an_answer_that_is_too_deep_is_an_error():
    assert asked(lambda reader: reader.info("/pin"), {"show": b"[" * 5000}) is None
