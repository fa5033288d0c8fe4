"""A read that hangs fails its caller after a moment, and the next at once; a slow one is waited for."""

import os
import time
from pathlib import Path
from threading import Event

import pytest

from exporter.node import NodeError, read_thread
from exporter.node.read_thread import ReadThread

FOLDER = Path("/run/calico/endpoint-status")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(read_thread, "_STANDS_STILL", 0.2)


def test_what_a_read_returns_or_raises_is_its_callers():
    one = ReadThread(FOLDER)
    assert 7 == one.read(lambda: 7)
    with pytest.raises(ZeroDivisionError):
        one.read(lambda: 1 // 0)
    with pytest.raises(TimeoutError, match="its own"):
        one.read(lambda: (_ for _ in ()).throw(TimeoutError("its own")))
    assert 8 == one.read(lambda: 8)


def test_a_read_that_hangs_fails_after_a_moment_the_next_at_once_and_all_is_well_when_it_returns():
    one, answer = ReadThread(FOLDER), Event()
    start = time.monotonic()
    with pytest.raises(NodeError, match="/run/calico/endpoint-status does not answer: its file system hangs"):
        one.read(answer.wait)
    assert time.monotonic() - start < 5
    start = time.monotonic()
    for _ in range(100):
        with pytest.raises(NodeError, match="hangs"):
            one.read(lambda: 1)
    assert time.monotonic() - start < 0.2
    answer.set()
    for _ in range(100):
        if one._pending.done():
            break
        time.sleep(0.05)
    assert 2 == one.read(lambda: 2)


def test_a_pipe_that_nobody_writes_to_hangs_like_a_file_system(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NodeError, match="hangs"):
        ReadThread(tmp_path).read((tmp_path / "pipe").read_bytes)


def test_a_slow_read_is_waited_for():
    def slow():
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass
        return "done"

    assert "done" == ReadThread(FOLDER).read(slow)


def test_another_folder_is_read_meanwhile():
    answer = Event()
    with pytest.raises(NodeError):
        ReadThread(FOLDER).read(answer.wait)
    assert 3 == ReadThread(FOLDER).read(lambda: 3)
    answer.set()
