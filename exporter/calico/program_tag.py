"""The kernel's tag of a BPF program: a hash of its instructions, by which a loaded one is known again.

`bpf_prog_calc_tag` in kernel/bpf/core.c: the first 8 bytes of a hash over the instructions as they were loaded, with
the descriptors of maps set to zero. Linux 6.18 hashes with SHA-256, older kernels with SHA-1.
"""

from collections.abc import Sequence

from exporter.hashes import sha1, sha256

_LOAD_64 = 0x18
_MAPS = (1, 2)  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE


def program_tags(code: Sequence[bytes]) -> frozenset[str]:
    """The tags in hexadecimal that kernels give to these instructions of 8 bytes each."""
    hashed = bytearray()
    in_map = False
    for raw in code:
        second, in_map = in_map, raw[0] == _LOAD_64 and raw[1] >> 4 in _MAPS
        hashed += raw[:4] + bytes(4) if second or in_map else raw
    digests = (sha256(hashed), sha1(hashed, usedforsecurity=False))
    return frozenset(digest.hexdigest()[:16] for digest in digests)
