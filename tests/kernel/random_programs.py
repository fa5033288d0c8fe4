"""Random programs of the subset that Felix emits, which end: jumps go forward, and every register has a value.

A program begins like Felix's, with the packet's state at R9, and ends by writing R0 to R8 behind `REGISTERS` of it.
"""

import struct
from dataclasses import dataclass

from hypothesis import strategies as st

STATE_SIZE, REGISTERS = 512, 432
_STACK_TOP, _WORDS = -8, 12  # the stack's double words that have a value, from here downwards
_IMMEDIATE, _REGISTER = 0x00, 0x08
ALU = {"add": 0x00, "or": 0x40, "and": 0x50, "lsh": 0x60, "rsh": 0x70, "xor": 0xA0, "mov": 0xB0, "arsh": 0xC0}
JUMPS = {
    "eq": 0x10,
    "gt": 0x20,
    "ge": 0x30,
    "set": 0x40,
    "ne": 0x50,
    "sgt": 0x60,
    "sge": 0x70,
    "lt": 0xA0,
    "le": 0xB0,
    "slt": 0xC0,
    "sle": 0xD0,
}
SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_SHIFTS = ("lsh", "rsh", "arsh")
# Every opcode of the subset: ALU and jumps of both widths and operands, byte swaps, loads and stores, and the rest.
OPCODES = {kind | source | code for kind in (4, 7) for source in (0, 8) for code in ALU.values()}
OPCODES |= {kind | source | code for kind in (5, 6) for source in (0, 8) for code in JUMPS.values()}
OPCODES |= {0xD4, 0xDC, 0x05, 0x18, 0x85, 0x95} | {kind | size for kind in (0x61, 0x63) for size in SIZES.values()}


def instruction(opcode, to=0, source=0, offset=0, immediate=0):
    return struct.pack("<BBhI", opcode, source << 4 | to, offset, immediate & 0xFFFFFFFF)


def load_64(to, number, source=0):
    return instruction(0x18, to, source, immediate=number & 0xFFFFFFFF) + instruction(0, immediate=number >> 32)


def header(state_map):
    """What every program of Felix's begins with: the state's lookup."""
    return b"".join(
        (
            instruction(0xBF, 6, 1),
            instruction(0xB7, 1),
            instruction(0x63, 10, 1, -4),
            instruction(0xBF, 2, 10),
            instruction(0x07, 2, immediate=-4),
            load_64(1, state_map, 1),
            instruction(0x85, immediate=1),
            instruction(0x55, 0, offset=2),
            instruction(0xB7, 0, immediate=2),
            instruction(0x95),
            instruction(0xBF, 9, 0),
        )
    )


@dataclass(frozen=True)
class Lookup:
    """A chunk that looks an address up in the IP-set map: R0 becomes whether it is there."""

    address: int
    bits: int


registers, wide = st.integers(0, 8), st.integers(0, 2**64 - 1)
# Numbers at the edges of every width are likelier to differ.
edges = st.sampled_from([0, 1, 0x7F, 0x80, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1])
numbers = edges | wide
immediates = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 255, 65535]) | st.integers(-(2**31), 2**31 - 1)


@st.composite
def _alu(draw):
    name, kind, source = (
        draw(st.sampled_from(sorted(ALU))),
        draw(st.sampled_from([4, 7])),
        draw(st.sampled_from([0, 8])),
    )
    immediate = 0 if source else draw(immediates)
    if name in _SHIFTS and not source:
        immediate = draw(st.integers(0, 63 if kind == 7 else 31))
    return instruction(ALU[name] | source | kind, draw(registers), draw(registers) if source else 0, 0, immediate)


@st.composite
def _swap(draw):
    return instruction(draw(st.sampled_from([0xD4, 0xDC])), draw(registers), 0, 0, draw(st.sampled_from([16, 32, 64])))


@st.composite
def _memory(draw):
    size, store = draw(st.sampled_from(sorted(SIZES))), draw(st.booleans())
    if draw(st.booleans()):
        base, place = 9, draw(st.integers(0, REGISTERS // size - 1)) * size
    else:
        base, place = (
            10,
            _STACK_TOP - draw(st.integers(0, _WORDS * 8 // size - 1)) * size - (size - 8 if size < 8 else 0),
        )
        place = max(place, -8 * _WORDS)
    to, source = (base, draw(registers)) if store else (draw(registers), base)
    return instruction((0x63 if store else 0x61) | SIZES[size], to, source, place)


@st.composite
def _jump(draw):
    """A jump over some of the chunks that follow, which stand in the list as (code, their number)."""
    name, kind, source = (
        draw(st.sampled_from(sorted(JUMPS))),
        draw(st.sampled_from([5, 6])),
        draw(st.sampled_from([0, 8])),
    )
    immediate = 0 if source else draw(immediates)
    over = draw(st.integers(0, 6))
    return instruction(
        JUMPS[name] | source | kind, draw(registers), draw(registers) if source else 0, 0, immediate
    ), over


@st.composite
def _always(draw):
    """An unconditional jump, behind one that can jump over it: the verifier refuses what nothing reaches."""
    over = draw(st.integers(0, 6))
    return instruction(0x15, draw(registers), 0, 1, draw(immediates)), instruction(0x05), over


_lookups = st.builds(
    Lookup, st.integers(0, 2**32 - 1) | st.sampled_from([0x0A000001, 0x0A000102, 0xC0A80101]), st.integers(64, 128)
)
_chunks = st.one_of(
    _alu(),
    _alu(),
    _alu(),
    _swap(),
    _memory(),
    _memory(),
    _jump(),
    _always(),
    _lookups,
    st.builds(load_64, registers, numbers),
)


@st.composite
def programs(draw):
    """The values of R0 to R8 and of the stack to start with, and the chunks of a program."""
    start = [draw(numbers) for _ in range(9 + _WORDS)]
    return start, draw(st.lists(_chunks, min_size=20, max_size=60))


def assemble(start, chunks, state_map, ip_sets):
    """The code of such a program over these maps."""
    body = [_lookup(one, ip_sets) if isinstance(one, Lookup) else one for one in chunks]
    sizes = [len(_code(one)) // 8 for one in body]
    code = [header(state_map)]
    for number in range(_WORDS):
        code += [load_64(0, start[9 + number]), instruction(0x7B, 10, 0, _STACK_TOP - 8 * number)]
    code += [load_64(register, start[register]) for register in range(9)]
    for index, one in enumerate(body):
        if isinstance(one, bytes):
            code.append(one)
            continue
        distance = sum(sizes[index + 1 : index + 1 + one[-1]])
        code += [*one[:-2], _with_offset(one[-2], distance)]
    code += [instruction(0x7B, 9, register, REGISTERS + 8 * register) for register in range(9)]
    return b"".join((*code, instruction(0xB7, 0, immediate=2), instruction(0x95)))


def _code(chunk):
    return chunk if isinstance(chunk, bytes) else b"".join(chunk[:-1])


def _with_offset(raw, offset):
    return raw[:2] + struct.pack("<h", offset) + raw[4:]


def _lookup(one, ip_sets):
    """Builds a key of 20 bytes below the stack's words, looks it up, and gives all lost registers a value again."""
    key = _STACK_TOP - 8 * _WORDS - 24
    raw = struct.pack("<I", one.bits) + struct.pack(">QI", 1, one.address) + bytes(4)
    stores = [
        piece
        for number, (word,) in enumerate(struct.iter_unpack("<I", raw))
        for piece in (instruction(0xB4, 1, immediate=word), instruction(0x63, 10, 1, key + 4 * number))
    ]
    call = [
        load_64(1, ip_sets, 1),
        instruction(0xBF, 2, 10),
        instruction(0x07, 2, immediate=key),
        instruction(0x85, immediate=1),
    ]
    found = [instruction(0x15, 0, offset=1), instruction(0xB7, 0, immediate=1)]
    return b"".join([*stores, *call, *found, *(load_64(register, register) for register in range(1, 6))])
