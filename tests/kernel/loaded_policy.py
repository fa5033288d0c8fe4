"""A policy program of Calico's, loaded with maps of a test's own.

Its instructions are those of a policy debug file, unchanged but for the descriptors of the maps; two programs stand in
place of Calico's that follow it.
"""

import re
import struct
from itertools import pairwise
from pathlib import Path

from tests.kernel.bpf_programs import ARRAY, LPM_TRIE, PROG_ARRAY, SCHED_CLS, XDP, execute, get, put
from tests.kernel.random_programs import STATE_SIZE, instruction

ALLOWED, DENIED = 71, 72  # results of the programs that follow
_ZERO = bytes(4)
_NEXT = re.compile(r"Tail call to policy program at index .* = (\d+)")
_ANY = re.compile(r"(Allow|Deny) jump to (\d+)")


class LoadedPolicy:
    """The program in the kernel. `maker` makes maps and programs, `ip_sets` are the keys of the IP-set map."""

    def __init__(self, maker, instructions, program, ip_sets, family):
        self._program = program
        self._kind = XDP if program.xdp else SCHED_CLS
        self.state = maker.map(ARRAY, 4, STATE_SIZE, 1)
        self._sets = maker.map(LPM_TRIE, 20 if family == 4 else 32, 4, 10_000)
        for key in ip_sets:
            put(self._sets, key, _ZERO)
        self._static, self._policies = (maker.map(PROG_ARRAY, 4, 4, size) for size in (8, 300_000))
        self._indexes = self._follow(maker, instructions)
        starts = [*program.parts, len(instructions)]
        parts = [instructions[start:end] for start, end in pairwise(starts)]
        following = [int(found[1]) for one in instructions for text in one.comments if (found := _NEXT.match(text))]
        self._parts = [maker.load(self._code(part), self._kind) for part in parts]
        for index, part in zip(following, self._parts[1:], strict=True):
            put(self._policies, struct.pack("=I", index), struct.pack("=I", part))

    def _follow(self, maker, instructions):
        """The programs that allow and deny, at the indexes that comments name, or at those of `skb->cb`."""
        texts = [text for one in instructions for text in one.comments]
        named = {found[1]: int(found[2]) for found in map(_ANY.match, texts) if found}
        indexes = [named.get("Allow", 3), named.get("Deny", 4)]
        for index, result in zip(indexes, (ALLOWED, DENIED), strict=True):
            code = instruction(0xB7, 0, immediate=result) + instruction(0x95)
            put(self._static, struct.pack("=I", index), struct.pack("=I", maker.load(code, self._kind)))
        return indexes

    def _code(self, part):
        """The instructions over this test's maps: the state's, IP sets, and the arrays of programs."""
        code, lookups = [], 0
        for index, one in enumerate(part):
            raw = one.code
            if raw[:2] == b"\x18\x11":
                raw = raw[:4] + struct.pack("<I", self._sets if lookups else self.state)
                lookups += 1
            elif raw[:2] == b"\x18\x12":
                continues = any(_NEXT.match(text) for text in part[index + 2].comments)
                raw = raw[:4] + struct.pack("<I", self._policies if continues else self._static)
            code.append(raw)
        return b"".join(code)

    def run(self, packet):
        """The result, and the state afterwards, for a packet whose state has these fields."""
        state = bytearray(STATE_SIZE)
        for name, offset in self._program.fields.items():
            value = packet.get(name, b"")
            state[offset : offset + len(value)] = value
        put(self.state, _ZERO, bytes(state))
        result = execute(self._parts[0], *self._indexes, xdp=self._program.xdp)
        return result, get(self.state, _ZERO, STATE_SIZE)

    def tags(self):
        """The kernel's tag of each part."""
        texts = [Path(f"/proc/self/fdinfo/{part}").read_text(encoding="ascii") for part in self._parts]
        return [re.search(r"^prog_tag:\s*(\w+)$", text, re.MULTILINE)[1] for text in texts]
