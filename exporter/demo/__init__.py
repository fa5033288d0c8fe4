"""A small simulated node: namespaces as pods, veths named as by Calico, and a tc program that counts like Calico's.

For trying the exporter, for tests and for screenshots. Only `cli/demo.py` and tests import this package. Everything it
creates is in separate namespaces, a separate folder and a separate BPF file system, and is removed at the end.
"""

from exporter.errors import ExporterError


class DemoError(ExporterError):
    """The demo node cannot be built here. The message is one sentence that says what to do."""
