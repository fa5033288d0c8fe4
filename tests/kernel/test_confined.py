"""Nothing in the process of a running `serve` can change a map, whatever code it is; reading goes on as before."""

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from exporter import confine
from exporter.bpf.libbpf import libbpf_reader
from tests.faults.conftest import known_node, start  # noqa: F401  fixtures
from tests.faults.known_node import ALL_WELL, FAR, node_samples
from tests.kernel.machine import ROOT, bpftool, load_programs, run, success
from tests.kernel.pinned import PERCPU_HASH, content_of, on_each_cpu, u32

pytestmark = pytest.mark.kernel

KEPT = sum(1 << number for number in confine.KEPT)
# Numbers of bpf(2) that the filter lets through, by reader.
ALLOWED = {"libbpf": {1, 4, 7, 13, 15, 24}, "bcc": {1, 4, 7, 13, 15, 24}, "bpftool": {1, 4, 7, 11, 13, 15, 19, 24}}


@pytest.fixture
def intruded(known_node, start, tmp_path):  # noqa: F811  the fixtures above
    """Starts `serve` with an intruder; answers the server and what the kernel says to the intruder's attempts."""
    answers = tmp_path / "answers"
    os.mkfifo(answers)

    def intruded(*more):
        program = (sys.executable, "-m", "tests.kernel.intruder", known_node.states.pin, u32(FAR).hex(), answers)
        server = start(program=program, more=more)

        def attempts() -> list[dict]:
            server.process.send_signal(signal.SIGUSR1)
            with answers.open() as lines:
                return json.loads(lines.readline())

        return server, attempts

    return intruded


def content(known_node):  # noqa: F811
    return content_of(libbpf_reader().read(str(known_node.states.pin)))


def statuses(server) -> list[dict[str, str]]:
    """What the kernel says of each thread."""
    files = Path(f"/proc/{server.process.pid}/task").glob("*/status")
    return [dict(line.split(":\t", 1) for line in file.read_text().splitlines()) for file in files]


@pytest.mark.parametrize("reader", list(ALLOWED))
def test_a_write_is_refused_to_any_code_in_any_thread(intruded, known_node, reader):  # noqa: F811
    before = content(known_node)
    server, attempts = intruded(f"--bpf.reader={reader}")
    assert success(server.scrape()) == ALL_WELL
    for said in attempts():
        commands = said.pop("commands")
        assert {number for number, answer in enumerate(commands) if answer != errno.EPERM} <= ALLOWED[reader]
        assert {commands[number] for number in ALLOWED[reader]} & {errno.EPERM} == set()
        # bpftool opens for writing although it reads: for its sake the user stays root.
        root = reader == "bpftool"
        assert {
            "writable open": 0 if root else errno.EACCES,
            "read-only open": 0,
            "lookup": 0,
            "update": errno.EPERM,
            "update by a large number": errno.EPERM,
            "delete": errno.EPERM,
            "root": 0 if root else errno.EPERM,
        } == said
    assert before == content(known_node)


def test_without_confinement_the_same_code_writes(intruded, known_node):  # noqa: F811
    _, attempts = intruded("--no-security.drop-capabilities")
    here, _ = attempts()
    assert (0, 0, 0, 0) == tuple(
        here[name] for name in ("writable open", "update", "update by a large number", "delete")
    )
    assert {} == content(known_node)


@pytest.mark.parametrize("reader", list(ALLOWED))
def test_each_thread_has_what_reading_takes_and_no_more(start, reader):  # noqa: F811
    server = start(more=[f"--bpf.reader={reader}"])
    server.scrape()
    user = "0" if reader == "bpftool" else str(confine.USER)
    all_of_them = statuses(server)
    assert len(all_of_them) > 1
    for status in all_of_them:
        assert status["Uid"].split() == [user] * 4
        assert (status["Gid"].split(), status["Groups"].split()) == ([str(confine.USER)] * 4, [])
        assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [KEPT, KEPT, 0, 0]
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_confined_it_reads_what_it_reads_otherwise(start, known_node):  # noqa: F811
    confined, free = start().scrape(), start(more=["--no-security.drop-capabilities"]).scrape()
    assert node_samples(confined) == node_samples(free)
    assert success(confined) == ALL_WELL


_ASK_TWICE = """
import sys
from exporter.bpf.readers import open_reader
from exporter.confine import confine

name, pin, program = sys.argv[1:]
reader = open_reader(name)
ask = lambda: repr((reader.info(pin), reader.read(pin), reader.programs([int(program)])))
before = ask()
assert [] == confine(bpftool=name == "bpftool")
assert before == ask()
print(before)
"""


@pytest.mark.parametrize("reader", list(ALLOWED))
def test_each_question_of_a_reader_is_answered_as_before(make_map, bpf_fs, counting, reader):
    pinned = make_map("cali_counters6", PERCPU_HASH, 8, 216)
    pinned.put(u32(FAR, 0), *on_each_cpu(27, {0: 1}))
    load_programs(counting, bpf_fs / "loaded", pinned.pin)
    program = bpftool("prog", "show", "pinned", bpf_fs / "loaded/from_pod")["id"]
    done = run(sys.executable, "-c", _ASK_TWICE, reader, pinned.pin, program, cwd=ROOT)
    assert f"ProgramInfo(id={program}" in done.stdout
