"""The privileges and limits of this process, for error messages when the kernel refuses something.

Reads /proc/self/status. Knows capabilities by number (include/uapi/linux/capability.h) but nothing of maps.
"""

import errno
import os
from pathlib import Path

DAC_READ_SEARCH, SYS_ADMIN, BPF = 2, 21, 39
_CAPABILITIES = {
    1: "DAC_OVERRIDE",
    DAC_READ_SEARCH: "DAC_READ_SEARCH",
    12: "NET_ADMIN",
    SYS_ADMIN: "SYS_ADMIN",
    38: "PERFMON",
    BPF: "BPF",
}
_SECCOMP = {"0": "off", "1": "strict", "2": "filter"}

_LIMITS = {
    errno.EMFILE: "raise this process's limit of open files (ulimit -n, or LimitNOFILE of its systemd unit)",
    errno.ENFILE: "no process of this machine can open a file: raise fs.file-max, or find out what holds them",
    errno.ENOMEM: "raise this process's limit of memory (ulimit -v, or the container's)",
}

# Number of seccomp filters that this process installed itself: they refuse nothing that it needs.
installed_filters = 0


def describe_privileges() -> str:
    """One line: kernel release, user, the capabilities that matter for BPF, and the seccomp mode."""
    status = _status()
    held = [name for number, name in _CAPABILITIES.items() if _holds(number)]
    seccomp = _SECCOMP.get(status.get("Seccomp", ""), "unknown")
    return (
        f"kernel {os.uname().release}, user {os.geteuid()}, "
        f"capabilities {' '.join(held) if held else 'none that matter'}, seccomp {seccomp}"
    )


def permitted() -> int:
    """The permitted capabilities of this thread, as the kernel's bit mask."""
    return int(_status().get("CapPrm", "0"), 16)


def may_read_maps() -> bool:
    """Whether this process has CAP_BPF or CAP_SYS_ADMIN, one of which every kernel that Calico runs on accepts."""
    return _holds(BPF) or _holds(SYS_ADMIN)


def may_read_all() -> bool:
    """Whether this process has CAP_SYS_ADMIN, with which the kernel refuses no command of bpf(2) that reads."""
    return _holds(SYS_ADMIN)


def remedy_of_refusal() -> str:
    """How to get permission to read maps, after the kernel has refused it."""
    if not may_read_maps() or (os.geteuid() and not _holds(DAC_READ_SEARCH)):
        return "run as root with CAP_BPF or CAP_SYS_ADMIN; in Kubernetes, with the chart's securityProfile privileged"
    if not _holds(SYS_ADMIN) and _is_filtered_by_others():
        # Default filters before containerd 1.7 and moby 23 may allow bpf(2) with CAP_SYS_ADMIN only.
        return "the container runtime's seccomp filter does not know CAP_BPF; take securityProfile sysadmin"
    return "the rights are there, so SELinux, AppArmor or seccomp refused it; take securityProfile privileged"


def remedy_of_refusal_to_bpftool() -> str:
    """The same where bpftool was refused, which needs more than reading does."""
    if may_read_maps() and not _holds(SYS_ADMIN):
        return "bpftool needs CAP_SYS_ADMIN: take reader libbpf, or in the chart securityProfile sysadmin or privileged"
    return remedy_of_refusal()


def remedy_of_modes() -> str:
    """How to read a file or folder whose mode refuses even root, such as Calico's folder of policies."""
    return "run as root with CAP_DAC_READ_SEARCH, which each securityProfile of the chart has"


def remedy_of_limit(number: int | None) -> str:
    """What to do about this errno if it says that a limit is reached, else nothing."""
    return _LIMITS.get(number or 0, "")


def _is_filtered_by_others() -> bool:
    status = _status()
    # Kernels before 5.9 do not report the number of filters; they do not have CAP_BPF either.
    return status.get("Seccomp") == "2" and int(status.get("Seccomp_filters", 1)) > installed_filters


def _holds(capability: int) -> bool:
    return bool(int(_status().get("CapEff", "0"), 16) >> capability & 1)


def _status() -> dict[str, str]:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
