"""The interface state map `cali_iface<V>`: the interfaces that Calico's programs know, and their states.

An entry is `u32 ifindex` -> `{u32 flags, char name[16], ...}` (felix/bpf/ifstate). Open-source sizes: 20 bytes (V2,
v3.26), 40 (V3, v3.27), 52 (V4, from v3.28 on). The first two have one ready flag for both IP families, where V4 has the
flag of IPv4. After the name V4 has s32 indexes of the policy programs: XDP, tc ingress and tc egress of IPv4, then of
IPv6. Other builds have other sizes: what a value means is decided by whether its flags and names fit the kernel's
interfaces.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.calico import LayoutError
from exporter.calico.names import decode_name, is_workload_name
from exporter.calico.tables import Columns

KEY_SIZE = 4
MIN_VALUE_SIZE = 20
_SIZES_WITH_ONE_READY_FLAG = (20, 40)
LOOPBACK = 1  # its index in every network namespace
_INDEX, _STATE_WITH_INDEXES = struct.Struct("<I"), struct.Struct("<I16s6i8x")

_WORKLOAD, _READY_4, _READY_6, _BOND_SLAVE, _NOT_MANAGED = 0x1, 0x2, 0x4, 0x20, 0x400


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """One interface as Calico's programs see it; `flags` are the bits of `ifstate.Flg*`.

    `policies` are the indexes of its policy programs: XDP, tc ingress and tc egress, of IPv4 and then of IPv6, -1 for
    none; empty where the release does not say.
    """

    ifindex: int
    name: str
    flags: int
    policies: tuple[int, ...] = ()

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

    @property
    def has_programs(self) -> bool:
        """Whether Calico's programs are in place on it, for one IP family at least."""
        return self.managed and (self.ready(4) or self.ready(6))

    def ready(self, family: int) -> bool:
        """Whether the programs of IP `family` (4 or 6) are in place."""
        return bool(self.flags & (_READY_4 if family == 4 else _READY_6))


def check_ifstate_sizes(key_size: int, value_size: int) -> None:
    """Raises `LayoutError` unless flags and a name fit into values of this size, in bytes."""
    if key_size != KEY_SIZE or value_size < MIN_VALUE_SIZE:
        raise LayoutError(
            f"the interface state map has keys of {key_size} and values of {value_size} bytes, "
            f"expected {KEY_SIZE} and at least {MIN_VALUE_SIZE}"
        )


def check_ifstate_fits(states: Sequence[InterfaceState], links: Mapping[int, str], prefixes: Sequence[str]) -> None:
    """Raises `LayoutError` if the entries contradict the kernel's interfaces, given as name by index: then the values
    have another layout. Entries of interfaces that the kernel does not have are no evidence.
    """
    here = [state for state in states if state.ifindex in links]
    named = [state for state in here if state.name == links[state.ifindex]]
    if len(here) > 1 and not named:
        raise LayoutError(f"the interface state map names none of {len(here)} interfaces as the kernel does")
    pods = [state for state in named if is_workload_name(state.name, prefixes)]
    flagged = [state for state in pods if state.workload or not state.managed]
    if len(pods) > 1 and 2 * len(flagged) < len(pods):
        raise LayoutError(f"the interface state map flags {len(flagged)} of {len(pods)} workload interfaces as such")
    if any(state.workload and state.ifindex == LOOPBACK for state in named):
        raise LayoutError("the interface state map flags the loopback interface as a workload's")


def decode_ifstate(columns: Columns) -> tuple[InterfaceState, ...]:
    """The interfaces by their index. Raises `LayoutError`."""
    size = columns.value_size
    check_ifstate_sizes(columns.key_size, size)
    whole = size == _STATE_WITH_INDEXES.size
    value = _STATE_WITH_INDEXES if whole else struct.Struct(f"<I16s{size - MIN_VALUE_SIZE}x")
    both = size in _SIZES_WITH_ONE_READY_FLAG
    states = []
    for (ifindex,), (flags, name, *policies) in columns.rows(_INDEX, value):
        ready = _READY_6 if both and flags & _READY_4 else 0
        states.append(InterfaceState(ifindex, decode_name(name), flags | ready, tuple(policies)))
    return tuple(sorted(states, key=lambda row: row.ifindex))
