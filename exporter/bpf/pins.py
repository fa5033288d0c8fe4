"""Lists the names in the BPF file system where maps are pinned. Knows paths; what a name means is `calico/pins.py`."""

import os
from pathlib import Path

from exporter.bpf.maps import MapDenied, MapError, MapMissing
from exporter.privileges import remedy_of_limit

_MOUNTS = Path("/proc/self/mounts")


def list_pins(directory: Path) -> list[str]:
    """The sorted names pinned in `directory`; subdirectories and symbolic links are left out.

    Raises `MapMissing` when the directory is absent and `MapDenied` when it may not be listed.
    """
    return sorted(entry.name for entry in _scan(directory) if entry.is_file(follow_symlinks=False))


def list_subdirectories(directory: Path) -> list[str]:
    """The sorted names of the subdirectories of `directory`; the same errors as `list_pins`."""
    return sorted(entry.name for entry in _scan(directory) if entry.is_dir(follow_symlinks=False))


def _reason_missing(directory: Path) -> str:
    # Calico creates the folder; where it does not run, the file system can still be mounted.
    try:
        mounts = _bpf_mounts()
    except OSError as error:
        return f"where BPF file systems are mounted could not be read: {error.strerror}"
    for path in directory.resolve().parents:
        if path in mounts:
            return f"a BPF file system is mounted at {path}, and nothing of Calico's is in it"
    return "no BPF file system is mounted there"


def _bpf_mounts() -> set[Path]:
    """Where this process sees a BPF file system."""
    # Names can be in any encoding.
    lines = (line.split(b" ") for line in _MOUNTS.read_bytes().split(b"\n")[:-1])
    return {Path(os.fsdecode(words[1])) for words in lines if words[2] == b"bpf"}


def _scan(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MapMissing(f"{directory} does not exist: {_reason_missing(directory)}") from error
    except PermissionError as error:
        raise MapDenied(f"{directory} may not be listed", "run as root") from error
    except OSError as error:
        raise MapError(f"{directory} could not be listed: {error.strerror}", remedy_of_limit(error.errno)) from error
