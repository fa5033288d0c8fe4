"""The parts of a snapshot that collectors and checks use, which most tests take together."""

EVERY_PART = frozenset(
    {
        "pins",
        "counter_map",
        "rule_map",
        "ifstate_map",
        "received",
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
    }
)
