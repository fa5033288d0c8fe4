"""A file that is replaced as a whole or stays as it was."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from exporter.printable import printable


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A new file that only its owner may read and that takes the place of `target` at the end.

    After an error `target` is as it was. Raises OSError.
    """
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it is no file that could be replaced; - is standard output")
    # Under a name that nobody can foresee, beside the file: in a shared folder a link could wait for one.
    with tempfile.NamedTemporaryFile(prefix=f".{target.name}.", dir=target.parent, delete=False) as part:
        unfinished = Path(part.name)
        try:
            yield part
            part.flush()
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def wrote(target: Path) -> str:
    """Says that this file was written, and how large it is."""
    return f"wrote {printable(str(target))} ({target.stat().st_size / 1024:.1f} KiB)"
