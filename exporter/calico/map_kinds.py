"""Every map of Calico's that can fill, by its pinned name: v3.26 to v3.33 (felix/bpf/*/map*.go).

`setting` is the field of the FelixConfiguration that sizes it, empty where its size is fixed in Calico. Maps of the
type `EVICTING_TYPE` evict their least recently used entry when they are full; the others refuse new ones.
"""

from dataclasses import dataclass
from functools import lru_cache

from exporter.calico.pins import split_pin

EVICTING_TYPE = "lru_hash"


@dataclass(frozen=True, slots=True)
class MapKind:
    """One of Calico's maps: its word in metrics, and the setting of its size."""

    name: str
    setting: str = ""


@dataclass(frozen=True, slots=True)
class MapPin:
    """A pinned version of a map that can fill; `kind` is None for one that this program does not know."""

    map: str
    ip_family: str
    name: str
    kind: MapKind | None


# `counters`, `rules` and `iface` are read whole in each snapshot, so their entries are known from there.
IFACE_SETTING = "bpfMapSizeIfState"
_READ_WHOLE = frozenset({"cali_counters", "cali_rule_ctrs", "cali_iface"})
# Arrays, whose entries always exist, and a map that only builds for measurements fill.
_NOT_FILLING = frozenset(
    {"cali_state", "cali_profiling", "cali_rb_evnt", "cali_rb_drops", "cali_perf_evnt", "cali_v4_frgtmp"}
    | {"cali_progs", "cali_progs_ing", "cali_progs_egr", "cali_p_nk_ing", "cali_p_nk_egr", "xdp_cali_progs"}
    | {"cali_jump", "cali_jump_ing", "cali_jump_egr", "cali_j_nk_ing", "cali_j_nk_egr", "xdp_cali_jump"}
    | {"cali_ctlb_progs", "cali_ctlb_conn", "cali_ctlb_send", "cali_ctlb_recv"}
)
CONNTRACK_FILL = "conntrack"
_OF_FAMILY = {
    "ct": MapKind(CONNTRACK_FILL, "bpfMapSizeConntrack"),
    "ccq": MapKind("conntrack_cleanup", "bpfMapSizeConntrackCleanupQueue"),
    "nat_fe": MapKind("nat_frontend", "bpfMapSizeNATFrontend"),
    "nat_be": MapKind("nat_backend", "bpfMapSizeNATBackend"),
    "nat_aff": MapKind("nat_affinity", "bpfMapSizeNATAffinity"),
    "srmsg": MapKind("nat_sendmsg"),
    "ct_nats": MapKind("nat_conntrack"),
    "mglv": MapKind("maglev", "bpfMaglevMaxServices or bpfMaglevMaxEndpointsPerService"),
    "routes": MapKind("route", "bpfMapSizeRoute"),
    "ip_sets": MapKind("ip_sets", "bpfMapSizeIPSets"),
    "sprefix": MapKind("source_prefixes"),
    "fsafes": MapKind("failsafe"),
    "arp": MapKind("arp"),
    "frags": MapKind("fragments"),
    "frgfwd": MapKind("fragments_forwarded"),
}
_KINDS = {f"cali_v{family}_{base}": (kind, family) for base, kind in _OF_FAMILY.items() for family in "46"}
_KINDS |= {"cali_qos": (MapKind("qos"), ""), "cali_qos_conn": (MapKind("qos_connections"), "")}
# They may be full at any time: eviction frees entries, and what is evicted and still needed is learned again.
EVICTED_BY_DESIGN = frozenset(
    {"arp", "fragments", "fragments_forwarded", "nat_affinity", "nat_conntrack", "nat_sendmsg"}
)
SETTINGS = {kind.name: kind.setting for kind in _OF_FAMILY.values()} | {"iface": IFACE_SETTING}


@lru_cache(maxsize=4)  # the same names at each scrape
def filling_maps(names: tuple[str, ...]) -> tuple[tuple[MapPin, ...], ...]:
    """The pinned versions of each map that can fill, except those that each snapshot reads whole and `_old` copies."""
    found: dict[tuple[str, str], list[MapPin]] = {}
    for name in sorted(names):
        pin = _parse(name)
        if pin:
            found.setdefault((pin.map, pin.ip_family), []).append(pin)
    return tuple(map(tuple, found.values()))


def _parse(name: str) -> MapPin | None:
    parts = split_pin(name)
    if parts is None or parts[2] or parts[0] in _NOT_FILLING | _READ_WHOLE:
        return None
    base = parts[0]
    if base in _KINDS:
        kind, family = _KINDS[base]
        return MapPin(kind.name, family, name, kind)
    return MapPin(name, "", name, None) if base.startswith("cali_") else None
