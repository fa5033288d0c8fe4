"""SIGTERM as an exception, so that what is temporary is removed and child processes are ended."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def exit_on_sigterm(first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """SIGTERM calls `first` and raises SystemExit with the exit code of a process that it has ended.

    Has an effect in the main thread only.
    """

    def leave(number: int, _: FrameType | None) -> None:
        first()
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
