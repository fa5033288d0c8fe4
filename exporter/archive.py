"""The archive format of bundles: writes named members to a compressed file and reads them back from untrusted files.

Writes GNU tar with xz. Reads as a stream, with limits on everything before it is unpacked, and never extracts to disk;
of tar's extensions only long names are supported, because parsers of the others have been exploited. Does not interpret
the members.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from exporter.errors import ExporterError

MAX_BYTES = 512 << 20
_MAX_MEMBERS = 50_000  # two folders of 20,000 files, and maps
_MAX_NAME = 4096
_PIECE = 1 << 20
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


def read_archive(path: Path, max_bytes: Callable[[str], int]) -> dict[str, bytes]:
    """The members of the archive at `path` by name, each of at most `max_bytes(name)`; those of 0 are left out.

    Raises `ArchiveError`, or OSError when it cannot be read.
    """
    with _opened(path) as archive:
        return dict(_contents(archive, max_bytes))


def count_members(path: Path) -> int:
    """The number of members of a complete archive, without keeping any. Raises as `read_archive`."""
    with _opened(path) as archive:
        return sum(1 for _ in _members(archive))


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    # This program writes xz; users may have recompressed the file.
    with path.open("rb") as start:
        magic = start.read(6)
    opened = next((open_compressed for mark, open_compressed in _COMPRESSIONS.items() if magic.startswith(mark)), open)
    try:
        with opened(path, "rb") as file:
            stream = _Limited(file)
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE, tarinfo=_Member) as archive:
                yield archive
            while stream.read(_PIECE):  # checksums are at the end of the compressed file
                pass
    except MemoryError as error:
        raise ArchiveError("the process was refused memory to read it") from error
    except _DAMAGE as error:
        raise ArchiveError(f"it is not an archive, or is truncated or damaged: {error}") from error


class _Limited(io.RawIOBase):
    """The decompressed bytes of a file, up to a limit in total."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._left = MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase`."""
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ArchiveError(f"it decompresses to more than {MAX_BYTES >> 20} MiB")
        return data


class _Member(tarfile.TarInfo):
    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # Bundles need files, long names (L), and directories where a user re-created the archive; parsers of tar's
        # many other extensions have been exploited.
        if self.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME):
            raise tarfile.TarError(f"a member is of type {self.type!r}")
        if self.type == tarfile.GNUTYPE_LONGNAME and self.size > _MAX_NAME:
            raise tarfile.TarError(f"a member has a name of {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member

    def _block(self, count: int) -> int:
        # A negative size makes tarfile loop forever (CVE-2025-8194); this is the recommended mitigation.
        if count < 0:
            raise tarfile.TarError("a member has a negative size")
        size: int = super()._block(count)  # type: ignore[misc]
        return size


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(archive):
        if number >= _MAX_MEMBERS:
            raise ArchiveError(f"it has more than {_MAX_MEMBERS} members")
        yield member


def _contents(archive: tarfile.TarFile, max_bytes: Callable[[str], int]) -> Iterator[tuple[str, bytes]]:
    for member in _members(archive):
        limit = max_bytes(member.name)
        if member.isreg() and limit:
            if member.size > limit:
                raise ArchiveError(f"its member {member.name!a} has more than {limit >> 20} MiB")
            file = archive.extractfile(member)
            yield member.name, file.read() if file else b""
