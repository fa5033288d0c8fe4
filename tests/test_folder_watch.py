"""A folder counts as unchanged only where that is certain."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import folder_watch
from exporter.bpf.readers import open_reader
from exporter.folder_watch import FolderWatch
from exporter.node import NodeError
from exporter.node.files import read_folder
from exporter.snapshot.source import LiveNode
from tests.kernel.machine import open_descriptors

LONG_AGO = (10**9, 10**9)


def write(folder, name, content):
    """A file that was written long ago."""
    (folder / name).write_bytes(content)
    os.utime(folder / name, LONG_AGO)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    made.mkdir()
    write(made, "a", b"1")
    return made


@pytest.fixture
def watch(folder):
    """A watch that has been asked once, when the folder was read."""
    made = FolderWatch(folder)
    assert not made.unchanged()
    return made


def recreate(folder):
    (folder / "a").unlink()
    folder.rmdir()
    folder.mkdir()


def replace(folder):
    folder.rename(folder.with_name("old"))
    folder.mkdir()


CHANGES = {
    "written in place": lambda folder: (folder / "a").write_bytes(b"2"),
    "written with its old size and time": lambda folder: write(folder, "a", b"2"),
    "truncated": lambda folder: os.truncate(folder / "a", 0),
    "another mode": lambda folder: (folder / "a").chmod(0o600),
    "another time": lambda folder: os.utime(folder / "a", (1, 1)),
    "a file more": lambda folder: (folder / "b").touch(),
    "a file less": lambda folder: (folder / "a").unlink(),
    "renamed": lambda folder: (folder / "a").rename(folder / "b"),
    "renamed into it": lambda folder: write(folder.parent, "x", b"3") or (folder.parent / "x").rename(folder / "a"),
    "renamed out of it": lambda folder: (folder / "a").rename(folder.parent / "a"),
    "linked": lambda folder: (folder / "b").hardlink_to(folder / "a"),
    "another mode of the folder": lambda folder: folder.chmod(0o711),
    "deleted": lambda folder: ((folder / "a").unlink(), folder.rmdir()),
    "deleted and made again": recreate,
    "replaced": replace,
}


def test_a_folder_in_which_nothing_happens_is_unchanged(folder, watch):
    assert [True] * 3 == [watch.unchanged() for _ in range(3)]
    assert b"1" == (folder / "a").read_bytes()
    assert watch.unchanged()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_change_is_noticed_once_and_so_is_the_next_one(folder, watch, change):
    change(folder)
    assert not watch.unchanged()
    folder.mkdir(exist_ok=True)
    watch.unchanged()
    assert watch.unchanged()
    write(folder, "a", b"4")
    assert not watch.unchanged()


def test_a_file_that_was_opened_before_is_watched_too(folder, watch):
    with (folder / "a").open("r+b", buffering=0) as file:
        watch.unchanged()
        file.write(b"5")
        assert not watch.unchanged()


def test_a_symbolic_link_that_leads_elsewhere_is_another_folder(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    watch = FolderWatch(tmp_path / "link")
    assert [False, True] == [watch.unchanged(), watch.unchanged()]
    (tmp_path / "other").mkdir()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert [False, True] == [watch.unchanged(), watch.unchanged()]


def test_more_changes_than_the_kernel_queues_are_a_change(folder, watch):
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
    (folder / "b").touch()
    for _ in range(limit // 2 + 1):
        os.utime(folder / "a", LONG_AGO)
        os.utime(folder / "b", LONG_AGO)
    assert not watch.unchanged()


def test_after_some_minutes_a_folder_counts_as_changed(watch, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 301)
    assert [False, True] == [watch.unchanged(), watch.unchanged()]


@pytest.mark.parametrize("path", ["/proc/self", "/sys/kernel", "/nonexistent", "/etc/passwd"])
def test_of_what_is_no_folder_of_a_local_file_system_nothing_is_known(path):
    watch = FolderWatch(Path(path))
    assert [False] * 3 == [watch.unchanged() for _ in range(3)]


def test_where_the_kernel_allows_no_watch_nothing_is_known(folder, monkeypatch):
    for name in ("_EVENTS", "_ONLY_FOLDERS"):
        monkeypatch.setattr(folder_watch, name, 0)  # which inotify_add_watch refuses
    watch = FolderWatch(folder)
    assert [False] * 3 == [watch.unchanged() for _ in range(3)]


def test_a_watch_holds_one_descriptor_however_often_its_folder_is_replaced(folder, watch):
    before = open_descriptors()
    for number in range(5):
        folder.rename(folder.with_name(f"old-{number}"))
        folder.mkdir()
        watch.unchanged()
    assert before == open_descriptors()


_NAMES = st.sampled_from(["a", "b", "c"])
_KINDS = st.sampled_from(["write", "fresh", "delete", "rename", "nothing", "replace"])


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    return LiveNode(open_reader("bpftool"), run_dir, run_dir), run_dir / "endpoint-status"


@given(steps=st.lists(st.tuples(_KINDS, _NAMES, _NAMES), max_size=20))
def test_a_node_always_has_the_files_as_they_are(node, steps):
    node, folder = node
    folder.mkdir(exist_ok=True)
    for number, (kind, name, other) in enumerate(steps):
        if kind == "write":
            write(folder, name, str(number).encode())
        elif kind == "fresh":
            (folder / name).write_bytes(str(number).encode())
        elif kind == "delete":
            (folder / name).unlink(missing_ok=True)
        elif kind == "rename" and (folder / name).exists():
            (folder / name).rename(folder / other)
        elif kind == "replace":
            shutil.rmtree(folder)
            folder.mkdir()
        assert read_folder(folder).files == node.endpoint_status().files


def test_an_unchanged_folder_is_not_read_again(folder, tmp_path):
    folder.rename(tmp_path / "endpoint-status")
    node = LiveNode(open_reader("bpftool"), tmp_path, tmp_path)
    first = node.endpoint_status()
    assert {"a": b"1"} == first.files
    assert first is node.endpoint_status()
    (tmp_path / "endpoint-status" / "b").write_bytes(b"new")
    second = node.endpoint_status()
    assert {"a": b"1", "b": b"new"} == second.files
    # A file written just now can change without another time, and is read until it is older.
    assert second is not node.endpoint_status()


FOLDERS = {"endpoint_status": "endpoint-status", "policies": "bpf/policy", "policy_file_names": "bpf/policy"}


@pytest.mark.parametrize("read", FOLDERS)
def test_a_change_that_could_not_be_read_is_read_the_next_time(read, tmp_path, monkeypatch):
    folder = tmp_path / FOLDERS[read]
    folder.mkdir(parents=True)
    write(folder, "old", b"1")
    node = LiveNode(open_reader("bpftool"), tmp_path, tmp_path)

    def names():
        found = getattr(node, read)()
        return set(found if read == "policy_file_names" else found.files)

    assert {"old"} == names()
    write(folder, "new", b"2")

    def refused(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(NodeError, match="Too many open files"):
        names()
    monkeypatch.undo()
    assert {"old", "new"} == names()


def test_names_and_contents_of_a_folder_are_told_of_the_same_changes(tmp_path):
    folder = tmp_path / "bpf/policy"
    folder.mkdir(parents=True)
    node = LiveNode(open_reader("bpftool"), tmp_path, tmp_path)
    for number in range(3):
        write(folder, f"one{number}", b"[]")
        before = node.policy_file_names()
        assert len(before) == len(node.policies().files)
        assert before is node.policy_file_names()
        write(folder, f"two{number}", b"[]")
        assert len(node.policies().files) == len(node.policy_file_names()) == len(before) + 1


def test_a_run_directory_that_goes_away_is_noticed(tmp_path):
    folder = tmp_path / "run" / "endpoint-status"
    folder.mkdir(parents=True)
    write(folder, "a", b"1")
    node = LiveNode(open_reader("bpftool"), tmp_path, tmp_path / "run")
    for _ in range(2):
        assert node.endpoint_status().present
        node.check_run_dir()
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert not node.endpoint_status().present
    with pytest.raises(NodeError, match="does not exist"):
        node.check_run_dir()
