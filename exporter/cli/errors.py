"""Which exceptions are sentences for a person: each room's own, recognised without importing rooms not in use."""

import errno
import os
import sys

# By name, because importing the web room to catch its error would cost every other command a tenth of a second.
_ROOTS = frozenset(
    {
        "MapError",
        "LayoutError",
        "NodeError",
        "BundleError",
        "LayoutFileError",
        "ListenError",
        "WebConfigError",
        "DemoError",
    }
)


def sentence_of(error: BaseException) -> str | None:
    """The sentence that this exception says to a person, or None when it is a bug and deserves its traceback."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        # What else can be full is written through files of their own, whose errors say which.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter would try again at its end
        return "standard output could not be written: no space left"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":  # it has no class of its own
        return "a thread could not be started: raise the limit of processes (ulimit -u, or pids.max of the cgroup)"
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("exporter.")}
    return str(error) if kinds & _ROOTS else None
