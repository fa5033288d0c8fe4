"""Calico's formats: the meaning of its bytes, names and files.

Pure functions: bytes and text in, tables out. No files, sockets, processes, clocks, Prometheus or map access.
Facts come from Calico's source at release tags (names cited, never line numbers) and from recordings of real nodes.
"""

from exporter.errors import ExporterError


class LayoutError(ExporterError):
    """A map's key or value has a size that no known release of Calico uses. The message is one sentence."""
