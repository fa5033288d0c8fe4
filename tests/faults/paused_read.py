"""A read of the counter map that stands still in the middle until a test lets it go on (`faulty.py`)."""

import os
from contextlib import contextmanager


class Held:
    """Stops the next batches of the counter map, one by one, while it lasts."""

    def __init__(self, control):
        self._held, self._go = control / "held", control / "go"

    def wait(self):
        """Returns when a batch is asked for, which then waits."""
        self._held.read_bytes()

    def go_on(self):
        """Lets the batch that waits be read."""
        self._go.write_bytes(b"")

    def hold_no_more(self):
        self._held.unlink()


@contextmanager
def holding(control):
    one = Held(control)
    for name in ("held", "go"):
        os.mkfifo(control / name)
        (control / name).chmod(0o666)  # the exporter's user is another
    try:
        yield one
    finally:
        for name in ("held", "go"):
            (control / name).unlink(missing_ok=True)
