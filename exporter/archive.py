"""The archive format of bundles: writes named members to a compressed file and reads them back from untrusted files.

Writes GNU tar with xz. Reads in memory up to a limit and never extracts to disk; of tar's extensions only long names
are supported, because parsers of the others have been exploited. Does not interpret the members.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from exporter.errors import ExporterError

MAX_BYTES = 1 << 30
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\xfd7zXZ\0": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
_DAMAGE = (
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    MemoryError,  # a member that claims to be huge
    RecursionError,  # a name of a name of a name
)


class ArchiveError(ExporterError):
    """The file is not a valid bundle archive. The message is one sentence."""


def write_archive(members: Mapping[str, bytes], target: IO[bytes]) -> None:
    """Writes the members, compressed, to `target`."""
    # A node's policy files are so repetitive that xz output is half the size of gzip's.
    with tarfile.open(fileobj=target, mode="w|xz", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def read_archive(path: Path) -> dict[str, bytes]:
    """The members of the archive at `path` by name. Raises `ArchiveError`, or OSError when it cannot be read."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_decompressed(path)), mode="r:", tarinfo=_Member) as archive:
            return dict(_contents(archive))
    except _DAMAGE as error:
        raise ArchiveError(f"it is not an archive, or is truncated or damaged: {error}") from error


def _decompressed(path: Path) -> bytes:
    # This program writes xz; users may have recompressed the file.
    with path.open("rb") as start:
        magic = start.read(6)
    opened = next((open_compressed for mark, open_compressed in _COMPRESSIONS.items() if magic.startswith(mark)), open)
    with opened(path, "rb") as file:
        data: bytes = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ArchiveError(f"it decompresses to more than {MAX_BYTES >> 20} MiB")
    return data


class _Member(tarfile.TarInfo):
    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # Bundles need files, long names (L), and directories where a user re-created the archive; parsers of tar's
        # many other extensions have been exploited.
        if self.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME):
            raise tarfile.TarError(f"a member is of type {self.type!r}")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member

    def _block(self, count: int) -> int:
        # A negative size makes tarfile loop forever (CVE-2025-8194); this is the recommended mitigation.
        if count < 0:
            raise tarfile.TarError("a member has a negative size")
        size: int = super()._block(count)  # type: ignore[misc]
        return size


def _contents(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        file = archive.extractfile(member)
        if file:
            yield member.name, file.read()
