"""What bpftool was refused: with CAP_BPF alone the remedy is another reader or more rights, and never nothing."""

import stat

import pytest

from exporter import privileges
from exporter.bpf.bpftool import BpftoolReader
from exporter.bpf.maps import MapError, NotAMap

BPF, ADMIN, READ_ALL = 1 << 39, 1 << 21, 1 << 2
SENTENCE = "bpftool needs CAP_SYS_ADMIN: take reader libbpf, or in the chart securityProfile sysadmin or privileged"


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """The error of a bpftool that says this, in a process with these capabilities."""

    def ask(text, capabilities):
        program, pin = tmp_path / "bpftool", tmp_path / "pin"
        program.write_text(f'#!/bin/sh\necho \'{{"error":"{text}"}}\'\nexit 255\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        pin.touch()
        monkeypatch.setattr(privileges, "_status", lambda: {"CapEff": f"{capabilities:x}", "Seccomp": "0"})
        monkeypatch.setattr(privileges.os, "geteuid", lambda: 0)
        with pytest.raises(MapError) as caught:
            BpftoolReader(str(program)).info(str(pin))
        return caught.value

    return ask


@pytest.mark.parametrize(
    "text", ["obj get: Permission denied", "can not get info: Operation not permitted", "can not get map by id"]
)
def test_with_cap_bpf_alone_the_remedy_is_said(refused, text):
    assert SENTENCE == refused(text, BPF | READ_ALL).remedy


def test_with_all_rights_a_file_that_is_no_map_is_none(refused):
    assert type(refused("bpf obj get (pin): Permission denied", ADMIN)) is NotAMap


def test_without_any_right_the_remedy_is_that_of_every_reader(refused):
    assert "run as root with CAP_BPF or CAP_SYS_ADMIN" in refused("Operation not permitted", 0).remedy
