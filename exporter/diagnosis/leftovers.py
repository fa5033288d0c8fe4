"""What Calico left behind of interfaces that the kernel does not have: map entries and files.

Pure functions of a snapshot. A moment after an interface is gone, Calico removes its entries; files of its policy stay
until its workload endpoint is deleted.
"""

from collections.abc import Iterable, Mapping

from exporter.snapshot.snapshot import Snapshot

_MAX_NAMES = 5


def leftovers(snapshot: Snapshot) -> Mapping[str, tuple[str, ...]]:
    """The names of the interfaces by what is left of them; nothing while the kernel's links are not known."""
    endpoints = snapshot.endpoints.get()
    if not endpoints.links_known:
        return {}
    here = {one.interface for one in endpoints.by_index.values()}
    names = {state.ifindex: state.name for state in endpoints.leftovers if state.name}
    counters, policies = snapshot.counters.or_else(None), snapshot.policies.or_else(None)
    pods = snapshot.pods.or_else(None)
    programs = policies.files.values() if policies else ()
    left = {
        "counter map": _names(endpoints.leftover_entries(counters) if counters else (), names),
        "interface state": _names([state.ifindex for state in endpoints.leftovers], names),
        "policy files": tuple(sorted({one.about.interface for one in programs if one} - here)),
        "endpoint-status files": tuple(sorted({one.interface for one in pods.pods} - here)) if pods else (),
    }
    return {what: ones for what, ones in left.items() if ones}


def listed(names: tuple[str, ...]) -> str:
    """The names on one line, the first few of many."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _names(indexes: Iterable[int], names: Mapping[int, str]) -> tuple[str, ...]:
    ordered = sorted(set(indexes))
    return tuple(f"{names[one]} (ifindex {one})" if one in names else f"ifindex {one}" for one in ordered)
