"""Atomic replacement of a file."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from exporter.printable import printable
from exporter.termination import exit_on_sigterm


@contextmanager
def replacing(target: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A new file with this mode that replaces `target` at the end.

    After an error, or SIGTERM, `target` is unchanged and nothing else is left. Raises OSError.
    """
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it is no file that could be replaced; - is standard output")
    # An unpredictable name in the same folder: in a shared one, somebody could plant a link under a known name.
    with exit_on_sigterm():
        part = tempfile.NamedTemporaryFile(prefix=f".{target.name}.", dir=target.parent, delete=False)  # noqa: SIM115
        unfinished = Path(part.name)
        try:
            with part:
                yield part
                part.flush()
                os.fchmod(part.fileno(), mode)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def wrote(target: Path) -> str:
    """The message that this file was written, with its size."""
    return f"wrote {printable(str(target))} ({target.stat().st_size / 1024:.1f} KiB)"
