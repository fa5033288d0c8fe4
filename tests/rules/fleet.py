"""A cluster of made nodes, minute by minute: what Prometheus scrapes of them in a situation, and with faults that an
alert is for.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

from tests.rules.situations import END, NODE, NODES, START, Pod, SpotNode, Upgrade

# --- what is wrong from minute `since` on, each with the alert that it is for


def _since(since, before, after):
    return lambda t: after if t >= since else before


def faulty_pods(since):
    """Endpoints with a fault each, all on one node."""
    denied = Pod(NODE, "denied", "old", drops=_since(since, 0, 60), flows=_since(since, 6, 0))
    young = Pod(NODE, "denied-first", "young", born=since, drops=lambda t: 60, flows=lambda t: 0)
    partly = Pod(NODE, "partly", "a", drops=_since(since, 0, 60), flows=lambda t: 6, packets=lambda t: 600)
    full = Pod(NODE, "faults", "a", flows=lambda t: 6, others={"conntrack_create_failed": _since(since, 0, 6)})
    flood = {"unknown_source": _since(since, 0, 300)}
    host = Pod(NODE, "", "eth9", kind="host", flows=lambda t: 0, others=flood)
    return [denied, young, partly, full, host]


@dataclass(frozen=True)
class Faults:
    """Whether the faults of one node are there, since when, and which nodes' exporters are down besides."""

    since: int = END + 1
    down: tuple = ()
    gone: bool = False


FIRING = {
    ("CalicoBPFCollectorFailing", "warning"),
    ("CalicoBPFConfigReloadFailed", "warning"),
    ("CalicoBPFCountersMissing", "critical"),
    ("CalicoBPFDataplaneDrops", "info"),
    ("CalicoBPFDataplaneGone", "warning"),
    ("CalicoBPFDataplaneDrops", "warning"),
    ("CalicoBPFDefaultDenyHits", "info"),
    ("CalicoBPFEndpointNotReady", "warning"),
    ("CalicoBPFLayoutUnknown", "info"),
    ("CalicoBPFLiveMapUndecided", "warning"),
    ("CalicoBPFMapNearFull", "critical"),
    ("CalicoBPFMapNearFull", "warning"),
    ("CalicoBPFPodCacheStale", "warning"),
    ("CalicoBPFPolicyDeniesAll", "warning"),
    ("CalicoBPFPolicyDeniesSome", "info"),
    ("CalicoBPFPolicyNotProgrammed", "critical"),
    ("CalicoBPFUncountedDrops", "critical"),
}


class Fleet:
    """The series of a situation with faults in it, as promtool takes them."""

    def __init__(self, situation, faults, cluster):
        self.situation, self.faults, self.cluster = situation, faults, cluster
        self.series = {}

    def input_series(self):
        for node in range(NODES + 1):
            self._exporter(node)
            self._maps(node)
            self._rules(node)
        for pod in self._pods():
            self._endpoint(pod)
            self._counts(pod)
        return [{"series": series, "values": _values(values)} for series, values in self.series.items()]

    def _up(self, node, t):
        if self.faults.gone and t >= self.faults.since:
            return None
        up = self.situation.up(node, t)
        if node == NODES and up == 1 and not isinstance(self.situation, SpotNode):
            return None  # the node that comes later
        return 0 if up is not None and node in self.faults.down and t >= self.faults.since else up

    def _add(self, name, node, value, **labels):
        """A series; `value` is that of a minute, or None where there is no sample."""
        where = {"job": self.situation.job, "cluster": self.cluster, "instance": f"10.0.0.{node}", "node": f"n{node}"}
        text = ",".join(f'{key}="{one}"' for key, one in {**where, **labels}.items())
        values = [value(t) if name == "up" or self._up(node, t) == 1 else None for t in range(END + 1)]
        if any(one is not None for one in values):
            self.series[f"{name}{{{text}}}"] = values

    def _wrong(self, node, t):
        return node == NODE and t >= self.faults.since

    def _exporter(self, node):
        self._add("up", node, lambda t: self._up(node, t))
        for one in ("counters", "maps"):

            def success(t, one=one):
                failing = self._wrong(node, t) and one == "maps"
                return int(not failing and not (one == "counters" and self.situation.calico_starts(node, t)))

            self._add("calico_bpf_scrape_collector_success", node, success, collector=one)
        self._add(
            "calico_bpf_exporter_pods_last_sync_timestamp_seconds",
            node,
            lambda t: 60 * (min(t, self.faults.since) if node == NODE else t),
        )
        errors = _counter(lambda t: int(t % 30 == 0), {})
        self._add("calico_bpf_exporter_pod_watch_errors_total", node, errors, reason="connection")
        self._add("calico_bpf_dataplane_present", node, lambda t: int(node > 0 and not self._wrong(node, t)))
        self._add("calico_bpf_exporter_config_reload_success", node, lambda t: int(not self._wrong(node, t)))

    def _maps(self, node):
        def candidate(t):
            undecided = self.situation.calico_starts(node, t) and isinstance(self.situation, Upgrade)
            return 1 if self._wrong(node, t) or undecided else None

        info = {"map": "counters", "pin": "cali_counters6"}
        only = {"slots": "27", "layout": "builtin", "chosen_by": "only"}
        self._add("calico_bpf_map_info", node, lambda t: 1, **info, **only)
        self._add("calico_bpf_map_info", node, candidate, **info, **{**only, "chosen_by": "undecided"})
        partial = {**only, "slots": "31", "layout": "partial"}
        self._add("calico_bpf_map_info", node, lambda t: 1 if self._wrong(node, t) else None, **info, **partial)
        self._add("calico_bpf_map_entries", node, lambda t: 970 if self._wrong(node, t) else 60, map="iface")
        self._add("calico_bpf_map_max_entries", node, lambda t: 1000, map="iface")

    def _rules(self, node):
        starts = dict.fromkeys(self.situation.rules_reset(node), 0)
        hits = _counter(lambda t: 60 if self._wrong(node, t) else 2, starts)
        rule = {"kind": "Tier", "policy_namespace": "", "policy": "", "tier": "default", "direction": "inbound"}
        self._add("calico_bpf_policy_rule_hits_total", node, hits, **rule, rule="end_of_tier", action="deny")

    def _pods(self):
        for node in (*range(4), NODES):
            noise = {"unknown_source": lambda t: 2, "blackhole_route": lambda t: 1}
            yield Pod(node, "", "eth0", kind="host", flows=lambda t: 3, others=noise)
            pod = Pod(node, "shop", f"web{node}", flows=lambda t: 6, drops=lambda t: int(t % 7 == 0))
            yield replace(pod, recreated=self.situation.recreated(node))
        yield from self.situation.pods()
        if self.faults.since <= END:
            for pod in faulty_pods(self.faults.since):
                yield replace(pod, recreated=self.situation.recreated(pod.node))

    def _endpoint(self, pod):
        def while_it_lives(condition):
            return lambda t: 1 if pod.born <= t < pod.end and condition(t) else None

        def broken(t):
            fault = pod.namespace == "faults" and self._wrong(pod.node, t)
            return fault or pod.is_starting(t) or self.situation.calico_starts(pod.node, t)

        labels = pod.labels()
        indexes = [pod.born, *pod.recreated, pod.end]
        for begun, ended in pairwise(indexes):
            kind = {"endpoint_kind": pod.kind, "ifindex": str(begun + 10)}
            lives = while_it_lives(lambda t, begun=begun, ended=ended: begun <= t < ended)
            self._add("calico_bpf_endpoint_info", pod.node, lives, **labels, **kind)
        if pod.kind == "workload":
            hook = {"hook": "tc_egress"}
            way = {**hook, "direction": "inbound", "ip_family": "4"}
            self._add("calico_bpf_endpoint_counters_missing", pod.node, while_it_lives(broken), **labels, **hook)
            self._add("calico_bpf_endpoint_policy_error", pod.node, while_it_lives(broken), **labels, **way)
            self._add("calico_bpf_endpoint_uncounted_drops", pod.node, while_it_lives(broken), **labels)
            self._add("calico_bpf_endpoint_not_ready", pod.node, while_it_lives(broken), **labels, ip_family="4")

    def _counts(self, pod):
        starts = {**dict.fromkeys(pod.recreated, 0), **self.situation.reset(pod.node)}

        def counter(increment):
            value = _counter(lambda t: increment(t) if pod.born <= t < pod.end else 0, starts)
            return lambda t: value(t) if pod.born <= t < pod.end else None

        def drops(t):
            starting = pod.is_starting(t) or self.situation.calico_starts(pod.node, t)
            return (pod.drops(t) if pod.drops else 0) + (60 if starting and pod.kind == "workload" else 0)

        def flows(t):
            return 0 if pod.is_starting(t) or pod.flows is None else pod.flows(t)

        def packets(t):
            return drops(t) + (pod.packets(t) if pod.packets else 5 * flows(t))

        labels = {**pod.labels(), "hook": "tc_egress", "direction": "inbound"}
        self._add("calico_bpf_program_packets_total", pod.node, counter(packets), **labels)
        self._add("calico_bpf_accepted_flows_total", pod.node, counter(flows), **labels, reason="policy")
        self._add("calico_bpf_dropped_packets_total", pod.node, counter(drops), **labels, reason="policy")
        for reason, increment in pod.others.items():
            self._add("calico_bpf_dropped_packets_total", pod.node, counter(increment), **labels, reason=reason)
        if pod.kind == "host" and self.situation.calico_starts(pod.node, START + 7):
            early = counter(lambda t: 30 if self.situation.calico_starts(pod.node, t) else 0)
            self._add("calico_bpf_dropped_packets_total", pod.node, early, **labels, reason="host_ip_unknown")


def _counter(increment, starts):
    """A counter by minute; at the minutes of `starts` it goes on from another value."""
    total, values = 0, []
    for t in range(END + 1):
        total = starts.get(t, total) + increment(t)
        values.append(total)
    return values.__getitem__


def _values(values):
    """In promtool's notation; a series that ends is marked stale, as Prometheus does."""
    words, before = [], None
    for value in values:
        words.append("stale" if value is None and before is not None else "_" if value is None else str(value))
        before = value
    return " ".join(words)
