"""The reader that runs the `bpftool` program, for machines where no library can be loaded.

Runs it once per query, with a timeout, and parses its JSON. Knows only bpftool's command line and output. It is the
only module outside the demo that starts a process.
"""

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import IO, Any, cast

from exporter.bpf.accounting import MapUsage
from exporter.bpf.json_rows import objects_of
from exporter.bpf.maps import (
    MapDenied,
    MapDump,
    MapError,
    MapInfo,
    MapMissing,
    NotAMap,
    ProgramInfo,
    ReadAborted,
    ReaderMissing,
    ShapeCheck,
    sum_over_cpus,
    unchecked,
)
from exporter.bpf.walk import possible_cpus
from exporter.privileges import may_read_all, remedy_of_refusal_to_bpftool

_ENTRIES_AT_ONCE = 1000  # each takes some 6 KiB as JSON
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# bpftool's error messages and the errors they become; the first match counts.
_ERRORS: tuple[tuple[re.Pattern[str], type[MapError], str], ...] = (
    (re.compile(r"No such file"), MapMissing, "does not exist"),
    (re.compile(r"incorrect object type|unknown object|not in bpf"), NotAMap, "is not a pinned BPF map"),
    (re.compile(r"Operation not permitted|Permission denied"), MapDenied, "may not be read"),
)


class BpftoolReader:
    """A `maps.Reader` that runs the program at `path`, each time for at most `timeout` seconds."""

    name = "bpftool"

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout

    def info(self, pin: str) -> MapInfo:
        answer = self._run(pin, "map", "show", "pinned", pin)
        if not isinstance(answer, dict) or "bytes_key" not in answer:
            raise NotAMap(f"{pin} is not a pinned BPF map")
        with _parsing(pin):
            return MapInfo(
                pin=pin,
                id=_unsigned(answer["id"]),
                name=str(answer.get("name", "")),
                type=str(answer["type"]),
                key_size=_unsigned(answer["bytes_key"]),
                value_size=_unsigned(answer["bytes_value"]),
                max_entries=_unsigned(answer["max_entries"]),
                flags=_unsigned(answer.get("flags", 0)),
            )

    def usage(self, pin: str) -> MapUsage:
        """See `maps.Reader`. A process for each map and scrape would cost more than counting now and then."""
        return MapUsage(self.info(pin), None)

    def read(self, pin: str, *, sum_cpus: bool = False, check: ShapeCheck = unchecked) -> MapDump:
        info = self.info(pin)
        check(info)
        entries = self._run(pin, "map", "dump", "pinned", pin)
        copies = possible_cpus() if info.per_cpu else 1
        with _parsing(pin):
            dump = _dump(info, entries, copies)
        return sum_over_cpus(dump) if sum_cpus else dump

    def lookup(self, pin: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `maps.Reader`. bpftool runs once for each key."""
        return [self._lookup(pin, key) for key in keys]

    def _lookup(self, pin: str, key: bytes) -> bytes | None:
        written = [f"{byte:#04x}" for byte in key]
        answer = self._run(pin, "map", "lookup", "pinned", pin, "key", *written, absent=b"null")
        with _parsing(pin):
            return None if answer is None else _bytes(answer["value"], len(answer["value"]))

    def batches(self, pin: str) -> Iterator[MapDump]:
        """See `maps.Reader`. The JSON takes a hundred times the space of the entries, so it is parsed in pieces."""
        info = self.info(pin)
        arguments = [self._path, "--json", "map", "dump", "pinned", pin]
        with _parsing(pin), subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                entries = objects_of(self._pieces(process, pin))
                while rows := list(islice(entries, _ENTRIES_AT_ONCE)):
                    yield _batch(info, [row for row in rows if not _deleted(row)])
            finally:
                process.kill()

    def _pieces(self, process: subprocess.Popen[bytes], pin: str) -> Iterator[str]:
        output, deadline = cast("IO[bytes]", process.stdout).fileno(), time.monotonic() + self._timeout
        while select.select([output], [], [], max(deadline - time.monotonic(), 0))[0]:
            piece = os.read(output, 1 << 20)
            if not piece:
                return
            yield piece.decode("latin-1")  # names are of no interest
        raise ReadAborted(f"bpftool did not print all of {pin} within {self._timeout:g} s: use --bpf.reader=libbpf")

    def programs(self, ids: Sequence[int]) -> list[ProgramInfo]:
        """See `maps.Reader`. bpftool prints the load time in whole seconds."""
        wanted = set(ids)
        if not wanted:
            return []
        subject = "the loaded programs"
        answer = self._run(subject, "prog", "show")
        with _parsing(subject):
            return [
                ProgramInfo(
                    entry["id"],
                    _unsigned(entry.get("loaded_at", 0)) * 10**9,
                    tuple(map(_unsigned, entry.get("map_ids", ()))),
                    str(entry.get("tag", "")),
                )
                for entry in answer
                if _unsigned(entry["id"]) in wanted
            ]

    def _run(self, subject: str, *arguments: str, absent: bytes | None = None) -> Any:
        """The JSON that bpftool prints; None where it prints `absent`, for an entry that is not there."""
        try:
            done = subprocess.run(
                [self._path, "--json", *arguments], capture_output=True, timeout=self._timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ReadAborted(f"bpftool did not answer about {subject} within {self._timeout:g} s") from error
        except OSError as error:
            raise MapError(f"{self._path} could not be started: {error.strerror}") from error
        if done.stdout.strip() == absent:
            return None
        try:
            answer = json.loads(done.stdout)
        except (ValueError, RecursionError):
            answer = None
        first = answer[0] if isinstance(answer, list) and answer else answer
        if isinstance(first, dict) and first.keys() == {"error"}:
            raise _map_error(subject, str(first["error"]))
        if done.returncode != 0 or answer is None:
            text = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.returncode}"
            raise _map_error(subject, text)
        return answer


@contextmanager
def _parsing(subject: str) -> Iterator[None]:
    """Handles unexpected JSON: the map was replaced between two queries, or this bpftool prints another format."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReadAborted(f"bpftool's answer about {subject} does not have the shape it should: {error}") from error


def _unsigned(value: Any) -> int:  # JSON
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r:.40} is no number of the kernel's")
    return value


def bpftool_reader() -> BpftoolReader:
    """A reader over the machine's bpftool. Raises `ReaderMissing` when there is none."""
    path = shutil.which("bpftool") or shutil.which("bpftool", path=_SEARCH_PATH)
    if path is None:
        raise ReaderMissing("bpftool is not installed: install the package bpftool")
    return BpftoolReader(path)


def _map_error(subject: str, text: str) -> MapError:
    if "Permission denied" in text and may_read_all() and os.access(subject, os.R_OK | os.W_OK):
        # The kernel returns EACCES both for a forbidding file mode and for a file that is no BPF object.
        return NotAMap(f"{subject} is not a pinned BPF map")
    for pattern, kind, meaning in _ERRORS:
        if pattern.search(text):
            return kind(f"{subject} {meaning}", remedy_of_refusal_to_bpftool() if kind is MapDenied else "")
    return MapError(
        f"bpftool could not read {subject}: {text}", "" if may_read_all() else remedy_of_refusal_to_bpftool()
    )


def _dump(info: MapInfo, entries: list[dict[str, Any]], copies: int) -> MapDump:
    # An entry deleted between bpftool's walk and its lookup has an error instead of a value; other read errors must not
    # be mistaken for that. When bpftool's current key is deleted, it restarts and repeats entries: the last counts.
    whole = list({tuple(entry["key"]): entry for entry in entries if not _deleted(entry)}.values())
    keys = [_bytes(entry["key"], info.key_size) for entry in whole]
    values: list[bytes] = []
    for entry in whole:
        parts = [copy["value"] for copy in entry["values"]] if info.per_cpu else [entry["value"]]
        if len(parts) != copies:
            raise ValueError(f"an entry has {len(parts)} values where there are {copies} CPUs")
        values += [_bytes(part, info.value_size) for part in parts]
    return MapDump(info, b"".join(keys), b"".join(values), copies)


def _batch(info: MapInfo, rows: list[dict[str, Any]]) -> MapDump:
    keys = b"".join([_bytes(row["key"], info.key_size) for row in rows])
    return MapDump(info, keys, b"".join([_bytes(row["value"], info.value_size) for row in rows]))


def _deleted(entry: dict[str, Any]) -> bool:
    for value in chain((entry.get("value"),), entry.get("values") or ()):
        if isinstance(value, dict) and "error" in value:
            if "No such file" in str(value["error"]):
                return True
            raise ValueError(value["error"])
    return False


def _bytes(words: list[str], size: int) -> bytes:
    found = bytes([int(word, 16) for word in words])
    if len(found) != size:
        raise ValueError(f"{len(found)} bytes where there are {size}")
    return found
