import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.calico.policy_file import MAX_BYTES
from exporter.node import NodeError, policies
from exporter.node.files import Folder
from exporter.node.policies import policies_of, read_policies

POD, OTHER = "cali1_ingress_v4.json", "cali2_ingress_v4.json"
ABSENT = Folder(present=False, files={}, problems=())
NOW = time.time()


def content_of(*names, hook="tc egress"):
    """A file with these tiers."""
    comments = [comment for name in names for comment in (f"Start of tier {name}", f"End of tier {name}: deny")]
    only = {"inst": [0] * 8, "comments": comments}
    return json.dumps({"ifacename": "cali1", "hook": hook, "policyInfo": [only], "error": ""}).encode()


def settle(path, content, seconds=60):
    """Writes a file as if some time ago, the same for the same `seconds`."""
    path.write_bytes(content)
    os.utime(path, (NOW - seconds, NOW - seconds))


def tiers_of(folder, name=POD):
    return [tier.name for tier in folder.files[name].tiers]


@pytest.fixture
def parsed(monkeypatch):
    """The interfaces whose files were parsed, in that order."""
    parse, interfaces = policies.parse_policy_file, []

    def counted(about, content):
        interfaces.append(about.interface)
        return parse(about, content)

    monkeypatch.setattr(policies, "parse_policy_file", counted)
    return interfaces


def test_the_programs_of_a_folder_are_read(tmp_path):
    settle(tmp_path / POD, content_of("a", "b"))
    settle(tmp_path / "eth0_xdp_v6.json", content_of(hook="tc xdp"))
    found = read_policies(tmp_path)
    assert [POD, "eth0_xdp_v6.json"] == list(found.files)
    assert ("cali1", "ingress", 4, "tc egress") == (
        found.files[POD].about.interface,
        found.files[POD].about.direction,
        found.files[POD].about.family,
        found.files[POD].hook,
    )
    assert ["a", "b"] == tiers_of(found)
    assert ((), ()) == (found.problems, found.unread)


def test_an_empty_folder_is_there_and_an_absent_one_is_not(tmp_path):
    assert Folder(present=True, files={}, problems=()) == read_policies(tmp_path)
    assert ABSENT == read_policies(tmp_path / "absent")
    settle(tmp_path / POD, content_of("a"))
    assert ABSENT == read_policies(tmp_path / "absent", read_policies(tmp_path))


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
    settle(tmp_path / POD, content_of("a"))
    with pytest.raises(NodeError, match="could not be listed: Not a directory"):
        read_policies(tmp_path / POD)


@pytest.mark.parametrize("name", ["cali1_ingress_v4.json.tmp", "README", "cali1_ingress_v5.json", "odd \udcff"])
def test_a_file_of_another_name_is_none_whatever_it_says(tmp_path, parsed, name):
    settle(tmp_path / name, b"{")
    found = read_policies(tmp_path, read_policies(tmp_path))
    assert ({name: None}, (), ()) == (found.files, found.problems, found.unread)
    assert [] == parsed


def test_a_file_that_has_not_changed_is_not_parsed_again(tmp_path, parsed):
    settle(tmp_path / POD, content_of("a"))
    settle(tmp_path / OTHER, content_of("b"))
    found = None
    for _ in range(3):
        found = read_policies(tmp_path, found)
    assert ["cali1", "cali2"] == parsed


def replaced(path):
    settle(path.with_name("new"), content_of("b"))
    path.with_name("new").replace(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: settle(path, content_of("longer")), ["longer"]),
        (lambda path: settle(path, content_of("b"), 30), ["b"]),
        (lambda path: settle(path, content_of("b"), 90), ["b"]),
        (lambda path: path.write_bytes(content_of("b")), ["b"]),
        (replaced, ["b"]),
    ],
    ids=["size", "later", "earlier", "just now", "another file"],
)
def test_a_file_that_has_changed_is_parsed_again_and_no_other(tmp_path, parsed, change, expected):
    settle(tmp_path / POD, content_of("a"))
    settle(tmp_path / OTHER, content_of("a"))
    before = read_policies(tmp_path)
    change(tmp_path / POD)
    after = read_policies(tmp_path, before)
    assert ["cali1", "cali2", "cali1"] == parsed
    assert expected == tiers_of(after)
    assert before.files[OTHER] is after.files[OTHER]
    assert before.files is not after.files


@pytest.mark.parametrize("length", [0, 1, 60, -1])
def test_a_file_that_is_being_rewritten_keeps_what_it_said(tmp_path, length):
    settle(tmp_path / POD, content_of("a"))
    settle(tmp_path / OTHER, content_of("a"))
    before = read_policies(tmp_path)
    (tmp_path / POD).write_bytes(content_of("b")[:length])
    during = read_policies(tmp_path, before)
    assert before.files is during.files
    assert (POD,) == during.unread
    (sentence,) = during.problems
    assert sentence.startswith(f"{tmp_path}/{POD} was left out: it is cut off")
    settle(tmp_path / POD, content_of("b"))
    after = read_policies(tmp_path, during)
    assert (["b"], (), ()) == (tiers_of(after), after.problems, after.unread)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_file_that_cannot_be_parsed_is_parsed_once_and_stays_a_problem(tmp_path, parsed, earlier):
    if earlier:
        settle(tmp_path / POD, content_of("a"), 90)
    settle(tmp_path / OTHER, content_of("b"))
    folder = read_policies(tmp_path)
    settle(tmp_path / POD, b"{")
    folders = [folder := read_policies(tmp_path, folder) for _ in range(4)]
    assert 2 + earlier == len(parsed)
    for one in folders:
        assert (POD,) == one.unread
        assert f"{tmp_path / POD} was left out: " in one.problems[0]
        assert ([POD, OTHER] if earlier else [OTHER]) == sorted(one.files)
    settle(tmp_path / POD, content_of("c"), 30)
    healed = read_policies(tmp_path, folder)
    assert (["c"], (), ()) == (tiers_of(healed), healed.problems, healed.unread)


def test_a_file_that_was_never_whole_is_a_sentence_and_no_program(tmp_path):
    settle(tmp_path / POD, b"{")
    settle(tmp_path / OTHER, content_of("a"))
    found = read_policies(tmp_path, read_policies(tmp_path))
    assert ([OTHER], (POD,), 1) == (list(found.files), found.unread, len(found.problems))


def sparse(path, size=50 << 20):
    with path.open("wb") as file:
        file.truncate(size)


WRONG = {
    "symlink": lambda path: path.symlink_to(OTHER),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "large": sparse,
    "one byte too large": lambda path: sparse(path, MAX_BYTES + 1),
    "zeros": lambda path: sparse(path, 1 << 20),
}


@pytest.mark.parametrize("was", [True, False], ids=["was a file", "was not there"])
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.timeout(20)
def test_what_is_no_file_of_calicos_is_one_sentence_and_hides_no_other(tmp_path, kind, was):
    settle(tmp_path / OTHER, content_of("a"))
    if was:
        settle(tmp_path / POD, content_of("a"))
    before = read_policies(tmp_path)
    (tmp_path / POD).unlink(missing_ok=True)
    WRONG[kind](tmp_path / POD)
    after = read_policies(tmp_path, before)
    assert before.files[OTHER] is after.files[OTHER]
    assert ((POD,), 1) == (after.unread, len(after.problems))
    assert after.problems[0].startswith(f"{tmp_path}/{POD} ")
    # What was read once stands in only for a regular file of a size that it can have.
    assert (was and kind == "zeros") == (POD in after.files)


def test_a_file_that_may_not_be_read_is_one_sentence_and_hides_no_other(as_nobody):
    settle(as_nobody / POD, content_of("a"))
    settle(as_nobody / OTHER, content_of("a"))
    (as_nobody / POD).chmod(0)
    found = read_policies(as_nobody)
    assert ([OTHER], (POD,)) == (list(found.files), found.unread)
    assert (f"{as_nobody}/{POD} could not be read: Permission denied",) == found.problems


def test_a_file_that_has_gone_is_gone_and_no_problem(tmp_path):
    settle(tmp_path / POD, content_of("a"))
    settle(tmp_path / OTHER, content_of("a"))
    before = read_policies(tmp_path)
    (tmp_path / POD).unlink()
    after = read_policies(tmp_path, before)
    assert ([OTHER], (), ()) == (list(after.files), after.problems, after.unread)
    assert [POD, OTHER] == list(before.files)


def test_a_file_that_vanishes_while_another_is_parsed_is_no_problem(tmp_path, monkeypatch):
    settle(tmp_path / POD, content_of("a"))
    settle(tmp_path / OTHER, content_of("a"))
    parse = policies.parse_policy_file

    def and_unlink(about, content):
        (tmp_path / OTHER).unlink()
        return parse(about, content)

    monkeypatch.setattr(policies, "parse_policy_file", and_unlink)
    found = read_policies(tmp_path)
    assert ([POD], (), ()) == (list(found.files), found.problems, found.unread)


def test_equal_tiers_of_different_files_are_one_object(tmp_path):
    settle(tmp_path / POD, content_of("a", "b"))
    settle(tmp_path / OTHER, content_of("c", "a"))
    found = read_policies(tmp_path)
    assert found.files[POD].tiers[0] is found.files[OTHER].tiers[1]
    whole = policies_of(Folder(present=True, files={POD: content_of("a"), OTHER: content_of("a")}, problems=()))
    assert whole.files[POD].tiers[0] is whole.files[OTHER].tiers[0]


def test_a_tier_of_a_changed_file_is_the_object_that_others_have(tmp_path):
    settle(tmp_path / POD, content_of("a", "b"))
    settle(tmp_path / OTHER, content_of("c"))
    before = read_policies(tmp_path)
    settle(tmp_path / OTHER, content_of("b", "d"))
    after = read_policies(tmp_path, before)
    assert after.files[POD].tiers[1] is after.files[OTHER].tiers[0]


def test_the_files_are_the_very_same_while_they_say_the_same(tmp_path):
    settle(tmp_path / POD, content_of("a"))
    settle(tmp_path / "README", b"x")
    first = read_policies(tmp_path)
    second = read_policies(tmp_path, first)
    settle(tmp_path / POD, content_of("a"), 30)
    third = read_policies(tmp_path, second)
    assert first.files is second.files is third.files
    assert first.stamps == second.stamps != third.stamps


def test_another_file_makes_other_files(tmp_path):
    settle(tmp_path / POD, content_of("a"))
    before = read_policies(tmp_path)
    settle(tmp_path / "README", b"x")
    after = read_policies(tmp_path, before)
    assert before.files is not after.files
    assert [POD] == list(before.files)


def test_a_folder_in_memory_says_what_the_same_folder_on_disk_does(tmp_path):
    files = {POD: content_of("a"), OTHER: b"{", "README": b"x"}
    for name, content in files.items():
        settle(tmp_path / name, content)
    on_disk = read_policies(tmp_path)
    given_folder = Folder(present=True, files=files, problems=("odd could not be read",), unread=("odd",))
    found = policies_of(given_folder)
    assert (on_disk.files, True) == (found.files, found.present)
    assert ("odd", *on_disk.unread) == found.unread
    assert ("odd could not be read", on_disk.problems[0].removeprefix(f"{tmp_path}/")) == found.problems
    assert files == given_folder.files


def test_an_absent_folder_in_memory_is_absent():
    assert ABSENT == policies_of(ABSENT)


@given(st.dictionaries(st.sampled_from([POD, OTHER, "eth0_xdp_v4.json", "x"]), st.binary() | st.just(content_of("a"))))
def test_any_contents_are_programs_or_problems(files):
    found = policies_of(Folder(present=True, files=files, problems=()))
    assert files.keys() == found.files.keys() | set(found.unread)
    assert len(found.unread) == len(found.problems)
    assert not found.files.keys() & set(found.unread)
