"""Which parts of a snapshot each part is derived from, by name; `reading.py` has all in the order of reading."""

from collections.abc import Collection
from functools import cache

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
    "run_dir": ("pods",),
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


@cache  # asked for the same few sets at every scrape
def _closure(parts: frozenset[str]) -> frozenset[str]:
    return parts.union(*(_closure(frozenset(_DERIVED_FROM[name])) for name in parts if name in _DERIVED_FROM))
