"""The format room: what Calico's bytes, names and files mean.

Pure: bytes and text in, tables out. Knows no files, sockets, processes, clocks, Prometheus, and not how a map is read.
Facts come from Calico's source at release tags (names cited, never line numbers) and from recordings of real nodes.
"""

from exporter.errors import ExporterError


class LayoutError(ExporterError):
    """A map's key or value has a size that no known release of Calico uses. The message is one sentence."""
