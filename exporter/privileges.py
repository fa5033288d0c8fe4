"""What this process may do, in the words an operator needs when the kernel says no.

Reads /proc/self/status. Knows capabilities by number (include/uapi/linux/capability.h) and nothing of maps.
"""

import os
from pathlib import Path

_CAPABILITIES = {1: "DAC_OVERRIDE", 2: "DAC_READ_SEARCH", 12: "NET_ADMIN", 21: "SYS_ADMIN", 38: "PERFMON", 39: "BPF"}
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
    effective = int(_status().get("CapEff", "0"), 16)
    return bool(effective >> 21 & 1 or effective >> 39 & 1)


def _status() -> dict[str, str]:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
