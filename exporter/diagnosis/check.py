"""Checks the prerequisites on a node: what is required, found and missing.

Pure function of a snapshot: the error of each part becomes a finding with a remedy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from exporter.bpf.maps import MapMissing
from exporter.calico import LayoutError
from exporter.calico.counters import Layout
from exporter.calico.map_kinds import EVICTED_BY_DESIGN
from exporter.diagnosis import map_fill
from exporter.diagnosis.leftovers import leftovers, listed
from exporter.diagnosis.uncounted import uncounted_of
from exporter.errors import ExporterError
from exporter.node.endpoints import WORKLOAD, calicos_here
from exporter.quantities import plural
from exporter.snapshot.snapshot import MapVersions, Part, Snapshot

OK, NOTE, MISSING = "ok", "note", "missing"

PARTS = frozenset(
    {"pins", "counters", "rule_hits", "ifstate", "links", "host_routes", "pods", "cluster_pods", "endpoints", "rules"}
    | {"policy_file_names", "received", "queue_drops", "run_dir"}
    | map_fill.PARTS
)

_TURN_ON_BPF = (
    "turn Calico's eBPF dataplane on (linuxDataplane: BPF), check that calico-node runs on this node, and set "
    "--bpf.fs to the mount point of its BPF file system"
)
_NEW_TO_US = "send a bundle to the developers: this release is new to them"
_POLICY_DEBUG = "set bpfPolicyDebugEnabled: true in the FelixConfiguration if rule hits are to be counted and named"
_NAMES = (
    "set endpointStatusPathPrefix in the FelixConfiguration (default from v3.30 on), or read pods from the API server: "
    "--kubernetes"
)
_OTHER_NAMES = "follow the remedies above for the sources of names"
_SOME_NAMES = "a pod that has just started has none yet; if it stays, search for its address with `ip route`"
_SEARCH_LOG = "if it stays, search the log of calico-node for these interfaces"
_LEFT_OVER = "none is needed: they have no metrics and cause no alert; a restart of calico-node may remove them"
_UNCOUNTED = "`why` on this interface says more; restart calico-node, or remove the program in front of Calico's"
_GRANT_PODS = "the exporter's user needs to list and watch pods; the other sources still name what they know"
_NODE = "if pods are there, give this node's name in the cluster with --kubernetes.node"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, with the finding and a remedy: `ok`, `note` (optional) or `missing` (required, as are
    the entries and programs without which packets are lost).
    """

    subject: str
    state: str
    found: str
    remedy: str = ""


def findings(snapshot: Snapshot, before: Snapshot | None = None) -> Iterator[Finding]:
    """All findings about this node, in order of dependency; `before` is an earlier snapshot to compare with."""
    yield Finding("reader", OK, snapshot.reader)
    yield _part("pinned maps", lambda: f"{len(snapshot.pins.get())} of Calico's that this program reads")
    yield _part("counter map", lambda: _live(snapshot.counter_map.get(), snapshot.counters))
    yield _part("counter layout", lambda: _layout(snapshot.counters.get().layout))
    yield _part("counter entries", lambda: f"{len(snapshot.counters.get().rows)} (an interface and a hook each)")
    yield _part(
        "interface state",
        lambda: f"{len(snapshot.ifstate.get())} interfaces, {_live(snapshot.ifstate_map.get(), snapshot.ifstate)}",
    )
    yield _part("rule counters", lambda: _live(snapshot.rule_map.get(), snapshot.rule_hits), otherwise=NOTE)
    yield _part("links", lambda: f"{len(snapshot.links.get())} in this network namespace")
    yield _part("routes", lambda: f"{len(snapshot.host_routes.get())} to single addresses")
    yield _part("namespace", lambda: _namespace(snapshot))
    yield from _map_fill(snapshot)
    yield from _leftovers(snapshot)
    yield from _endpoints(snapshot)
    yield from _optional(snapshot)
    yield from _uncounted(snapshot, before)


def _part(subject: str, find: Callable[[], str], otherwise: str = MISSING) -> Finding:
    try:
        return Finding(subject, OK, find())
    except MapMissing as error:
        return Finding(subject, otherwise, error.sentence, error.remedy or _TURN_ON_BPF)
    except LayoutError as error:
        return Finding(subject, otherwise, error.sentence, error.remedy or _NEW_TO_US)
    except ExporterError as error:
        return Finding(subject, otherwise, error.sentence, error.remedy)


def _live(versions: MapVersions, content: Part[Any]) -> str:
    live = versions.choice.live
    content.get()  # raises: undecided, or a map of another kind or layout
    beside = f"; left over beside it: {', '.join(versions.stale)}" if versions.stale else ""
    return f"{live.name if live else ''}, known by: {versions.choice.chosen_by}{beside}"


def _layout(layout: Layout) -> str:
    text = f"{len(layout.slots)} slots, {layout.source}"
    return f"{text}: some slots have no known name, see --calico.layout-file" if layout.source == "partial" else text


def _namespace(snapshot: Snapshot) -> str:
    here, every = calicos_here(snapshot.links.get(), snapshot.ifstate.get())
    # A node can keep many entries of interfaces that are gone; but in another namespace there is no pod's, either.
    pods = any(one.kind == WORKLOAD and one.state for one in snapshot.endpoints.get().by_index.values())
    if 2 * here < every and not (pods and snapshot.endpoints.get().links_known):
        raise ExporterError(
            f"only {here} of the {every} interfaces that Calico knows are here",
            "run it in the node's network namespace (hostNetwork: true)",
        )
    return f"{here} of the {every} interfaces that Calico knows are here"


def _map_fill(snapshot: Snapshot) -> Iterator[Finding]:
    known = map_fill.map_fills(snapshot)
    nearly = map_fill.near_full(snapshot)
    for one in nearly:
        yield Finding("map fill", NOTE, map_fill.sentence(one), map_fill.remedy(one))
    if not known:
        yield Finding("map fill", NOTE, "no map could be read")
    elif not nearly:
        fullest = next((one for one in known if one.map not in EVICTED_BY_DESIGN), known[0])
        yield Finding("map fill", OK, f"{plural(len(known), 'map')}, the fullest: {map_fill.sentence(fullest)}")
    for one in snapshot.map_fills.or_else(()):
        if one.problem:
            yield Finding("map fill", NOTE, one.problem, one.remedy)


def _leftovers(snapshot: Snapshot) -> Iterator[Finding]:
    left = "; ".join(f"{what}: {listed(names)}" for what, names in leftovers(snapshot).items())
    if left:
        yield Finding("leftovers", NOTE, f"of interfaces that the kernel does not have: {left}", _LEFT_OVER)


def _endpoints(snapshot: Snapshot) -> Iterator[Finding]:
    """The interfaces that lose packets because Calico has not, or not completely, set them up."""
    known = snapshot.endpoints.or_else(None)
    if known is None or snapshot.counters.error:
        return
    losing = [f"{one.title} at {one.hook_title(hook)}" for one, hook in known.lose_packets(snapshot.counters.get())]
    if losing:
        found = f"every packet is dropped and not counted for want of a counter entry: {listed(tuple(losing))}"
        yield Finding("missing entries", MISSING, found, "restart calico-node on this node")
    complete = known.links_known and known.states_known
    without_state = [one.title for one in known.by_index.values() if one.kind == WORKLOAD and not one.state]
    if without_state and complete:
        found = f"Calico's interface state does not know these: {listed(tuple(without_state))}"
        yield Finding("not ready", NOTE, f"{found}; its programs may not be attached", _SEARCH_LOG)
    waiting = [
        f"{one.title} (IPv{family})"
        for family in (snapshot.ip_families() if complete else ())
        for one in known.by_index.values()
        if one.state and one.state.managed and not one.state.ready(family)
    ]
    if waiting:
        found = f"Calico's programs are not in place: {listed(tuple(waiting))}"
        yield Finding("not ready", NOTE, found, _SEARCH_LOG)


def _optional(snapshot: Snapshot) -> Iterator[Finding]:
    if error := snapshot.run_dir.error or snapshot.policies.error:
        yield Finding("policy debug", NOTE, error.sentence, error.remedy)
    else:
        policies = snapshot.policies.get()
        if policies.files:
            yield Finding("policy debug", OK, f"on: {len(policies.files)} policy files")
        elif not policies.unread:
            yield Finding("policy debug", NOTE, "off: 0 policy files", _POLICY_DEBUG)
        for problem in policies.problems:
            yield Finding("policy debug", NOTE, problem)
        yield from _policy_problems(snapshot)
    yield from _pod_sources(snapshot)
    yield from _pod_names(snapshot)


def _pod_sources(snapshot: Snapshot) -> Iterator[Finding]:
    if error := snapshot.run_dir.error or snapshot.pods.error:
        yield Finding("endpoint files", NOTE, error.sentence, error.remedy)
    else:
        pods = snapshot.pods.get()
        yield Finding("endpoint files", OK, f"{len(pods.pods)} endpoint-status files of Calico's")
        for problem in pods.problems:
            yield Finding("endpoint files", NOTE, problem)
    if snapshot.cluster_pods.error:
        yield Finding("API server", NOTE, str(snapshot.cluster_pods.error))
        return
    cluster = snapshot.cluster_pods.get()
    if cluster is None:
        yield Finding("API server", OK, "not asked for pods")
    elif cluster.problem:
        yield Finding("API server", NOTE, cluster.problem, cluster.advice or _GRANT_PODS)
    elif not cluster.pods:
        yield Finding("API server", NOTE, f"it knows no pod with an interface of its own on node {cluster.node}", _NODE)
    else:
        found = f"it knows {len(cluster.pods)} pods with an interface of their own on node {cluster.node}"
        yield Finding("API server", OK, found)


def _pod_names(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.endpoints.error:
        yield Finding("pod names", NOTE, str(snapshot.endpoints.error))
        return
    endpoints = snapshot.endpoints.get()
    workloads = [one for one in endpoints.by_index.values() if one.kind == WORKLOAD]
    unnamed = [one.title for one in workloads if not one.pod]
    named = len(workloads) - len(unnamed)
    found = f"{named} of {len(workloads)} workload interfaces have a pod's name"
    if not unnamed:
        yield Finding("pod names", OK, found)
    else:
        # That a release writes no files and nobody is to be asked is a choice; that all sources fail is none.
        asked = snapshot.cluster_pods.or_else(None) is not None
        local = snapshot.pods.or_else(None)
        broken = not named and (asked or local is None or bool(local.pods or local.problems or snapshot.run_dir.error))
        if named:
            found = f"{found}, not {listed(tuple(unnamed))}"
        yield Finding("pod names", MISSING if broken else NOTE, found, _remedy_of_names(snapshot, named=bool(named)))
    if disputed := endpoints.mismatches:
        found = f"{disputed} interfaces whose pod Calico's files, their names and their routes do not agree on"
        yield Finding("pod names", NOTE, found, "if it stays, compare `ip route` and the files with the pods")


def _remedy_of_names(snapshot: Snapshot, *, named: bool) -> str:
    local, cluster = snapshot.pods.or_else(None), snapshot.cluster_pods.or_else(None)
    if named:
        return _SOME_NAMES
    if cluster and not cluster.problem:
        return _NODE
    if snapshot.run_dir.error or not local or local.problems:
        return _OTHER_NAMES if cluster else f"{_OTHER_NAMES}, or read pods from the API server: --kubernetes"
    return _OTHER_NAMES if cluster else _NAMES


def _policy_problems(snapshot: Snapshot) -> Iterator[Finding]:
    for one in snapshot.rules.get().problems if snapshot.rules.error is None else ():  # else reported for endpoints
        found = f"{one.endpoint.title}, {one.direction}, IPv{one.family}: {one.why}"
        yield Finding("policy programs", NOTE, found, "search the log of calico-node for this interface")


def _uncounted(snapshot: Snapshot, before: Snapshot | None) -> Iterator[Finding]:
    unread = (snapshot.received.error, snapshot.queue_drops.error) if snapshot.reader != "bundle" else ()
    for error in filter(None, unread):
        yield Finding(
            "uncounted drops", NOTE, f"drops that nothing counts are not found: {error.sentence}", error.remedy
        )
    if before is None:
        return
    for one in snapshot.endpoints.get().by_index.values():
        packets = uncounted_of(before, snapshot, one) if one.kind == WORKLOAD and not snapshot.counters.error else 0
        if packets:
            found = f"{one.title}: {plural(packets, 'packet')} from it never reached Calico's program"
            yield Finding("uncounted drops", MISSING, found, _UNCOUNTED)
