"""Lists the names in the BPF file system where maps are pinned. Knows paths; what a name means is `calico/pins.py`."""

import os
from pathlib import Path

from exporter.bpf.maps import MapDenied, MapError, MapMissing


def list_pins(directory: Path) -> list[str]:
    """The sorted names pinned in `directory`; sub-directories and symbolic links are left out (nobody pins a link).

    Raises `MapMissing` when the directory is absent and `MapDenied` when it may not be listed.
    """
    return sorted(entry.name for entry in _scan(directory) if entry.is_file(follow_symlinks=False))


def list_subdirectories(directory: Path) -> list[str]:
    """The sorted names of the sub-directories of `directory`; the same errors as `list_pins`."""
    return sorted(entry.name for entry in _scan(directory) if entry.is_dir(follow_symlinks=False))


def _scan(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MapMissing(f"{directory} does not exist: is the BPF file system mounted there?") from error
    except PermissionError as error:
        raise MapDenied(f"{directory} may not be listed", "run as root") from error
    except OSError as error:
        raise MapError(f"{directory} could not be listed: {error.strerror}") from error
