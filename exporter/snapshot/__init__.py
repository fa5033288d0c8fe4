"""Snapshots of a node: reads the requested parts, decodes and joins them, and returns an immutable value.

The only package that knows both `bpf` and `node`. Knows nothing of metric names, HTTP, terminals or diagnosis.
"""
