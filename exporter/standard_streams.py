"""Standard streams that are closed at the start, as `<&-` does, or cannot be written.

The next file that the process opens, such as a map or a connection, would otherwise get the number of the closed one:
whatever prints to standard error would write into it.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Standard output is opened for reading, so that writing to it is the error that it is.
_STREAMS = (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY))


def open_closed_streams() -> None:
    """Gives the numbers of closed standard streams to /dev/null."""
    for name, mode, flags in _STREAMS:
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)  # the lowest that is free: that of the stream
            fcntl.fcntl(number, fcntl.F_SETFD, 0)  # child processes get it too
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace"))


@contextmanager
def exit_on_unwritable_output() -> Iterator[None]:
    """Ends the program with one sentence if standard output cannot be written; other files report their own errors."""
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        if not full and not (error.errno == errno.EBADF and _is_closed()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter flushes it again at exit
        why = "no space left" if full else "it is closed"
        sys.stderr.write(f"Error: standard output could not be written: {why}\n")
        sys.exit(1)


def _is_closed() -> bool:
    return fcntl.fcntl(sys.stdout.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
