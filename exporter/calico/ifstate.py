"""The interface state map `cali_iface<V>`: the interfaces that Calico's programs know, and their states.

An entry is `u32 ifindex` -> `{u32 flags, char name[16], ...}` (felix/bpf/ifstate); the policy-program indexes after the
name differ by release and are not needed here. Known sizes: 20 bytes (V2, v3.26), 40 (V3, v3.27), 52 (V4, from v3.28
on). The first two have one ready flag for both IP families, where V4 has the flag of IPv4.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exporter.calico import LayoutError
from exporter.calico.names import decode_name

KEY_SIZE = 4
VALUE_SIZES = (20, 40, 52)
_SIZES_WITH_ONE_READY_FLAG = (20, 40)

_WORKLOAD, _READY_4, _READY_6, _BOND_SLAVE, _NOT_MANAGED = 0x1, 0x2, 0x4, 0x20, 0x400


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """One interface as Calico's programs see it; `flags` are the bits of `ifstate.Flg*`."""

    ifindex: int
    name: str
    flags: int

    @property
    def workload(self) -> bool:
        """Whether it is the host side of a workload."""
        return bool(self.flags & _WORKLOAD)

    @property
    def managed(self) -> bool:
        """Whether Calico attaches its programs to it."""
        return not self.flags & _NOT_MANAGED

    @property
    def bond_slave(self) -> bool:
        """Whether it is part of a bond, whose tc programs sit on the bond itself."""
        return bool(self.flags & _BOND_SLAVE)

    def ready(self, family: int) -> bool:
        """Whether the programs of IP `family` (4 or 6) are in place."""
        return bool(self.flags & (_READY_4 if family == 4 else _READY_6))


def check_ifstate_sizes(key_size: int, value_size: int) -> None:
    """Raises `LayoutError` unless these sizes, in bytes, are a known release's."""
    if key_size != KEY_SIZE or value_size not in VALUE_SIZES:
        sizes = ", ".join(map(str, VALUE_SIZES))
        raise LayoutError(
            f"the interface state map has keys of {key_size} and values of {value_size} bytes, "
            f"expected {KEY_SIZE} and one of {sizes}"
        )


def decode_ifstate(keys: NDArray[np.uint8], values: NDArray[np.uint8]) -> tuple[InterfaceState, ...]:
    """Keys of shape (n, 4) and values of shape (n, 1, 20|40|52), both uint8, by interface index."""
    check_ifstate_sizes(keys.shape[1], values.shape[2])
    if values.shape[1] != 1:
        raise LayoutError(f"the interface state map has {values.shape[1]} values for each key, expected 1")
    indexes = np.ascontiguousarray(keys).view("<u4")[:, 0].tolist()
    flags = np.ascontiguousarray(values[:, 0, :4]).view("<u4")[:, 0]
    if values.shape[2] in _SIZES_WITH_ONE_READY_FLAG:
        flags = flags | (flags & _READY_4) * (_READY_6 // _READY_4)
    names = [decode_name(row.tobytes()) for row in values[:, 0, 4:20]]
    rows = zip(indexes, names, flags.tolist(), strict=True)
    return tuple(sorted((InterfaceState(*row) for row in rows), key=lambda row: row.ifindex))
