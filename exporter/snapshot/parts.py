"""The parts of a snapshot by name: in which order they are read, and which ones each is derived from."""

from collections.abc import Collection
from functools import cache

# The parts in read order; large ones that only commands need are separate.
COMMON_PARTS = (
    "pins",
    "counter_map",
    "rule_map",
    "ifstate_map",
    "received",  # compared with the counters: right after them
    "queue_drops",
    "counters",
    "rule_hits",
    "links",
    "ifstate",
    "host_routes",
    "run_dir",
    "pods",
    "cluster_pods",
    "endpoints",
    "nics",
    "policy_file_names",
    "policies",
    "rules",
)
READ_ON_REQUEST = (
    "ip_sets_4",
    "ip_sets_6",
    "ip_set_trie_4",
    "ip_set_trie_6",
    "failsafes_4",
    "failsafes_6",
    "services_4",
    "services_6",
    "routes_4",
    "routes_6",
    "addresses",
    "interfaces_to",
    "conntrack",
    "conntrack_count",
    "policy_tags",
    "policy_files",
    "map_fills",
    "packets",
)
ALL_PARTS = COMMON_PARTS + READ_ON_REQUEST
EVERY_PART = frozenset(COMMON_PARTS)
MAP_PARTS = frozenset({"counter_map", "rule_map", "ifstate_map", "map_fills"})
# The parts that a part is derived from; all others are read directly from the node.
_DERIVED_FROM = {
    "counter_map": ("pins",),
    "rule_map": ("pins",),
    "ifstate_map": ("pins",),
    "counters": ("counter_map",),
    "rule_hits": ("rule_map",),
    "ifstate": ("ifstate_map", "links"),
    "policy_tags": ("ifstate",),
    "endpoints": ("links", "host_routes", "ifstate", "pods", "cluster_pods"),
    "rules": ("policies", "endpoints"),
    "conntrack": ("endpoints",),
    "interfaces_to": ("endpoints",),
    "conntrack_count": ("endpoints",),
    "map_fills": ("pins",),
}


def with_sources(parts: Collection[str]) -> frozenset[str]:
    """These parts and all parts they are derived from."""
    return _closure(frozenset(parts))


@cache  # as below
def in_order(parts: frozenset[str]) -> tuple[str, ...]:
    """These parts and all parts they are derived from, in read order."""
    wanted = _closure(parts)
    return tuple(name for name in ALL_PARTS if name in wanted)


@cache  # asked for the same few sets at every scrape
def _closure(parts: frozenset[str]) -> frozenset[str]:
    return parts.union(*(_closure(frozenset(_DERIVED_FROM[name])) for name in parts if name in _DERIVED_FROM))
