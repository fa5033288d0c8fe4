"""The node's current state: links, routes, Calico's files about endpoints, and their join.

Knows the node's network namespace and run directory. Does not know maps or metric names.
"""

from exporter.errors import ExporterError


class NodeError(ExporterError):
    """Something about the node could not be read. The message is one sentence for an operator."""
