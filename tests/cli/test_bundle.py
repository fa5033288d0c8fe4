"""`bundle`, and bundles that are none: written with what could be read, refused with a sentence."""

import errno
import gzip
import io
import json
import os
import random
import re
import tarfile
from pathlib import Path

import pytest

from exporter.archive import read_archive

HERE = "v3.32.1/05-eot-egress-deny.after"
COMMANDS = (["counters"], ["counters", "-o", "json"], ["scrape"], ["check"])


def refused(result):
    """Whether this is exit code 1 with an error."""
    return result.exit_code == 1 and result.stderr.startswith("Error: ")


def archive_of(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


BAD = {
    "empty": b"",
    "text": b"this is not a bundle\n",
    "zeros": bytes(10240),
    "noise": random.Random(1).randbytes(5000),
    "gzip of text": gzip.compress(b"hello"),
    "cut gzip": gzip.compress(bytes(100_000))[:50],
    "xz magic": b"\xfd7zXZ\x00" + bytes(100),
    "no members": archive_of({}),
    "no head": archive_of({"links.json": b"[]"}),
    "head is no JSON": archive_of({"bundle.json": b"{"}),
    "head is a list": archive_of({"bundle.json": b"[]"}),
    "head is empty": archive_of({"bundle.json": b"{}"}),
    "another format": archive_of({"bundle.json": b'{"format": 99}'}),
    "head without the rest": archive_of({"bundle.json": b'{"format": 1}'}),
    "deep JSON": archive_of({"bundle.json": b"[" * 100_000}),
    "head is no UTF-8": archive_of({"bundle.json": b"\xff\xfe"}),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_what_is_no_bundle_is_a_sentence(run, tmp_path, content):
    file = tmp_path / "bundle"
    file.write_bytes(content)
    result = run("check", "--bundle", file)
    assert "bundle" in result.stderr
    assert (1, "") == (result.exit_code, result.stdout)
    assert 1 == len(result.stderr.splitlines())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_bundle_that_is_not_there_is_a_sentence(run, tmp_path, command):
    assert refused(run(*command, "--bundle", tmp_path / "nothing"))
    assert refused(run(*command, "--bundle", tmp_path))


def test_a_bundle_cut_off_anywhere_is_a_sentence(run, recording, tmp_path):
    whole = recording(HERE).read_bytes()
    file = tmp_path / "bundle"
    for length in range(100, len(whole), 199):
        file.write_bytes(whole[:length])
        assert refused(run("counters", "--bundle", file))


def test_a_damaged_bundle_is_a_sentence_or_whole(run, recording, tmp_path):
    noise = random.Random(1)
    with tarfile.open(recording(HERE)) as archive:
        members = {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}
    plain = bytearray(
        archive_of({name: one for name, one in members.items() if not name.startswith(("policy", "oracle"))})
    )
    file = tmp_path / "bundle"
    for _ in range(100):
        damaged = plain[:]
        for _ in range(3):
            damaged[noise.randrange(len(damaged))] = noise.randrange(256)
        file.write_bytes(damaged)
        result = run("counters", "-o", "json", "--bundle", file)
        assert result.exit_code == 0 or refused(result)


MEMBERS = ("bundle.json", "links.json", "routes.json", "programs.json", "maps/cali_counters6/info.json")


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(
    "content", [b"", b"null", b"1", b'"x"', b"[1]", b'[{"x": 1}]', b"{}", b"[[]]", b"\xff", b"[" * 9999]
)
def test_a_member_that_says_something_else_is_a_sentence(run, changed, member, content):
    result = run("check", "--bundle", changed(HERE, lambda members: {member: content}))
    assert result.exit_code in (0, 1)
    assert len(result.stderr.splitlines()) <= 1


def test_a_route_to_what_is_no_address_is_a_sentence(run, changed):
    routes = b'[{"address": "nowhere", "ifindex": 5}]'
    result = run("scrape", "--bundle", changed(HERE, lambda members: {"routes.json": routes}))
    assert "Traceback" not in result.stderr
    assert "unexpected error" not in result.stderr


@pytest.mark.parametrize("name", ["../../etc/x", "/etc/x", "policy/../../x", "endpoint-status/..", "maps"])
def test_a_member_outside_of_the_archive_is_ignored_and_never_written(run, changed, tmp_path, name):
    before = set(tmp_path.parent.rglob("*"))
    bundle = changed(HERE, lambda members: {name: b"x"})
    assert 0 == run("counters", "--bundle", bundle).exit_code
    assert {bundle} == set(tmp_path.parent.rglob("*")) - before


def test_links_and_devices_in_an_archive_are_never_followed(run, recording, tmp_path):
    file = tmp_path / "bundle.tar"
    with tarfile.open(recording(HERE)) as source, tarfile.open(file, "w") as target:
        for member in source:
            target.addfile(member, source.extractfile(member))
        for number, kind in enumerate(
            (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
        ):
            entry = tarfile.TarInfo(f"policy/{number}")
            entry.type, entry.linkname = kind, "/etc/passwd"
            target.addfile(entry)
    result = run("check", "--bundle", file)
    assert result.exit_code == 0 or refused(result)
    assert "root:" not in result.output


def test_a_bundle_of_this_node_can_be_read(run, tmp_path):
    file = tmp_path / "node.tar.xz"
    made = run("bundle", file, "--bpf.fs", tmp_path, "--calico.run-dir", tmp_path)
    assert (1, "") == (made.exit_code, made.stdout)  # this node has no maps of Calico
    assert 0o600 == file.stat().st_mode & 0o777
    wrote, *missing = made.stderr.splitlines()
    assert f"wrote {file} ({file.stat().st_size / 1024:.1f} KiB): 0 maps and 0 files of Calico's" == wrote
    assert all(line.startswith("not in the bundle: ") for line in missing)
    with tarfile.open(file) as archive:
        head = json.loads(archive.extractfile("bundle.json").read())
    assert {"exporter", "kernel", "node", "made"} == set(head["about"])


def test_a_redacted_bundle_names_neither_the_node_nor_its_own_path(run, tmp_path):
    (tmp_path / "endpoint-status").mkdir()
    (tmp_path / "endpoint-status" / "k8s ns-b%2Fserver eth0").write_text('{"ifaceName": "cali34769d6a557"}')
    files = tmp_path / "one.tar.xz", tmp_path / "two.tar.xz"
    for file in files:
        run("bundle", file, "--redact", "--bpf.fs", tmp_path, "--calico.run-dir", tmp_path)
    one, two = (read_archive(file, lambda _: 1 << 20) for file in files)
    written = b"".join(name.encode() + content for name, content in one.items())
    for original in (os.uname().nodename, "ns-b", "server", "cali34769d6a557"):
        assert not re.search(rf"(?<![\w-]){original}(?![\w-])".encode(), written)
    assert json.loads(one["bundle.json"])["about"]["kernel"] == os.uname().release
    # The same names in both, or they could not be compared.
    assert one.keys() == two.keys()
    assert [name for name in one if name.startswith("endpoint-status/k8s name-")]


def test_a_dash_is_standard_output(start, tmp_path):
    ended = start("bundle", "-", "--bpf.fs", tmp_path, "--calico.run-dir", tmp_path)
    with tarfile.open(fileobj=io.BytesIO(ended.stdout)) as archive:
        assert "bundle.json" in archive.getnames()
    assert b"in the bundle: 0 maps and 0 files of Calico's" == ended.stderr.splitlines()[0]


@pytest.mark.parametrize("path_", ["nowhere/node.tar.xz", "\x1b[2J/node.tar.xz"])
def test_a_bundle_that_cannot_be_written_is_a_sentence(run, tmp_path, path_):
    result = run("bundle", tmp_path / path_, "--bpf.fs", tmp_path)
    assert refused(result)
    assert 1 == len(result.stderr.splitlines())
    assert "could not be written: No such file or directory" in result.stderr


def test_a_bundle_needs_a_file(run):
    assert 2 == run("bundle").exit_code


def test_a_bundle_that_could_not_be_finished_leaves_the_file_as_it_was(run, tmp_path, monkeypatch):
    file = tmp_path / "node.tar.xz"
    file.write_bytes(b"an earlier one")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("exporter.snapshot.bundle_writer.write_archive", full)
    result = run("bundle", file, "--bpf.fs", tmp_path, "--calico.run-dir", tmp_path)
    assert f"Error: {file} could not be written: No space left on device\n" == result.stderr
    assert {file: b"an earlier one"} == {one: one.read_bytes() for one in tmp_path.iterdir()}


def test_a_device_is_not_replaced(run, tmp_path):
    result = run("bundle", "/dev/null", "--bpf.fs", tmp_path, "--calico.run-dir", tmp_path)
    assert "could not be written: it is no file that could be replaced; - is standard output" in result.stderr
    assert Path("/dev/null").is_char_device()
