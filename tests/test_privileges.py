"""A permission error names the missing capability, and never one that the process has."""

import pytest

from exporter import privileges

BPF, ADMIN, READ_ALL = 1 << 39, 1 << 21, 1 << 2


@pytest.mark.parametrize(
    ("capabilities", "seccomp", "user", "said"),
    [
        (0, "0", 0, "run as root with CAP_BPF"),
        (BPF | ADMIN, "0", 1000, "run as root with CAP_BPF"),
        (BPF, "2", 0, "seccomp filter does not know CAP_BPF"),
        (BPF, "0", 0, "the rights are there"),
        (ADMIN, "2", 0, "the rights are there"),
        (BPF | ADMIN, "2", 0, "the rights are there"),
        (BPF | READ_ALL, "0", 10042, "the rights are there"),
        (BPF | READ_ALL, "2", 10042, "seccomp filter does not know CAP_BPF"),
    ],
)
def test_the_remedy_names_the_missing_privilege(monkeypatch, capabilities, seccomp, user, said):
    status = {"CapEff": f"{capabilities:x}", "Seccomp": seccomp}
    monkeypatch.setattr(privileges, "_status", lambda: status)
    monkeypatch.setattr(privileges.os, "geteuid", lambda: user)
    assert said in privileges.remedy_of_refusal()
    assert "securityProfile " in privileges.remedy_of_refusal()


@pytest.mark.parametrize(
    ("filters", "own", "said"),
    [("1", 0, "filter does not know"), ("1", 1, "the rights are there"), ("2", 1, "filter does not know")],
)
def test_a_seccomp_filter_of_the_exporter_is_not_blamed(monkeypatch, filters, own, said):
    status = {"CapEff": f"{BPF:x}", "Seccomp": "2", "Seccomp_filters": filters}
    monkeypatch.setattr(privileges, "_status", lambda: status)
    monkeypatch.setattr(privileges.os, "geteuid", lambda: 0)
    monkeypatch.setattr(privileges, "installed_filters", own)
    assert said in privileges.remedy_of_refusal()
