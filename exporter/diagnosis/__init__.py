"""Interprets snapshots: changes between two, causes of packet loss, an endpoint's rules, missing prerequisites.

Pure functions of snapshots. Knows nothing of metric names, HTTP, terminals or data sources.
"""
