"""The archive that a bundle is: named members in, a packed file out, and back from a file that anyone may have made.

Written as GNU tar and xz. Read in memory with a limit and never unpacked; of tar's extensions only long names are
followed, because the parsing of the others has been abused. Knows nothing of what the members say.
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
_PACKINGS: dict[bytes, Callable[..., Any]] = {b"\xfd7zXZ\0": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
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
    """The file is no archive of ours. The message is one sentence."""


def write_archive(members: Mapping[str, bytes], target: IO[bytes]) -> None:
    """Writes the members, packed, into `target`."""
    # xz: policy files of one node repeat each other so much that it halves what gzip makes of them.
    with tarfile.open(fileobj=target, mode="w|xz", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def read_archive(path: Path) -> dict[str, bytes]:
    """The members of the archive at `path` by name. Raises `ArchiveError`, or OSError when it cannot be read."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_unpacked(path)), mode="r:", tarinfo=_Member) as archive:
            return dict(_contents(archive))
    except _DAMAGE as error:
        raise ArchiveError(f"it is no archive, or is cut off or damaged: {error}") from error


def _unpacked(path: Path) -> bytes:
    # Ours are xz; somebody may have packed one anew on the way.
    with path.open("rb") as start:
        magic = start.read(6)
    opened = next((open_packed for mark, open_packed in _PACKINGS.items() if magic.startswith(mark)), open)
    with opened(path, "rb") as file:
        data: bytes = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ArchiveError(f"it unpacks to more than {MAX_BYTES >> 20} MiB")
    return data


class _Member(tarfile.TarInfo):
    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # Bundles need files, folders where somebody packed one anew, and long names (L): the parsing of tar's many
        # other extensions has been abused.
        if self.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_LONGNAME):
            raise tarfile.TarError(f"a member is of type {self.type!r}")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member

    def _block(self, count: int) -> int:
        # A negative size would send tarfile backwards for ever (CVE-2025-8194); this is the mitigation it names.
        if count < 0:
            raise tarfile.TarError("a member has a negative size")
        size: int = super()._block(count)  # type: ignore[misc]
        return size


def _contents(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        file = archive.extractfile(member)
        if file:
            yield member.name, file.read()
