"""BPF maps: opens a pinned map read-only, reads all of it and reports its shape.

Knows pins, keys, values and CPUs. Knows nothing of Calico, interfaces, pods or Prometheus.
"""
