"""Calico's eBPF drop and accept counters for Prometheus: one read-only process on each node.

Data flows one way: `bpf` reads a pinned map, `calico` decodes it, `node` finds the pod of each interface, `snapshot`
joins the three, `metrics` exports the metric families, `web` and `cli` show them. docs/architecture.md follows one
sample through these packages.
"""

# Compared with pyproject.toml by a test: `importlib.metadata` would load the mail parsers to find it.
__version__ = "0.2.0"
