"""Reads what child processes print, up to limits; none outlives the function that started it."""

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import IO

_PIECE = 1 << 16
_MAX_ERRORS = 64 << 10
_PROMPT_SECONDS = 0.3

_running: set["subprocess.Popen[bytes]"] = set()
_ended = Event()


class TooLarge(Exception):
    """A process printed more than the limit, and was killed."""


@contextmanager
def killed_after(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Waits for the process at the end of the block; it is killed if the block raises, or by `end_all`."""
    with process:
        _running.add(process)
        try:
            if _ended.is_set():
                process.kill()
            yield process
        except BaseException:
            process.kill()
            raise
        finally:
            _running.discard(process)


def end_all() -> None:
    """Kills the processes of all threads, and those that they start from now on."""
    _ended.set()
    for process in list(_running):
        process.kill()


class Copying(Thread):
    """Copies a process's standard output into `sink`, and kills the process at `max_bytes`."""

    def __init__(self, process: "subprocess.Popen[bytes]", sink: IO[bytes], max_bytes: int) -> None:
        super().__init__(daemon=True)
        self._process, self._sink, self._left = process, sink, max_bytes
        self._problem: Exception | None = None
        self.start()

    def run(self) -> None:
        """See `Thread`."""
        try:
            for piece in pieces_of(self._process.stdout):
                self._left -= len(piece)
                if self._left < 0:
                    self._problem = TooLarge()
                    break
                self._sink.write(piece)
        except OSError as error:
            self._problem = error
        if self._problem:
            self._process.kill()

    def finish(self) -> None:
        """Waits for the end. Raises `TooLarge`, or OSError if the sink could not be written."""
        self.join()
        if self._problem:
            raise self._problem


class Errors(Thread):
    """Reads a process's standard error to its end and keeps the start of it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(daemon=True)
        self._process = process
        self._kept = bytearray()
        self.start()

    def run(self) -> None:
        """See `Thread`."""
        for piece in pieces_of(self._process.stderr):
            self._kept += piece[: _MAX_ERRORS - len(self._kept)]

    def text(self) -> str:
        """What was kept, after the process has closed its standard error."""
        self.join()
        return self._kept.decode(errors="replace")


def pieces_of(source: IO[bytes] | None) -> Iterator[bytes]:
    """The bytes of a pipe as they arrive."""
    while source and (piece := os.read(source.fileno(), _PIECE)):
        yield piece


def lines_of(source: IO[bytes] | None) -> Iterator[bytes]:
    """The lines of a pipe as they arrive; a prompt, which waits for input, and a long line come incomplete."""
    rest = b""
    while source:
        if rest and (len(rest) > _MAX_ERRORS or not select.select([source], [], [], _PROMPT_SECONDS)[0]):
            yield rest
            rest = b""
        piece = os.read(source.fileno(), 4096)
        if not piece:
            break
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest
