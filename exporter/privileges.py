"""What this process may do, in the words an operator needs when the kernel says no.

Reads /proc/self/status. Knows capabilities by number (include/uapi/linux/capability.h) and nothing of maps.
"""

import os
from pathlib import Path

_SYS_ADMIN, _BPF = 21, 39
_CAPABILITIES = {
    1: "DAC_OVERRIDE",
    2: "DAC_READ_SEARCH",
    12: "NET_ADMIN",
    _SYS_ADMIN: "SYS_ADMIN",
    38: "PERFMON",
    _BPF: "BPF",
}
_SECCOMP = {"0": "off", "1": "strict", "2": "filter"}


def describe_privileges() -> str:
    """One line: kernel release, user, the capabilities that matter for BPF, and the seccomp mode."""
    status = _status()
    effective = int(status.get("CapEff", "0"), 16)
    held = [name for number, name in _CAPABILITIES.items() if effective >> number & 1]
    seccomp = _SECCOMP.get(status.get("Seccomp", ""), "unknown")
    return (
        f"kernel {os.uname().release}, user {os.geteuid()}, "
        f"capabilities {' '.join(held) if held else 'none that matter'}, seccomp {seccomp}"
    )


def may_read_maps() -> bool:
    """Whether this process has CAP_BPF or CAP_SYS_ADMIN, one of which every kernel that Calico runs on accepts."""
    return _holds(_BPF) or _holds(_SYS_ADMIN)


def remedy_of_refusal() -> str:
    """What gives this process the right to read maps, when it was just refused."""
    if not may_read_maps() or os.geteuid():
        return "run as root with CAP_BPF or CAP_SYS_ADMIN; in Kubernetes, with the chart's securityProfile privileged"
    if not _holds(_SYS_ADMIN) and _status().get("Seccomp") == "2":
        # Default filters of runtimes before containerd 1.7 and moby 23 may know bpf(2) as CAP_SYS_ADMIN's alone.
        return "the container runtime's seccomp filter does not know CAP_BPF; take securityProfile sysadmin"
    return "the rights are there, so SELinux, AppArmor or seccomp refused it; take securityProfile privileged"


def remedy_of_modes() -> str:
    """What lets root read what a file's or folder's mode keeps from it, as Calico's folder of policies does."""
    return "run as root with CAP_DAC_READ_SEARCH, which each securityProfile of the chart has"


def _holds(capability: int) -> bool:
    return bool(int(_status().get("CapEff", "0"), 16) >> capability & 1)


def _status() -> dict[str, str]:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
