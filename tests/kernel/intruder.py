"""The exporter with somebody else's code in its process: `python -m tests.kernel.intruder PIN KEY ANSWERS serve ...`.

On SIGUSR1 that code tries, in the process as it is by then, what nobody in it may do to the entry KEY (hexadecimal) of
the map at PIN, and writes into the FIFO ANSWERS what the kernel said of each attempt: 0, or an errno.
"""

import ctypes
import json
import os
import platform
import signal
import struct
import sys
from pathlib import Path
from threading import Thread

from exporter.cli.main import main
from tests.kernel.pinned import READ_ONLY, open_pin

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
LOOKUP, UPDATE, DELETE, OBJ_GET = 1, 2, 3, 7
COMMANDS = 64  # more than any kernel knows
# The kernel uses the lower half of a command, a filter all of it.
LARGE = 1 << 32
LIBC = ctypes.CDLL(None, use_errno=True)


class Intruder:
    """Has had the map open for writing since before the exporter gave anything up."""

    def __init__(self, pin: Path, key: bytes):
        self.writable, self.read_only = open_pin(pin), open_pin(pin, READ_ONLY)
        self.path, self.key, self.value = (ctypes.create_string_buffer(one) for one in (bytes(pin), key, bytes(4096)))

    def attempts(self) -> dict[str, object]:
        return {
            "writable open": self.open(0),
            "read-only open": self.open(READ_ONLY),
            "lookup": self.touch(LOOKUP, self.read_only),
            "update": self.touch(UPDATE, self.writable),
            "update by a large number": self.touch(LARGE + UPDATE, self.writable),
            "delete": self.touch(DELETE, self.writable),
            "commands": [bpf(number, bytes(128)) for number in range(COMMANDS)],
            "root": os_error(os.setresuid, 0, 0, 0),
        }

    def open(self, flags: int) -> int:
        return bpf(OBJ_GET, struct.pack("=QII", ctypes.addressof(self.path), 0, flags))

    def touch(self, command: int, descriptor: int) -> int:
        key, value = ctypes.addressof(self.key), ctypes.addressof(self.value)
        whole = struct.pack("=IIQQQ", descriptor, 0, key, value, 0)
        return bpf(
            command, whole[:16] if command == DELETE else whole
        )  # what a command does not know must not be there


def bpf(command: int, attributes: bytes) -> int:
    result = LIBC.syscall(ctypes.c_long(BPF), ctypes.c_long(command), attributes, ctypes.c_long(len(attributes)))
    return ctypes.get_errno() if result < 0 else 0


def os_error(function, *arguments) -> int:
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0


def in_another_thread(ask) -> object:
    answers = []
    thread = Thread(target=lambda: answers.append(ask()))
    thread.start()
    thread.join()
    return answers[0]


if __name__ == "__main__":
    intruder, answers = (
        Intruder(Path(sys.argv.pop(1)), bytes.fromhex(sys.argv.pop(1))),
        os.open(sys.argv.pop(1), os.O_RDWR),
    )

    def intrude(*_: object) -> None:
        here, there = intruder.attempts(), in_another_thread(intruder.attempts)
        os.write(answers, json.dumps([here, there]).encode() + b"\n")

    signal.signal(signal.SIGUSR1, intrude)
    main()
