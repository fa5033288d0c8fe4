"""Reads of a folder that can hang for ever, as on a network or FUSE file system whose server is gone.

Nothing can end such a read, so it happens in a thread of its own, and the caller gives up on a thread that stands
still. A slow read is waited for: its thread runs on a CPU, or waits for one, again and again.
"""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from exporter.node import NodeError

_STANDS_STILL = 1.5  # seconds
_T = TypeVar("_T")


class ReadThread:
    """Runs reads of `folder` one after the other in a thread. After one that hangs, the next fail at once until it
    returns.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._pending: Future[Any] | None = None
        self._thread = Thread(target=self._run, name=folder.name, daemon=True)
        self._thread.start()

    @property
    def hangs(self) -> bool:
        """Whether a read that its caller gave up on has not returned yet."""
        return self._pending is not None and not self._pending.done()

    def read(self, read: Callable[[], _T]) -> _T:
        """What `read` returns or raises. Raises `NodeError` when it hangs."""
        if self.hangs:
            raise self._error()
        future: Future[_T] = Future()
        self._pending = future
        self._jobs.put((future, read))
        ran = -1
        while True:
            try:
                return future.result(_STANDS_STILL)
            except TimeoutError:
                if future.done():
                    raise
                before, ran = ran, self._ran()
                if ran == before:
                    raise self._error() from None
            finally:
                self._pending = None if future.done() else future  # a result must not be kept until the next read

    def _ran(self) -> int:
        """How long the thread has run on a CPU or waited for one, in ns; 0 where the kernel does not say."""
        try:
            words = Path(f"/proc/self/task/{self._thread.native_id}/schedstat").read_text(encoding="ascii").split()
        except OSError:
            return 0
        return int(words[0]) + int(words[1])

    def _error(self) -> NodeError:
        return NodeError(
            f"{self._folder} does not answer: its file system hangs",
            "check where it is mounted from (`findmnt`); it is read again as soon as it answers",
        )

    def _run(self) -> None:
        while True:
            future, read = self._jobs.get()
            try:
                future.set_result(read())
            except BaseException as error:  # noqa: BLE001  handed to the caller
                future.set_exception(error)
            del future, read
