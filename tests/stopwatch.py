"""Seconds as a quiet machine would take them, for what must happen in time."""

import os
import threading
import time
from pathlib import Path


class Stopwatch:
    """Seconds since its start, less those in which this thread or these processes were ready and got no CPU.

    On a quiet machine that is the time on the wall. `processes` may have ended, and must not have been waited for.
    """

    def __init__(self, *processes: int):
        self._own = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/schedstat")
        self._processes = [Path(f"/proc/{process}/task") for process in processes]
        self._start, self._delayed = time.monotonic(), self._delay()

    def seconds(self) -> float:
        return time.monotonic() - self._start - (self._delay() - self._delayed)

    def _delay(self) -> float:
        """Seconds in the kernel's queues of what may run; 0 where it does not count them."""
        threads = {file for process in self._processes for file in process.glob("*/schedstat")}
        return sum(map(_delay_in, {self._own, *threads}))


def _delay_in(file: Path) -> float:
    try:
        return int(file.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def wait_for_end(process: int) -> None:
    """Waits until a child has ended, and leaves it to be waited for."""
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
