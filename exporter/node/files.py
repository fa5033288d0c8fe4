"""Reads the small files that Calico keeps in its run directory, with limits, following no links.

A file may be deleted, truncated or maliciously replaced while it is read; one bad file never hides the others. Knows
paths and sizes; `calico` parses the contents.
"""

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from exporter.errors import ExporterError
from exporter.node import NodeError
from exporter.privileges import remedy_of_limit, remedy_of_modes
from exporter.quantities import plural

# A policy file of a host endpoint with thousands of rules has some MB; a status file is under 1 kB.
MAX_BYTES = 64 << 20
_STABLE_NS = 2 * 10**9
_MAX_FILES = 20_000  # four policy files for each of the 1000 interfaces that Calico can hold, and a margin
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Folder(Generic[_Kept]):
    """The regular files of a folder: the parsed content by name, and one sentence for each that could not be read.

    `present` is False when the folder does not exist, which is normal: Calico creates it only for enabled features.
    `stamps` detect changed files, by name; `unread` are the names of the files that exist but could not be read, and
    `malformed` the problems of those that could be read and not parsed: they are parsed again when they change.
    """

    present: bool
    files: dict[str, _Kept]
    problems: tuple[str, ...]
    stamps: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    malformed: Mapping[str, str] = field(default_factory=dict)

    @property
    def reusable(self) -> bool:
        """Whether each file was read and had not been written to just before."""
        return self.present and not self.unread and self.stamps.keys() == self.files.keys()


class Unparsable(ExporterError):
    """`parse` raises it for malformed content: the message completes a sentence that names the file."""


def read_folder(
    path: Path,
    before: Folder[bytes] | None = None,
    max_bytes: int = MAX_BYTES,
    wanted: Callable[[str], bool] = lambda _: True,
) -> Folder[bytes]:
    """The files directly in `path` with a `wanted` name, each at most `max_bytes` bytes; unchanged ones are taken from
    `before`.

    Raises `NodeError` when the folder cannot be listed.
    """
    return parse_folder(path, lambda _, content: content, max_bytes, before, wanted)


def parse_folder(
    path: Path,
    parse: Callable[[str, bytes], _Kept],
    max_bytes: int,
    before: Folder[_Kept] | None = None,
    wanted: Callable[[str], bool] = lambda _: True,
) -> Folder[_Kept]:
    """As `read_folder`, with each file parsed by `parse` from its name and content.

    A malformed file keeps its value from `before`: it may be in the middle of being written.
    """
    entries = _entries(path)
    if entries is None:
        return Folder(present=False, files={}, problems=())
    if entries and not os.access(path, os.X_OK, effective_ids=True):
        # Calico creates the folder of policies with mode 0600: root can list it, but enter it only with a capability.
        problem = f"the {plural(len(entries), 'file')} of {path} could not be read: {remedy_of_modes()}"
        return Folder(present=True, files={}, problems=(problem,), unread=tuple(entry.name for entry in entries))
    entries = [entry for entry in entries if wanted(entry.name)]
    found = _parse_entries(entries[:_MAX_FILES], parse, max_bytes, before)
    if len(entries) <= _MAX_FILES:
        return found
    problem = f"{path} holds {len(entries)} files, of which {_MAX_FILES} are read"
    return replace(found, problems=(problem, *found.problems))


def _parse_entries(
    entries: Sequence[os.DirEntry[str]],
    parse: Callable[[str, bytes], _Kept],
    max_bytes: int,
    before: Folder[_Kept] | None,
) -> Folder[_Kept]:
    files: dict[str, _Kept] = {}
    stamps: dict[str, tuple[int, int, int]] = {}
    problems: list[str] = []
    unread: list[str] = []
    malformed: dict[str, str] = {}
    for entry in entries:
        name = entry.name
        try:
            stamp = _stamp(entry)
            same = before if before and stamp and before.stamps.get(name) == stamp else None
            files[name] = _known(name, same) if same else parse(name, _read_file(entry.path, max_bytes))
        except FileNotFoundError:
            continue  # deleted since it was listed
        except Unparsable as error:
            malformed[name] = str(error)
            problems.append(_problem(entry.path, error))
            unread.append(name)
            if before and name in before.files:
                files[name] = before.files[name]
        except (OSError, ValueError) as error:
            problems.append(_problem(entry.path, error))
            unread.append(name)
            continue
        if stamp:
            stamps[name] = stamp
    return Folder(
        present=True, files=files, problems=tuple(problems), stamps=stamps, unread=tuple(unread), malformed=malformed
    )


def _known(name: str, before: Folder[_Kept]) -> _Kept:
    if name in before.malformed:
        raise Unparsable(before.malformed[name])
    return before.files[name]


def _problem(path: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{display_path(path)} could not be read: {error.strerror}"
    return f"{display_path(path)} was left out: {error}"


def list_folder(path: Path) -> list[str] | None:
    """The sorted names in `path`, None when there is no such folder. Raises `NodeError` when it cannot be listed."""
    entries = _entries(path)
    return None if entries is None else [entry.name for entry in entries]


def check_run_dir(path: Path, folders: Sequence[str]) -> None:
    """Raises `NodeError` unless Calico's run directory `path` is there with one of these folders that Calico makes."""
    entries = list_folder(path)
    if entries is not None and {Path(folder).parts[0] for folder in folders}.intersection(entries):
        return
    missing = "does not exist" if entries is None else "has nothing of Calico's in it that this program reads"
    raise NodeError(
        f"Calico's run directory {path} {missing}",
        "mount the directory of the node where calico-node writes (the chart's calico.runDir; MicroK8s: "
        "/var/snap/microk8s/current/var/run/calico), or name it with --calico.run-dir",
    )


def _entries(path: Path) -> list[os.DirEntry[str]] | None:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return None
    except OSError as error:
        remedy = remedy_of_modes() if isinstance(error, PermissionError) else remedy_of_limit(error.errno)
        raise NodeError(f"{path} could not be listed: {error.strerror}", remedy) from error


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int, int] | None:
    status = entry.stat(follow_symlinks=False)
    # File times have the resolution of the kernel's tick: a file written just now can change without a new time.
    stable = time.time_ns() - status.st_mtime_ns > _STABLE_NS
    # Not st_mtime: programs set it, and under a wrong clock it can be what it was.
    return (status.st_ino, status.st_size, status.st_ctime_ns) if stable else None


def _read_file(path: str, max_bytes: int) -> bytes:
    # O_NONBLOCK: opening a FIFO must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > max_bytes:
            raise ValueError(f"it has {status.st_size} bytes, more than the limit of {max_bytes}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(descriptor)


def display_path(path: str) -> str:
    """A path or name for a message: one that is not UTF-8 has surrogates, which cannot be encoded."""
    return path.encode("utf-8", "backslashreplace").decode()
