"""Atomic replacement of a file."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from exporter.printable import printable


@contextmanager
def replacing(target: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A new file with this mode that replaces `target` at the end.

    After an error `target` is unchanged. Raises OSError.
    """
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it is no file that could be replaced; - is standard output")
    # An unpredictable name in the same folder: in a shared one, somebody could plant a link under a known name.
    with tempfile.NamedTemporaryFile(prefix=f".{target.name}.", dir=target.parent, delete=False) as part:
        unfinished = Path(part.name)
        try:
            yield part
            part.flush()
            os.fchmod(part.fileno(), mode)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def wrote(target: Path) -> str:
    """The message that this file was written, with its size."""
    return f"wrote {printable(str(target))} ({target.stat().st_size / 1024:.1f} KiB)"
