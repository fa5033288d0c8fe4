"""Metric families, collectors and exposition formats.

Turns snapshots into Prometheus metrics. Knows nothing of ctypes, processes, netlink, APIs or raw map data.
"""
