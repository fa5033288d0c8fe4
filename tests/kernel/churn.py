"""A writer that creates, changes and deletes keys of a pinned map for as long as it lives: run as a process."""

import random
import struct
import sys
from pathlib import Path

from tests.kernel.pinned import cpus, delete, open_pin, put

# Keys from this number on come and go; those below it are never touched.
FIRST_CHURNING = 1_000_000


def value_of(key: int, slots: int) -> bytes:
    """The value that belongs to a key, on every CPU: a read that mixes two entries is found out."""
    return struct.pack(f"={slots}Q", *[key * 1000 + slot for slot in range(slots)])


def churn(pin: Path, keys: int, slots: int) -> None:
    descriptor = open_pin(pin)
    chance = random.Random(1)
    names = [struct.pack("=Q", FIRST_CHURNING + number) for number in range(keys)]
    values = [value_of(FIRST_CHURNING + number, slots) * cpus() for number in range(keys)]
    there = [False] * keys
    sys.stdout.write("started\n")
    sys.stdout.flush()
    while True:
        number = chance.randrange(keys)
        if there[number]:
            delete(descriptor, names[number])
        else:
            put(descriptor, names[number], values[number])
        there[number] = not there[number]


if __name__ == "__main__":
    churn(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
