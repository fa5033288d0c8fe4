"""A node that changes: it is one of several bundles, and each wait moves on to the next.

Run as a program it is the exporter on such a node: `python changing_node.py BUNDLE,... ARGUMENTS`.
"""

import sys
import time
from pathlib import Path

from exporter.cli import snapshots
from exporter.cli.main import main
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.memory import Memory


class ChangingNode:
    """A source that is one of these bundles; the last stays. An exception instead of a bundle is raised: Ctrl-C once,
    any other by each snapshot.
    """

    def __init__(self, *bundles):
        self.bundles = [one if isinstance(one, BaseException) else read_bundle(Path(one)) for one in bundles]
        self.at = 0
        self.waited = []

    def __getattr__(self, name):
        bundle = self.bundles[min(self.at, len(self.bundles) - 1)]
        if isinstance(bundle, BaseException):
            self.at += isinstance(bundle, KeyboardInterrupt)
            raise bundle
        return getattr(bundle, name)

    def wait(self, seconds):
        """Replaces `time.sleep`: moves on to the next bundle; after the last, Ctrl-C is pressed."""
        self.waited.append(seconds)
        self.at += 1
        if self.at >= len(self.bundles):
            raise KeyboardInterrupt

    def open_source(self, options):
        """Replaces `open_source`."""
        return self, Memory()


def play():
    """Runs the program over the bundles in the first argument, with real waits, until it is stopped."""
    node, sleep = ChangingNode(*sys.argv[1].split(",")), time.sleep

    def wait(seconds):
        sleep(seconds)
        node.at += 1

    snapshots.time.sleep, snapshots.open_source = wait, node.open_source
    sys.argv[1:2] = []
    main()


if __name__ == "__main__":
    play()
