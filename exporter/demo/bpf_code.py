"""The BPF instructions in a policy debug file, as recordings of Calico v3.32.1 have them: real encodings of 8 bytes.

Knows instructions, labels and jumps; neither policies nor files. A packet's metadata is at R9, the context at R6.
The numbers of maps in the code are made up.
"""

import struct
from typing import Any

# Fields of the metadata: name to the opcode that loads it, its size and offset.
_FIELDS = {
    "ip_src": (0x61, "u32", 8),
    "sport": (0x69, "u16", 96),
    "post_nat_dport": (0x69, "u16", 102),
    "ip_proto": (0x71, "u8", 104),
    "rules_hit": (0x71, "u8", 108),
    "flags": (0x79, "u64", 368),
}
_STATE_MAP, _PROGRAMS_MAP, _IP_SETS_MAP = 11, 12, 13
_LOOKUP, _TAIL_CALL = (1, "call bpf_map_lookup_elem"), (12, "call bpf_tail_call")
_NOT_EQUAL, _EQUAL, _AT_LEAST, _ALWAYS = 0x55, 0x15, 0x35, 0x05
_EXIT = 0x95
_ALLOWED, _DENIED, _NO_PROGRAM = 1, 2, 10
# A packet's metadata can hold the ids of this many rules.
_MAX_HITS = 32


class Program:
    """Instructions with labels, comments and annotations; jumps go forward only.

    An instruction that nothing reaches is left out: its labels go with it, its comments wait for the next one.
    """

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._jumps: list[tuple[int, str]] = []
        self._indexes: dict[str, int] = {}
        self._labels: list[str] = []
        self._comments: list[str] = []
        self._reached = True

    def comment(self, text: str) -> None:
        """Adds a comment to the next instruction."""
        self._comments.append(text)

    def label(self, name: str) -> None:
        """Names the next instruction."""
        self._labels.append(name)

    def add(self, opcode: int, registers: int = 0, offset: int = 0, immediate: int = 0, note: str = "") -> bool:
        """Adds an instruction and says whether anything reaches it; `registers` has the source in its upper 4 bits."""
        labels, self._labels = self._labels, []
        if not self._reached and not {target for _, target in self._jumps}.intersection(labels):
            return False
        raw = struct.pack("<BBhI", opcode, registers, offset, immediate % 2**32)
        line = {"inst": list(raw), "labels": labels, "comments": self._comments, "annotation": note}
        self._indexes.update(dict.fromkeys(labels, len(self._lines)))
        self._comments = []
        self._lines.append({key: value for key, value in line.items() if value})
        self._reached = opcode not in {_ALWAYS, _EXIT}
        return True

    def jump(self, opcode: int, registers: int, immediate: int, target: str) -> None:
        """Adds a jump to a later label."""
        if self.add(opcode, registers, immediate=immediate, note=f"goto {target}"):
            self._jumps.append((len(self._lines) - 1, target))

    def load_immediate(self, registers: int, number: int) -> None:
        """Adds the pair of instructions that loads 64 bits."""
        self.add(0x18, registers, immediate=number % 2**32)
        self.add(0, immediate=number >> 32)

    def load(self, field: str) -> None:
        """Loads a field of the metadata into R1."""
        opcode, size, offset = _FIELDS[field]
        self.add(opcode, 0x91, offset, note=f"R1 = *({size} *)(R9 + {offset}) /* state->{field} */")

    def call(self, number: int, note: str) -> None:
        """Calls a helper of the kernel."""
        self.add(0x85, immediate=number, note=note)

    def finish(self) -> list[dict[str, Any]]:
        """The instructions as they are in the file, each jump with its distance."""
        for index, target in self._jumps:
            self._lines[index]["inst"][2:4] = struct.pack("<h", self._indexes[target] - index - 1)
        return self._lines


def write_header(program: Program) -> None:
    """Writes the header before all policy, which loads the metadata."""
    program.label("start")
    program.add(0xBF, 0x16)
    program.add(0xB7, 0x01)
    program.add(0x63, 0x1A, -4)
    program.add(0xBF, 0xA2)
    program.add(0x07, 0x02, immediate=-4)
    program.comment("Load packet metadata saved by previous program")
    program.load_immediate(0x11, _STATE_MAP)
    program.call(*_LOOKUP)
    program.jump(_EQUAL, 0x00, 0, "exit")
    program.comment("Save state pointer in register R9")
    program.add(0xBF, 0x09)
    program.label("policy")
    program.load("flags")
    program.add(0x57, 0x01, immediate=12)
    program.jump(_NOT_EQUAL, 0x01, 0, "allowed_by_host_policy")
    program.jump(_ALWAYS, 0x00, 0, "allowed_by_host_policy")
    program.label("allowed_by_host_policy")


def write_footer(program: Program) -> None:
    """Writes the footer after all policy: the verdicts."""
    program.label("deny")
    _write_verdict(program, _DENIED, 1)
    program.label("exit")
    _write_exit(program)
    program.label("allow")
    _write_verdict(program, _ALLOWED, 0)
    _write_result(program, _NO_PROGRAM)
    _write_exit(program)


def write_protocol_match(program: Program, protocol: int, no_match: str) -> None:
    """Goes to `no_match` unless the packet has this protocol.

    The number is IANA's; v3.32.1 itself compiles the name icmpv6 to 0, which matches no such packet.
    """
    program.load("ip_proto")
    program.jump(_NOT_EQUAL, 0x01, protocol, no_match)


def write_port_match(program: Program, port: int, matched: str, no_match: str) -> None:
    """Goes to `no_match` unless this is the destination port."""
    program.comment(f"If dest port is not within any of {{{port}}}, skip to next rule")
    program.load("post_nat_dport")
    program.jump(_EQUAL, 0x01, port, matched)
    program.comment("If dest port is not within any of the named ports {}, skip to next rule")
    program.jump(_ALWAYS, 0x00, 0, no_match)
    program.label(matched)


def write_source_match(program: Program, ip_set: int, version: int, no_match: str) -> None:
    """Goes to `no_match` unless the source is in this IP set.

    The key is built on the stack: its length in bits from -36, the set's number from -32, the address from -24, then
    port, protocol and a zero.
    """
    end = -24 + (4 if version == 4 else 16)
    program.add(0xB7, 0x01)
    program.add(0x73, 0x1A, end + 3)
    program.add(0xB7, 0x01, immediate=128 if version == 4 else 224)
    program.add(0x63, 0x1A, -36)
    if version == 4:
        program.load("ip_src")
        program.add(0x63, 0x1A, -24)
    else:
        for offset in (8, 16):
            program.add(0x79, 0x91, offset, note=f"R1 = *(u64 *)(R9 + {offset}) /* state->ip_src */")
            program.add(0x7B, 0x1A, offset - 32)
    program.load("sport")
    program.add(0x6B, 0x1A, end)
    program.load("ip_proto")
    program.add(0x73, 0x1A, end + 2)
    for offset, word in zip((-32, -28), struct.unpack("<2I", struct.pack(">Q", ip_set)), strict=True):
        program.add(0xB4, 0x01, immediate=word)
        program.add(0x63, 0x1A, offset)
    program.load_immediate(0x11, _IP_SETS_MAP)
    program.add(0xBF, 0xA2)
    program.add(0x07, 0x02, immediate=-36)
    program.call(*_LOOKUP)
    program.jump(_EQUAL, 0x00, 0, no_match)


def write_hit(program: Program, number: int, target: str) -> None:
    """Notes the id `number` in the metadata and goes to `target`."""
    program.load("rules_hit")
    program.jump(_AT_LEAST, 0x01, _MAX_HITS, target)
    program.add(0xBF, 0x12)
    program.add(0x07, 0x02, immediate=1)
    program.add(0x73, 0x29, 108, note="*(u8 *) (R9 + 108) /* state->rules_hit */ = R2")
    program.add(0x67, 0x01, immediate=3)
    program.add(0x07, 0x01, immediate=112)
    program.load_immediate(0x02, number)
    program.add(0x0F, 0x91)
    program.add(0x7B, 0x21, note="*(u64 *) (R1 + 0) /*  */ = R2")
    program.jump(_ALWAYS, 0x00, 0, target)


def _write_verdict(program: Program, result: int, word: int) -> None:
    _write_result(program, result)
    program.add(0xBF, 0x61)
    program.load_immediate(0x12, _PROGRAMS_MAP)
    offset = 48 + 4 * word
    program.add(0x61, 0x63, offset, note=f"R3 = *(u32 *)(R6 + {offset}) /* skb->cb[{word}] */")
    program.call(*_TAIL_CALL)


def _write_result(program: Program, result: int) -> None:
    program.add(0xB4, 0x01, immediate=result)
    program.add(0x63, 0x19, 92, note="*(u32 *) (R9 + 92) /* state->pol_rc */ = R1")


def _write_exit(program: Program) -> None:
    program.add(0xB7, 0x00, immediate=2)
    program.add(_EXIT)
