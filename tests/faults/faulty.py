"""The exporter over a wrapped system call layer: `python -m tests.faults.faulty CONTROL serve ...`.

The files in the folder CONTROL inject faults, a missing file none: `faults` is JSON, a list of [call, pin, errno] with
which calls fail; `paused` and `go` are FIFOs that pause and resume each batch lookup of the counter map; `possible` is
the list of CPUs; `clock` is the offset of the wall clock in seconds.
"""

import ctypes
import errno
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from exporter.bpf import libbpf, walk
from exporter.bpf.walk import Calls
from exporter.cli import serving
from exporter.cli.main import main
from exporter.snapshot.parts import MAP_PARTS

# Bytes of one CPU's value, by the pin of a per-CPU map.
STRIDES = {"cali_counters6": 216, "cali_rule_ctrs2": 8}


class Kernel:
    """The system calls of a reader, with the faults that the files in `control` describe."""

    def __init__(self, calls: Calls, control: Path):
        self._calls = calls
        self._control = control
        self._pins: dict[int, str] = {}
        self._copies = walk.possible_cpus()  # from the kernel's list, which `wrap` replaces later

    def calls(self) -> Calls:
        return Calls(**{one.name: self._call(one.name) for one in fields(Calls)})

    def _call(self, name: str) -> Callable[..., int]:
        real = getattr(self._calls, name)

        def call(*arguments):
            opening = name == "open_pin"
            pin = Path(os.fsdecode(arguments[0])).name if opening else self._pins.get(arguments[0], "")
            self._inject(name, pin)
            try:
                return self._opened(real(*arguments), pin) if opening else real(*arguments)
            finally:
                if name in ("lookup_batch", "lookup") and pin in STRIDES:
                    self._spread(pin, *arguments)

        return call

    def _opened(self, descriptor: int, pin: str) -> int:
        self._pins[descriptor] = pin
        return descriptor

    def _inject(self, name: str, pin: str) -> None:
        faults = self._control / "faults"
        for call, where, number in json.loads(faults.read_text()) if faults.exists() else ():
            if call == name and where in (pin, "*"):
                raise OSError(errno.__dict__[number], os.strerror(errno.__dict__[number]))
        paused, go = self._control / "paused", self._control / "go"
        if name == "lookup_batch" and pin == "cali_counters6" and paused.exists():
            paused.write_bytes(b"")  # blocks until a reader opens it
            go.read_bytes()  # blocks until a writer has closed it

    def _spread(self, pin: str, *arguments) -> None:
        """Gives every possible CPU a value, by repeating the kernel's."""
        copies = walk.possible_cpus()
        whole = len(arguments) > 3
        start, count = (arguments[4], arguments[5]._obj.value) if whole else (arguments[2], 1)
        entry = STRIDES[pin] * self._copies
        for number in reversed(range(count if copies != self._copies else 0)):
            written = ctypes.string_at(start + number * entry, entry)
            ctypes.memmove(
                start + number * STRIDES[pin] * copies, written * (copies // self._copies), STRIDES[pin] * copies
            )


def wrap(control: Path) -> None:
    real_calls, real_time = libbpf._calls, time.time_ns

    def wrong_time() -> int:
        clock = control / "clock"
        return real_time() + (int(clock.read_text()) * 10**9 if clock.exists() else 0)

    def calls(library: ctypes.CDLL) -> Calls:
        wrapped = Kernel(real_calls(library), control).calls()
        if (control / "possible").exists():
            walk.POSSIBLE = control / "possible"
        return wrapped

    libbpf._calls = calls
    # At once: a second later it could come between a test and its scrape.
    serving._read_maps_again = lambda scrapes: scrapes.read(lambda reading: reading.read(MAP_PARTS))
    time.time_ns, time.time = wrong_time, lambda: wrong_time() / 1e9


if __name__ == "__main__":
    wrap(Path(sys.argv.pop(1)))
    main()
