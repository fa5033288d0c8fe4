"""A policy program, ready to run: the instructions of a policy debug file, and what their annotations tell.

Where a field of the packet's state is differs by release, so the annotations tell:
`R1 = *(u16 *)(R9 + 102) /* state->post_nat_dport */`. A program ends with a tail call: its index is one of `skb->cb`,
or a number that a comment explains. A large policy is several programs, one after the other in the file.
`policy_machine.py` runs them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.calico.policy_file import Instruction
from exporter.errors import ExporterError

ALLOW, DENY, NO_MATCH = "allow", "deny", "no_match"  # no match: an XDP program leaves the packet to the tc program

PART_START = re.compile(r"##### Start of program \d+ #####")
_JUMP = re.compile(r"(?:(Allow|Deny) jump to|Tail call to policy program at index .* =) (\d+)")
_FIELD = re.compile(r"\*\(u(\d+) \*\) ?\(R9 \+ (\d+)\) /\* state->(\w+) \*/")


class NotKnown(ExporterError):
    """What the program does with the packet is not certain. The message is one sentence."""


@dataclass(frozen=True, slots=True)
class Program:
    """A policy program, ready to run.

    `code` are (opcode, destination, source, offset, immediate) in the order of the file; a program of several parts
    starts them at `parts`. `fields` are the offsets of the state's fields by name, `jumps` the tail calls that
    comments explain, by instruction: `allow`, `deny` or empty for the next part, and the index.
    """

    code: tuple[tuple[int, int, int, int, int], ...]
    parts: tuple[int, ...]
    fields: Mapping[str, int]
    jumps: Mapping[int, tuple[str, int]]
    xdp: bool


def program_of(instructions: Sequence[Instruction], *, xdp: bool) -> Program:
    """The program with these instructions. Raises `NotKnown`."""
    fields: dict[str, int] = {}
    parts, jumps = [0], {}
    for index, one in enumerate(instructions):
        for comment in one.comments:
            if PART_START.fullmatch(comment):
                parts.append(index)
            elif found := _JUMP.fullmatch(comment):
                jumps[index] = ((found[1] or "").lower(), int(found[2]))
        if noted := _FIELD.search(one.annotation):
            offset = int(noted[2])
            fields[noted[3]] = min(fields.get(noted[3], offset), offset)
    code = tuple(_decoded(one.code) for one in instructions)
    return Program(code, tuple(parts), fields, jumps, xdp)


def _decoded(raw: bytes) -> tuple[int, int, int, int, int]:
    offset, immediate = (int.from_bytes(raw[a:b], "little", signed=True) for a, b in ((2, 4), (4, 8)))
    return raw[0], raw[1] & 15, raw[1] >> 4, offset, immediate
