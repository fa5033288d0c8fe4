"""Interface names: derives a workload's as Calico does, and decodes the kernel's bytes.

The derivation is `VethNameForWorkload` in libcalico-go: the prefix and the first 11 hex digits of SHA-1 of
`<namespace>.<pod>`. The plugins of AWS (`eni`, and `vlan` for branch interfaces), Azure (`azv`) and Google (`gke`) use
the same hash.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from exporter.hashes import sha1

DEFAULT_PREFIXES = ("cali",)
PLUGIN_PREFIXES = ("cali", "eni", "vlan", "azv", "gke")
_HASHED = re.compile(rf"(?:{'|'.join(PLUGIN_PREFIXES)})[0-9a-f]{{11}}", re.ASCII)


def workload_interface(prefix: str, namespace: str, pod: str) -> str:
    """The host-side interface name that Calico's CNI plugin gives to this pod."""
    return prefix + workload_hash(namespace, pod)


@lru_cache(maxsize=4096)  # of all pods of a node, whenever one of them changes
def workload_hash(namespace: str, pod: str) -> str:
    """What follows the prefix in the name of this pod's interface."""
    return sha1(f"{namespace}.{pod}".encode(), usedforsecurity=False).hexdigest()[:11]


def is_workload_name(interface: str, prefixes: Sequence[str]) -> bool:
    """Whether the name is a workload's: one of the prefixes and something after it, or a known plugin's and a hash."""
    prefixed = any(interface.startswith(prefix) and interface != prefix for prefix in prefixes)
    return prefixed or _HASHED.fullmatch(interface) is not None


def decode_name(raw: bytes) -> str:
    """A name from a fixed-size C field: up to the first NUL; bytes that are not UTF-8 appear as escapes."""
    return raw.partition(b"\0")[0].decode("utf-8", "backslashreplace")
