"""The names under `<bpffs>/tc/globals`: which map a pin is, in which version, live or left over.

A pinned name is the map's name and a decimal version (none for version 1); `_old` follows while Calico resizes a map
(felix/bpf/maps, `MapParameters.VersionedName` and `upgrade.go`). The version names a migration, not a layout:
the sizes determine that. Releases v3.24 and v3.25 kept their counters outside this folder, one map per attach point
(`MapPinPath` in felix/bpf/bpf.go at v3.25.2).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

GLOBALS = "tc/globals"
COUNTERS, IFACE, RULES, PROGRAMS = "counters", "iface", "rules", "programs"
# The arrays of policy programs at each hook, by the indexes in the interface state (felix/bpf/jump): too large to dump.
POLICY_PROGRAMS = {"ingress": "ingress policy", "egress": "egress policy", "xdp": "XDP policy", "tc": "policy"}
# By IP family.
IP_SETS = {4: "IPv4 IP-set", 6: "IPv6 IP-set"}
FAILSAFES = {4: "IPv4 failsafe", 6: "IPv6 failsafe"}
NAT_FRONTENDS = {4: "IPv4 NAT frontend", 6: "IPv6 NAT frontend"}
NAT_BACKENDS = {4: "IPv4 NAT backend", 6: "IPv6 NAT backend"}
NAT_AFFINITY = {4: "IPv4 NAT affinity", 6: "IPv6 NAT affinity"}
ROUTES = {4: "IPv4 route", 6: "IPv6 route"}
CONNTRACK = {4: "IPv4 connection-tracking", 6: "IPv6 connection-tracking"}

_BASES = {
    "cali_counters": COUNTERS,
    "cali_iface": IFACE,
    "cali_rule_ctrs": RULES,
    "cali_progs_ing": PROGRAMS,
    "cali_progs_egr": PROGRAMS,
    "cali_progs": PROGRAMS,
    "cali_p_nk_ing": PROGRAMS,  # netkit attach points
    "cali_p_nk_egr": PROGRAMS,
    "xdp_cali_progs": PROGRAMS,
    "cali_jump_ing": POLICY_PROGRAMS["ingress"],
    "cali_jump_egr": POLICY_PROGRAMS["egress"],
    "cali_j_nk_ing": POLICY_PROGRAMS["ingress"],
    "cali_j_nk_egr": POLICY_PROGRAMS["egress"],
    "xdp_cali_jump": POLICY_PROGRAMS["xdp"],
    "cali_jump": POLICY_PROGRAMS["tc"],  # before v3.31 for both
}
_BASES |= {
    f"cali_v{family}_{name}": data[family]
    for family in (4, 6)
    for name, data in {
        "ip_sets": IP_SETS,
        "fsafes": FAILSAFES,
        "nat_fe": NAT_FRONTENDS,
        "nat_be": NAT_BACKENDS,
        "nat_aff": NAT_AFFINITY,
        "routes": ROUTES,
        "ct": CONNTRACK,
    }.items()
}
_NAME = re.compile(r"(?P<base>(?:cali_v[46]_)?[a-z_]+?)(?P<version>[0-9]{0,9})(?P<old>_old)?", re.ASCII)
_ATTACH_POINT = re.compile(r".+_(?:igr|egr|xdp)")


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """A pinned name that belongs to `datum`: `counters`, `iface`, `rules`, `programs`, or one of an IP family."""

    datum: str
    version: int
    name: str
    old: bool


def parse_pins(names: Iterable[str]) -> tuple[Pin, ...]:
    """The pins among `names` that hold something this program reads, by datum and version; other names are left out."""
    return tuple(sorted(pin for pin in map(_parse_pin, names) if pin is not None))


def is_attach_point_folder(name: str) -> bool:
    """Whether a folder beside `globals` is one where v3.24 and v3.25 pinned the counters of an attach point."""
    return _ATTACH_POINT.fullmatch(name) is not None


def is_attach_point_counters(name: str) -> bool:
    """Whether a pin in such a folder is the counter map of v3.24 or v3.25."""
    return name.startswith("cali_counters")


def split_pin(name: str) -> tuple[str, int, bool] | None:
    """The base of a pinned name, its version, and whether it is an `_old` copy; None for a name not like Calico's."""
    match = _NAME.fullmatch(name)
    return (match["base"], int(match["version"] or 1), match["old"] is not None) if match else None


def _parse_pin(name: str) -> Pin | None:
    parts = split_pin(name)
    datum = _BASES.get(parts[0]) if parts else None
    if parts is None or datum is None:
        return None
    return Pin(datum, parts[1], name, parts[2])
