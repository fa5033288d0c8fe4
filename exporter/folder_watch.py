"""Whether anything in a folder has changed since it was last asked, by the kernel's notifications (inotify).

Asking for the times of 250 files takes a tenth of the CPU of a scrape, and they seldom change. Only of local file
systems, where every change goes through this kernel; nothing is known of any other, or where the kernel allows no
further watches, and then the folder counts as changed. So it does every few minutes: inotify does not tell of a file
that is written through a mapping or through a second name elsewhere.
"""

import ctypes
import os
import time
from pathlib import Path

# Of linux/magic.h: where Calico's run directory can be.
_LOCAL = frozenset({0x01021994, 0xEF53, 0x58465342, 0x9123683E})  # tmpfs, ext4, xfs, btrfs
# Of linux/inotify.h: files that are written, get another mode, come, go or are renamed, and the same of the folder.
_EVENTS = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
_ONLY_FOLDERS = 0x01000000
_SURE_SECONDS = 300.0


class FolderWatch:
    """Notifications about what is directly in `path`. Not thread-safe; may hang with the folder's file system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._watched: tuple[int, int] | None = None
        self._sure_until = 0.0

    def unchanged(self) -> bool:
        """Whether nothing has changed since the last call, for certain; whoever reads then must ask before."""
        events, there = self._events(), self._identity()
        if events or there is None or there != self._watched or time.monotonic() > self._sure_until:
            self._watch(there)
            return False
        return True

    def _events(self) -> bool:
        if self._descriptor < 0:
            return True
        try:
            return bool(os.read(self._descriptor, 1 << 16))
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _identity(self) -> tuple[int, int] | None:
        # Of what the path leads to now: no event says that something was mounted over it.
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _watch(self, there: tuple[int, int] | None) -> None:
        if there != self._watched and self._descriptor >= 0:
            os.close(self._descriptor)  # with the watch of another folder
            self._descriptor = -1
        self._watched, self._sure_until = None, time.monotonic() + _SURE_SECONDS
        if there is None or not _is_local(self._path):
            return
        library = ctypes.CDLL(None)
        if self._descriptor < 0:
            self._descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        # Again after each event, which may have been the end of the watch; for a folder that has one it is the same.
        added = library.inotify_add_watch(self._descriptor, os.fsencode(self._path), _EVENTS | _ONLY_FOLDERS)
        if self._descriptor >= 0 and added >= 0 and self._identity() == there:
            self._watched = there


def _is_local(path: Path) -> bool:
    """Whether it is on one of those file systems; the type is the first word of struct statfs."""
    about = (ctypes.c_long * 32)()
    found = ctypes.CDLL(None).statfs(os.fsencode(path), about)
    return found == 0 and about[0] in _LOCAL
