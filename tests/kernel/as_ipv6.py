"""The program that Felix would have written for IPv6, from one for IPv4: the same rules over embedded addresses.

An IPv4 address is the last word of an IPv6 one with the prefix `PREFIX`. What differs is what `writeCIDRSMatch` and
`setUpIPSetKey` in felix/bpf/polprog/pol_prog_builder.go write for IPv6, and the number of ICMP.
"""

import ipaddress
import re
import struct
from dataclasses import replace

from exporter.calico.policy_file import Instruction
from exporter.calico.protocols import ICMP, ICMP6
from tests.kernel.random_programs import instruction

PREFIX = ipaddress.ip_address("2001:db8:64::")
_WORDS = struct.unpack("<3I", PREFIX.packed[:12])
_JUMPS = (5, 6)
_NO_JUMPS = (0x85, 0x95)
_ADDRESS = re.compile(r"R1 = \*\(u32 \*\)\(R9 \+ (\d+)\) /\* state->(ip_src|\w+_ip_dst) \*/")


def address(text):
    """The IPv6 address that stands for an IPv4 one."""
    return str(PREFIX + int(ipaddress.ip_address(text)))


def ip_set_key(key):
    """The same member, or lookup, of the IPv6 map."""
    bits = int.from_bytes(key[:4], "little")
    longer = bits + 96 if bits > 64 else bits
    return longer.to_bytes(4, "little") + key[4:12] + PREFIX.packed[:12] + key[12:]


def as_ipv6(instructions):
    """The instructions for IPv6."""
    return _linked(list(_rewritten(instructions)))


def _rewritten(instructions):
    """Rows of the index of the instruction before, None for a new one, the instruction, and the index it jumps to."""
    index = 0
    while index < len(instructions):
        one = instructions[index]
        found = _ADDRESS.match(one.annotation)
        if found and instructions[index + 1].code[:2] == b"\xb4\x02":
            yield from _cidr(instructions, index, int(found[1]), found[2])
            index += 4
            continue
        yield (index, _shifted(one, instructions, index), _target(one, index))
        if found:
            yield from _address_in_key(instructions[index + 1], int(found[1]), found[2])
            index += 1
        index += 1


def _target(one, index):
    jumps = one.code[0] & 7 in _JUMPS and one.code[0] not in _NO_JUMPS
    return index + 1 + int.from_bytes(one.code[2:4], "little", signed=True) if jumps else None


def _cidr(instructions, index, offset, name):
    """Four words instead of one: the first three are those of the prefix, unless the mask is that of any address."""
    mask, expected = instructions[index + 1].code[4:], instructions[index + 3]
    words = [*_WORDS, int.from_bytes(expected.code[4:], "little")]
    masks = [*(3 * [0xFFFFFFFF]), int.from_bytes(mask, "little")]
    for number, (word, bits) in enumerate(zip(words, masks, strict=True)):
        place = offset + 4 * number
        note = f"R1 = *(u32 *)(R9 + {place}) /* state->{name} */"
        first = instructions[index] if number == 0 else Instruction(b"", (), (), "")
        load = replace(first, code=instruction(0x61, 1, 9, place), annotation=note)
        yield (index if number == 0 else None, load, None)
        yield (None, Instruction(instruction(0xB4, 2, immediate=bits), (), (), ""), None)
        yield (None, Instruction(instruction(0x5C, 2, 1), (), (), ""), None)
        last = number == len(words) - 1
        compare = instruction(0x16 if last else 0x56, 2, 0, 0, word)
        target = _target(expected, index + 3) if last else index + 4
        yield (None, replace(expected, code=compare, labels=(), comments=()), target)


def _address_in_key(store, offset, name):
    """The address in the key of an IP set: two double words, the first load of which has just been written."""
    key = int.from_bytes(store.code[2:4], "little", signed=True)
    note = f"R1 = *(u64 *)(R9 + {offset + 8}) /* state->{name} */"
    yield (None, Instruction(instruction(0x7B, 10, 1, key), (), (), ""), None)
    yield (None, Instruction(instruction(0x79, 1, 9, offset + 8), (), (), note), None)
    yield (None, Instruction(instruction(0x7B, 10, 1, key + 8), (), (), ""), None)


def _shifted(one, instructions, index):
    """An instruction that has another number for IPv6."""
    code, before = one.code, instructions[index - 1]
    if _ADDRESS.match(one.annotation):
        note = one.annotation.replace("u32", "u64")
        return replace(one, code=instruction(0x79)[:1] + code[1:], annotation=note)
    if code[:2] == b"\xb7\x01" and int.from_bytes(code[4:], "little") == 128:
        return replace(one, code=code[:4] + struct.pack("<I", 224))
    if code[:1] in (b"\x6b", b"\x73") and code[1:2] == b"\x1a":  # port, protocol and padding of a key
        place = int.from_bytes(code[2:4], "little", signed=True)
        return replace(one, code=code[:2] + struct.pack("<h", place + 12) + code[4:])
    if "state->ip_proto" in before.annotation and code[:1] in (b"\x55", b"\x15") and code[4] == ICMP:
        return replace(one, code=code[:4] + struct.pack("<I", ICMP6))
    return one


def _linked(rows):
    """The instructions with the distances of their jumps."""
    place_of = {old: place for place, (old, _, _) in enumerate(rows) if old is not None}
    place_of[max(place_of) + 1] = len(rows)
    linked = []
    for place, (_, one, target) in enumerate(rows):
        code = one.code
        if target is not None:
            code = code[:2] + struct.pack("<h", place_of[target] - place - 1) + code[4:]
        linked.append(replace(one, code=code))
    return linked
