"""Interface names: derives a workload's as Calico does, and decodes the kernel's bytes.

The derivation is `VethNameForWorkload` in libcalico-go: the prefix and the first 11 hex digits of SHA-1 of
`<namespace>.<pod>`. The plugins of AWS (`eni`, and `vlan` for branch interfaces) and Azure (`azv`) use the same hash.
"""

from collections.abc import Sequence

from exporter.hashes import sha1

DEFAULT_PREFIXES = ("cali",)


def workload_interface(prefix: str, namespace: str, pod: str) -> str:
    """The host-side interface name that Calico's CNI plugin gives to this pod."""
    digest = sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()
    return f"{prefix}{digest[:11]}"


def has_workload_prefix(interface: str, prefixes: Sequence[str]) -> bool:
    """Whether the name is a workload's: one of the prefixes followed by something."""
    return any(interface.startswith(prefix) and interface != prefix for prefix in prefixes)


def decode_name(raw: bytes) -> str:
    """A name from a fixed-size C field: up to the first NUL; bytes that are not UTF-8 appear as escapes."""
    return raw.partition(b"\0")[0].decode("utf-8", "backslashreplace")
