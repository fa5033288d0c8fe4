"""Where pins are expected and are not, as a sentence; tests/kernel lists real ones."""

import errno
import os

import pytest

from exporter.bpf import pins
from exporter.bpf.maps import MapError, MapMissing, map_error
from exporter.bpf.pins import list_pins


def test_mount_points_of_any_bytes_do_not_hide_why_a_folder_is_not_there(monkeypatch, tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_bytes(b"bpf /media/caf\xe9 bpf rw 0 0\nbpf " + os.fsencode(tmp_path) + b" bpf rw 0 0\n")
    monkeypatch.setattr(pins, "_MOUNTS", mounts)
    with pytest.raises(MapMissing, match=f"a BPF file system is mounted at {tmp_path}, and nothing of Calico's"):
        list_pins(tmp_path / "tc/globals")
    mounts.unlink()
    with pytest.raises(MapMissing, match="where BPF file systems are mounted could not be read: No such file"):
        list_pins(tmp_path / "tc/globals")


def test_a_limit_that_is_reached_is_the_remedy(monkeypatch, tmp_path):
    def refuse(_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MapError, match=r"Too many open files: .*ulimit -n"):
        list_pins(tmp_path)
    assert "ulimit -v" in map_error("/x", errno.ENOMEM, "reading").remedy
