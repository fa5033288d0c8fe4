import errno
import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.node import NodeError, files
from exporter.node.files import Folder, Unparsable, list_folder, parse_folder, read_folder


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_files_of_a_folder_are_read_whole(tmp_path):
    (tmp_path / "k8s ns-a%2Fclient eth0").write_bytes(b"{}")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    expected = {"k8s ns-a%2Fclient eth0": b"{}", "empty": b"", "binary": bytes(range(256))}
    found = read_folder(tmp_path)
    assert (True, expected, ()) == (found.present, found.files, found.problems)


def test_an_empty_folder_is_there_and_an_absent_one_is_not(tmp_path):
    assert Folder(present=True, files={}, problems=()) == read_folder(tmp_path)
    assert Folder(present=False, files={}, problems=()) == read_folder(tmp_path / "absent")
    assert list_folder(tmp_path / "absent") is None


def test_names_come_sorted(tmp_path):
    for name in ("c", "a", "b"):
        (tmp_path / name).touch()
    assert ["a", "b", "c"] == list_folder(tmp_path)
    assert ["a", "b", "c"] == list(read_folder(tmp_path).files)


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NodeError, match=r"could not be listed: Not a directory$"):
        read_folder(tmp_path / "file")


def test_a_folder_that_may_not_be_listed_is_an_error(as_nobody):
    as_nobody.chmod(0)
    with pytest.raises(NodeError, match=r"could not be listed: Permission denied: .*CAP_DAC_READ_SEARCH"):
        read_folder(as_nobody)


def test_where_no_more_files_may_be_opened_the_limit_is_the_remedy(monkeypatch, tmp_path):
    def refuse(_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(NodeError, match=r"could not be listed: Too many open files: .*ulimit -n"):
        read_folder(tmp_path)


def test_a_file_that_may_not_be_read_is_a_sentence(as_nobody):
    (as_nobody / "secret").write_bytes(b"x")
    (as_nobody / "secret").chmod(0)
    (as_nobody / "open").write_bytes(b"y")
    found = read_folder(as_nobody)
    assert {"open": b"y"} == found.files
    assert (f"{as_nobody}/secret could not be read: Permission denied",) == found.problems


def make_symlink(path):
    path.with_name("target").write_bytes(b"x")
    path.symlink_to("target")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


ODD = {
    "symlink": make_symlink,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "fifo": os.mkfifo,
    "socket": make_socket,
    "folder": os.mkdir,
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.timeout(10)
def test_what_is_not_a_regular_file_is_a_sentence_and_hides_no_other(tmp_path, kind):
    ODD[kind](tmp_path / "odd")
    (tmp_path / "plain").write_bytes(b"x")
    found = read_folder(tmp_path)
    assert b"x" == found.files.pop("plain")
    assert found.files.keys() <= {"target"}
    assert 1 == len(found.problems)
    assert found.problems[0].startswith(f"{tmp_path}/odd ")


@pytest.mark.parametrize("kind", ODD)
def test_reading_leaves_no_descriptor_open(tmp_path, kind):
    ODD[kind](tmp_path / "odd")
    read_folder(tmp_path)
    before = open_descriptors()
    for _ in range(5):
        read_folder(tmp_path)
    assert before == open_descriptors()


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_a_sentence(tmp_path):
    (tmp_path / "fits").write_bytes(b"x" * 100)
    (tmp_path / "large").write_bytes(b"x" * 101)
    found = read_folder(tmp_path, max_bytes=100)
    assert {"fits": b"x" * 100} == found.files
    assert (f"{tmp_path}/large was left out: it has 101 bytes, more than the limit of 100",) == found.problems


def test_a_huge_sparse_file_is_left_out_unread(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    found = read_folder(tmp_path)
    assert {} == found.files
    assert 1 == len(found.problems)


def test_a_file_deleted_since_it_was_listed_is_no_problem(tmp_path):
    settle(tmp_path / "a", b"1")
    settle(tmp_path / "b", b"2")

    def parse(name, content):
        (tmp_path / "b").unlink()
        return content

    found = parse_folder(tmp_path, parse, 100)
    assert ({"a": b"1"}, (), ()) == (found.files, found.problems, found.unread)


def test_names_that_are_not_utf_8_are_read(tmp_path):
    (tmp_path / os.fsdecode(b"odd \xff")).write_bytes(b"x")
    assert {"odd \udcff": b"x"} == read_folder(tmp_path).files


def test_the_sentence_about_a_name_that_is_not_utf_8_can_be_written(tmp_path):
    os.mkfifo(tmp_path / os.fsdecode(b"odd \xff"))
    (sentence,) = read_folder(tmp_path).problems
    assert sentence.encode("utf-8") is not None


def test_files_past_the_most_that_are_read_are_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_FILES", 2)
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    found = read_folder(tmp_path)
    assert ["a", "b"] == list(found.files)
    assert 1 == len(found.problems)


def settle(path, content, seconds=60):
    """Writes a file as if some time ago."""
    path.write_bytes(content)
    then = time.time() - seconds
    os.utime(path, (then, then))


def same_moment(path):
    """Writes as many other bytes, and gives the file the time that it had."""
    before = path.stat()
    path.write_bytes(b"new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def remembered(folder, **files):
    """The folder as it was read, but for these contents, which only memory can give."""
    return replace(folder, files=folder.files | {name: content.encode() for name, content in files.items()})


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path):
    settle(tmp_path / "a", b"old")
    before = remembered(read_folder(tmp_path), a="remembered")
    assert {"a": b"remembered"} == read_folder(tmp_path, before=before).files


@pytest.mark.parametrize("seconds", [0, -3600])
def test_a_file_written_just_now_or_in_the_future_is_read_every_time(tmp_path, seconds):
    settle(tmp_path / "a", b"old", seconds)
    before = remembered(read_folder(tmp_path), a="remembered")
    assert {"a": b"old"} == read_folder(tmp_path, before=before).files


@pytest.mark.parametrize(
    "change",
    [
        lambda path: settle(path, b"longer than it was"),
        lambda path: settle(path, b"new", 30),
        same_moment,
        lambda path: (settle(path.with_name("b"), b"new", 60), path.with_name("b").replace(path)),
        lambda path: path.write_bytes(b"new"),
    ],
    ids=["size", "time", "time set back", "another file", "just now"],
)
def test_a_file_that_has_changed_is_read_again(tmp_path, change):
    settle(tmp_path / "a", b"old")
    before = remembered(read_folder(tmp_path), a="remembered")
    change(tmp_path / "a")
    assert {"a": (tmp_path / "a").read_bytes()} == read_folder(tmp_path, before=before).files


def test_files_that_came_and_went_come_and_go(tmp_path):
    settle(tmp_path / "a", b"a")
    before = read_folder(tmp_path)
    (tmp_path / "a").unlink()
    settle(tmp_path / "b", b"b")
    after = read_folder(tmp_path, before=before)
    assert {"b": b"b"} == after.files
    assert {"b"} == after.stamps.keys()


def test_a_file_replaced_by_something_else_is_a_sentence_and_not_what_it_was(tmp_path):
    settle(tmp_path / "a", b"old")
    before = read_folder(tmp_path)
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("/etc/hostname")
    after = read_folder(tmp_path, before=before)
    assert {} == after.files
    assert 1 == len(after.problems)


def test_a_folder_that_has_gone_is_absent_whatever_it_was(tmp_path):
    settle(tmp_path / "a", b"old")
    before = read_folder(tmp_path)
    assert Folder(present=False, files={}, problems=()) == read_folder(tmp_path / "gone", before=before)


def parsing(wrong=()):
    """A parser and what it was asked for; it cannot make out the contents `wrong`."""
    asked = []

    def parse(name, content):
        asked.append((name, content))
        if content in wrong:
            raise Unparsable(f"its {len(content)} bytes say nothing")
        return name.upper(), content.decode()

    return parse, asked


def test_of_each_file_is_kept_what_was_made_of_it(tmp_path):
    settle(tmp_path / "b", b"2")
    settle(tmp_path / "a", b"1")
    parse, asked = parsing()
    found = parse_folder(tmp_path, parse, 100)
    assert {"a": ("A", "1"), "b": ("B", "2")} == found.files
    assert [("a", b"1"), ("b", b"2")] == asked
    assert ((), ()) == (found.problems, found.unread)


def test_a_file_that_has_not_changed_is_not_parsed_again(tmp_path):
    settle(tmp_path / "a", b"1")
    settle(tmp_path / "b", b"2")
    parse, asked = parsing()
    before = parse_folder(tmp_path, parse, 100)
    settle(tmp_path / "b", b"3", 30)
    after = parse_folder(tmp_path, parse, 100, before)
    assert [("a", b"1"), ("b", b"2"), ("b", b"3")] == asked
    assert before.files["a"] is after.files["a"]
    assert before.stamps["a"] == after.stamps["a"]


def test_what_is_kept_may_be_nothing_and_is_not_asked_for_again(tmp_path):
    settle(tmp_path / "a", b"1")
    asked = []
    before = parse_folder(tmp_path, lambda *one: asked.append(one), 100)
    assert {"a": None} == parse_folder(tmp_path, lambda *one: asked.append(one), 100, before).files
    assert 1 == len(asked)


def test_a_file_in_the_middle_of_being_written_keeps_what_it_said(tmp_path):
    settle(tmp_path / "a", b"1")
    settle(tmp_path / "b", b"2")
    parse, _ = parsing(wrong=[b"half"])
    before = parse_folder(tmp_path, parse, 100)
    settle(tmp_path / "a", b"half", 30)
    during = parse_folder(tmp_path, parse, 100, before)
    assert before.files == during.files
    assert (f"{tmp_path}/a was left out: its 4 bytes say nothing",) == during.problems
    assert (("a",), {"a", "b"}) == (during.unread, during.stamps.keys())


def test_a_file_that_was_half_written_is_parsed_until_it_is_whole(tmp_path):
    parse, _ = parsing(wrong=[b"half"])
    settle(tmp_path / "a", b"1")
    found = parse_folder(tmp_path, parse, 100)
    for content, expected in [(b"half", "1"), (b"half", "1"), (b"2", "2"), (b"2", "2")]:
        settle(tmp_path / "a", content, 30)
        found = parse_folder(tmp_path, parse, 100, found)
        assert ("A", expected) == found.files["a"]
        assert (content == b"half") == bool(found.problems)


def test_a_file_that_never_said_anything_is_a_sentence_and_nothing_else(tmp_path):
    settle(tmp_path / "a", b"half")
    settle(tmp_path / "b", b"2")
    parse, _ = parsing(wrong=[b"half"])
    found = parse_folder(tmp_path, parse, 100, parse_folder(tmp_path, parse, 100))
    assert ({"b": ("B", "2")}, ("a",), 1) == (found.files, found.unread, len(found.problems))


@pytest.mark.parametrize("kind", [*ODD, "large"])
@pytest.mark.timeout(10)
def test_a_file_that_can_no_longer_be_read_is_not_what_it_was(tmp_path, kind):
    settle(tmp_path / "a", b"1")
    settle(tmp_path / "b", b"2")
    parse, _ = parsing()
    before = parse_folder(tmp_path, parse, 100)
    (tmp_path / "a").unlink()
    (ODD | {"large": lambda path: path.write_bytes(b"x" * 101)})[kind](tmp_path / "a")
    after = parse_folder(tmp_path, parse, 100, before)
    assert ("B", "2") == after.files["b"]
    assert "a" not in after.files
    assert (("a",), 1) == (after.unread, len(after.problems))


def test_another_error_of_the_parser_is_not_swallowed(tmp_path):
    settle(tmp_path / "a", b"1")
    with pytest.raises(ZeroDivisionError):
        parse_folder(tmp_path, lambda *_: 1 // 0, 100)


def test_reading_a_folder_is_parsing_it_to_its_contents(tmp_path):
    settle(tmp_path / "a", b"1")
    os.mkfifo(tmp_path / "b")
    assert parse_folder(tmp_path, lambda _, content: content, 100) == read_folder(tmp_path, max_bytes=100)
