"""Calico's eBPF drop and accept counters for Prometheus: one read-only process on each node.

A number travels one way: `bpf` reads a pinned map, `calico` says what its bytes mean, `node` says who lives
behind an interface, `snapshot` joins the three into one look at the node, `metrics` names the families, `web` and
`cli` show them. docs/architecture.md walks one counter through these rooms.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("calico-bpf-exporter")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"
