"""The node room: who lives on this node now: links, routes, Calico's files about endpoints, and their join.

Knows the node's network namespace and run directory. Knows no maps, no bytes of maps and no metric names.
"""

from exporter.errors import ExporterError


class NodeError(ExporterError):
    """Something about the node could not be read. The message is one sentence for an operator."""
