"""Sums per-CPU values of u64 counts over CPUs: all counts of a value at once, as one large integer.

Adding whole values takes a tenth of the time that adding each count takes, and needs no array library. It is exact
while no sum of counts can carry into the next count, which the highest bits of the values show; else each is added on
its own, modulo 2**64 as in C. A kernel has values for CPUs that could be there and are not; these are zero and come
last, so they are skipped together.
"""

import sys
from functools import reduce
from itertools import repeat
from operator import or_
from struct import Struct

_WORD = 8


class CpuSums:
    """Sums rows of `copies` values of `size` bytes each, a multiple of 8."""

    def __init__(self, copies: int, size: int) -> None:
        self._copies = copies
        self._size = size
        self._words = Struct(f"={size // _WORD}Q")
        # A sum of n values needs at most as many bits more as n has; a set one among these may carry.
        bits = copies.bit_length()
        high = (((1 << bits) - 1) << (8 * _WORD - bits)).to_bytes(_WORD, sys.byteorder)
        self._high = int.from_bytes(high * (size // _WORD), sys.byteorder)
        self._zero = bytes(size)
        self._skip_from(1)

    def rows(self, values: bytes | bytearray, count: int) -> bytes:
        """The sums of the first `count` rows of `values`, one value for each row."""
        size, order, number = self._size, sys.byteorder, int.from_bytes
        row, high = self._copies * size, self._high
        sums: list[bytes] = []
        for start in range(0, count * row, row):
            if self._tail and not values.startswith(self._tail, start + self._counting * size):
                self._skip_from(self._last_counting(values, start))
            pieces = self._heads.unpack_from(values, start)
            numbers = list(map(number, pieces, repeat(order)))
            if reduce(or_, numbers) & high:
                sums.append(self._exact(pieces))
            else:
                sums.append(sum(numbers).to_bytes(size, order))
        return b"".join(sums)

    def _exact(self, pieces: tuple[bytes, ...]) -> bytes:
        counts = zip(*map(self._words.unpack, pieces), strict=True)
        return self._words.pack(*[sum(each) % (1 << 8 * _WORD) for each in counts])

    def _skip_from(self, counting: int) -> None:
        """Takes the values of this many CPUs into each sum; those of all others must be zero."""
        self._counting = min(counting, self._copies)
        self._heads = Struct(f"{self._size}s" * self._counting)
        self._tail = bytes((self._copies - self._counting) * self._size)

    def _last_counting(self, values: bytes | bytearray, start: int) -> int:
        last = self._copies
        while values.startswith(self._zero, start + (last - 1) * self._size):
            last -= 1
        return last
