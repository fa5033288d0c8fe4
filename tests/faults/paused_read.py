"""A read of the counter map that a test pauses and resumes (`faulty.py`)."""

import os
from contextlib import contextmanager


class PausedRead:
    """Pauses each batch lookup of the counter map."""

    def __init__(self, control):
        self._paused, self._go = control / "paused", control / "go"

    def wait(self):
        """Waits until a batch lookup is paused."""
        self._paused.read_bytes()

    def resume(self):
        """Resumes the paused lookup."""
        self._go.write_bytes(b"")

    def stop_pausing(self):
        self._paused.unlink()


@contextmanager
def pausing(control):
    one = PausedRead(control)
    for name in ("paused", "go"):
        os.mkfifo(control / name)
        (control / name).chmod(0o666)  # the exporter runs as another user
    try:
        yield one
    finally:
        for name in ("paused", "go"):
            (control / name).unlink(missing_ok=True)
