"""A refusal names what is missing, and never a right that the process has."""

import pytest

from exporter import privileges

BPF, ADMIN = 1 << 39, 1 << 21


@pytest.mark.parametrize(
    ("capabilities", "seccomp", "user", "said"),
    [
        (0, "0", 0, "run as root with CAP_BPF"),
        (BPF | ADMIN, "0", 1000, "run as root with CAP_BPF"),
        (BPF, "2", 0, "seccomp filter does not know CAP_BPF"),
        (BPF, "0", 0, "the rights are there"),
        (ADMIN, "2", 0, "the rights are there"),
        (BPF | ADMIN, "2", 0, "the rights are there"),
    ],
)
def test_a_refusal_is_explained_by_what_the_process_may_do(monkeypatch, capabilities, seccomp, user, said):
    status = {"CapEff": f"{capabilities:x}", "Seccomp": seccomp}
    monkeypatch.setattr(privileges, "_status", lambda: status)
    monkeypatch.setattr(privileges.os, "geteuid", lambda: user)
    assert said in privileges.remedy_of_refusal()
    assert "securityProfile " in privileges.remedy_of_refusal()
