"""A node that changes: each look at it is the next of several bundles, and waiting is what turns them.

Run as a program it is the exporter's own over such a node: `python film.py BUNDLE,... ARGUMENTS`.
"""

import sys
import time
from pathlib import Path

from exporter.cli import snapshots
from exporter.cli.main import main
from exporter.snapshot.bundle import read_bundle
from exporter.snapshot.reading import Memory


class Film:
    """A source that is one of these bundles; the last stays. An exception in the place of one is raised: Ctrl-C once,
    any other at each look.
    """

    def __init__(self, *frames):
        self.frames = [one if isinstance(one, BaseException) else read_bundle(Path(one)) for one in frames]
        self.at = 0
        self.waited = []

    def __getattr__(self, name):
        frame = self.frames[min(self.at, len(self.frames) - 1)]
        if isinstance(frame, BaseException):
            self.at += isinstance(frame, KeyboardInterrupt)
            raise frame
        return getattr(frame, name)

    def wait(self, seconds):
        """Instead of `time.sleep`: shows the next bundle; after the last, Ctrl-C is pressed."""
        self.waited.append(seconds)
        self.at += 1
        if self.at >= len(self.frames):
            raise KeyboardInterrupt

    def opened(self, options):
        """Instead of `open_source`."""
        return self, Memory()


def play():
    """The program over the bundles named first; they are turned while it really waits. It runs until it is ended."""
    film, sleep = Film(*sys.argv[1].split(",")), time.sleep

    def wait(seconds):
        sleep(seconds)
        film.at += 1

    snapshots.time.sleep, snapshots.open_source = wait, film.opened
    sys.argv[1:2] = []
    main()


if __name__ == "__main__":
    play()
