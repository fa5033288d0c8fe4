"""The kernel room: opens a pinned BPF map read-only, reads it whole and reports its shape.

Knows pins, keys, values and CPUs. Knows nothing of Calico, interfaces, pods or Prometheus.
"""
