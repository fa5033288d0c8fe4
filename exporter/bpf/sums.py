"""Sums per-CPU values of u64 counts over CPUs: the values of a CPU in several rows at once, as one large integer.

Adding large integers takes a tenth of the time that adding each count takes, and needs no array library. It is exact
while no sum of counts can carry into the next count, which the highest bits of the values show; else each is added on
its own, modulo 2**64 as in C. A kernel has values for CPUs that could be there and are not; these are zero and come
last, so they are skipped together.
"""

import sys
from functools import reduce
from itertools import chain
from operator import or_
from struct import Struct

_WORD = 8
# More save no time with two CPUs, and with many the values leave the CPU's caches.
_ROWS = 32


class CpuSums:
    """Sums rows of `copies` values of `size` bytes each, a multiple of 8."""

    def __init__(self, copies: int, size: int) -> None:
        self._copies = copies
        self._size = size
        self._words = Struct(f"={size // _WORD}Q")
        # A sum of n values needs at most as many bits more as n has; a set one among these may carry.
        bits = copies.bit_length()
        high = (((1 << bits) - 1) << (8 * _WORD - bits)).to_bytes(_WORD, sys.byteorder)
        self._high = int.from_bytes(high * (size // _WORD * _ROWS), sys.byteorder)
        self._zero = bytes(size)
        self._skip_from(1)

    def rows(self, values: bytes | bytearray, count: int) -> bytes:
        """The sums of the first `count` rows of `values`, one value for each row."""
        row = self._copies * self._size
        with memoryview(values) as view:
            sums: list[bytes] = []
            for first in range(0, count, _ROWS):
                start, end = first * row, min(first + _ROWS, count) * row
                if self._tail:
                    self._count_all(values, range(start, end, row))
                sums.append(self._sum_of(view[start:end]))
            return b"".join(sums)

    def _sum_of(self, rows: memoryview) -> bytes:
        order = sys.byteorder
        columns = (b"".join(chain.from_iterable(one.iter_unpack(rows))) for one in self._columns)
        numbers = [int.from_bytes(column, order) for column in columns]
        if reduce(or_, numbers) & self._high:
            return b"".join([self._exact(pieces) for pieces in self._heads.iter_unpack(rows)])
        return sum(numbers).to_bytes(len(rows) // self._copies, order)

    def _exact(self, pieces: tuple[bytes, ...]) -> bytes:
        counts = zip(*map(self._words.unpack, pieces), strict=True)
        return self._words.pack(*[sum(each) % (1 << 8 * _WORD) for each in counts])

    def _count_all(self, values: bytes | bytearray, starts: range) -> None:
        """Takes into account the CPUs that count in one of the rows at `starts` and did not before."""
        for start in starts:
            if not values.startswith(self._tail, start + self._counting * self._size):
                self._skip_from(self._last_counting(values, start))

    def _skip_from(self, counting: int) -> None:
        """Takes the values of this many CPUs into each sum; those of all others must be zero."""
        size, copies = self._size, self._copies
        self._counting = min(counting, copies)
        self._tail = bytes((copies - self._counting) * size)
        # The value of each CPU in a row, and all of them.
        self._columns = [Struct(f"{cpu * size}x{size}s{(copies - cpu - 1) * size}x") for cpu in range(self._counting)]
        self._heads = Struct(f"{size}s" * self._counting + f"{len(self._tail)}x")

    def _last_counting(self, values: bytes | bytearray, start: int) -> int:
        last = self._copies
        while values.startswith(self._zero, start + (last - 1) * self._size):
            last -= 1
        return last
