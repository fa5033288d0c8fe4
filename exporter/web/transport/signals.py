"""What signals mean to the server: SIGHUP reads again what can be read again, every other one ends it with a line.

Knows signals and terminals, and nothing of what is served or read.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable

log = logging.getLogger("exporter.web")

# Those that would end a process without a word.
_ENDING = ("TERM", "INT", "QUIT", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "XCPU", "POLL", "PWR", "STKFLT")
_ALWAYS = (signal.SIGTERM, signal.SIGINT)


def handle_signals(stop: asyncio.Event, reread: Callable[[], None]) -> None:
    """Sets `stop` on a signal that ends this process, or when its terminal closes; calls `reread` on any other SIGHUP.

    A signal that is ignored, or that somebody handles already, stays so.
    """
    loop = asyncio.get_running_loop()
    for name in _ENDING:
        number = signal.Signals[f"SIG{name}"]
        if number in _ALWAYS or signal.getsignal(number) is signal.SIG_DFL:
            loop.add_signal_handler(number, _end, stop, number.name)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        loop.add_signal_handler(signal.SIGHUP, _hang_up, stop, reread, _has_terminal())
    # Whoever started this may have blocked them until they are handled.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_ALWAYS, signal.SIGHUP))


def _end(stop: asyncio.Event, name: str) -> None:
    log.info("received %s", name)
    stop.set()


def _hang_up(stop: asyncio.Event, reread: Callable[[], None], had_terminal: bool) -> None:  # noqa: FBT001  a fact
    if had_terminal and not _has_terminal():
        _end(stop, "SIGHUP: the terminal was closed")
    else:
        log.info("received SIGHUP: reading the configuration again")
        reread()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
