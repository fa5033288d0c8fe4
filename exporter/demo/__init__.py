"""A small node of our own: namespaces as pods, veths named as Calico names them, a tc program that counts as Calico's.

For trying the exporter, for tests and for screenshots. Nothing imports this room but `cli/demo.py` and tests. Whatever
it makes carries its own name, lies in namespaces, a folder and a BPF file system of its own, and goes when it goes.
"""

from exporter.errors import ExporterError


class DemoError(ExporterError):
    """The demo node cannot be built here. The message is one sentence that says what to do."""
